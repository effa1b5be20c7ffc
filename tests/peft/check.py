# SPDX-License-Identifier: MIT
"""Real PEFT against this library, on a tiny Llama with random weights. For every kind of adapter that PEFT saves:

- finetune_lm loads PEFT's directory and gives PEFT's logits, or refuses it and names the setting;
- rewrite (rewrite.cpp) reads it and writes it again, and PEFT gives the same logits with the copy.

    check.py <finetune_lm> <rewrite>        exit code 77 without torch, transformers and peft
"""
import json
import pathlib
import subprocess
import sys
import tempfile

try:
    import torch
    import transformers
    from peft import LoraConfig, PeftModel, get_peft_model
    from safetensors.torch import load_file
except ImportError as error:
    print(f"not run: {error}")
    sys.exit(77)

TOLERANCE = 1e-5  # of the largest logit, in float32
LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
PATTERNS = {"rank_pattern": {r".*layers\.[01]\.self_attn\.(q|k)_proj": 2, "^model.layers.1.mlp.up_proj": 6},
            "alpha_pattern": {r"model\.layers\.\d+\.mlp\..*": 3, "self.attn.v_proj": 20, "v_proj": 1}}
# Settings, and whether the directory can be written again: the writer has LoRA, DoRA, saved modules and biases.
KINDS = {
    "plain": ({}, True),
    "rslora": ({"use_rslora": True}, True),
    "patterns": (PATTERNS, True),
    "patterns, rslora": ({**PATTERNS, "use_rslora": True}, True),
    "dora": ({"use_dora": True}, True),
    "dora, patterns": ({"use_dora": True, "rank_pattern": {"q_proj": 2}}, True),
    "modules_to_save": ({"modules_to_save": ["lm_head", "norm"]}, True),
    "bias": ({"bias": "lora_only"}, True),
    "eva": ({"init_lora_weights": "eva"}, True),
    "lm_head": ({"target_modules": ["lm_head", "q_proj"]}, False),
    "lora_bias": ({"lora_bias": True}, False),
    "embedding": ({"target_modules": ["embed_tokens", "q_proj"], "use_rslora": True}, False),
    "trainable tokens": ({"trainable_token_indices": [3, 7]}, False),
    "trainable tokens by name": ({"trainable_token_indices": {"embed_tokens": [3, 7]}}, False),
}
REFUSED = {"pissa": ({"init_lora_weights": "pissa"}, "init_lora_weights"),
           "olora": ({"init_lora_weights": "olora"}, "init_lora_weights"),
           "layer_replication": ({"layer_replication": [[0, 2], [1, 2]]}, "layer_replication")}
DOCUMENTS = [[5, 47, 10, 61, 36, 8], [58, 3, 25, 55, 7]]


def base(folder):
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def logits(model):
    with torch.no_grad():
        return torch.cat([model(input_ids=torch.tensor([ids])).logits[0] for ids in DOCUMENTS])


def with_adapter(folder, *adapters):
    """PEFT's logits with one directory, or with the sum of several."""
    model = PeftModel.from_pretrained(base(folder), adapters[0], adapter_name="0")
    for i, adapter in enumerate(adapters[1:], 1):
        model.load_adapter(adapter, adapter_name=str(i))
    model.base_model.set_adapter([str(i) for i in range(len(adapters))])
    return logits(model.eval())


def save(folder, settings, to):
    """A directory of PEFT with random parameters."""
    settings = {"r": 4, "lora_alpha": 8, "target_modules": LINEARS, "task_type": "CAUSAL_LM", **settings}
    model = get_peft_model(base(folder), LoraConfig(**settings))
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.05 * torch.randn_like(parameter)
    model.save_pretrained(to)


def main(finetune_lm, rewrite):
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.manual_seed(1)
    scratch = pathlib.Path(tempfile.mkdtemp())
    failures, largest = [], {"read": 0.0, "written": 0.0}
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, attention_bias=True, initializer_range=0.3, tie_word_embeddings=False))
    model.save_pretrained(scratch / "model")
    (scratch / "batch.json").write_text(json.dumps({"documents": [
        {"ids": ids, "labels": [-100] + ids[1:]} for ids in DOCUMENTS]}))

    def compare(what, name, found, expected):
        error = ((found - expected).abs().max() / expected.abs().max()).item()
        largest[what] = max(largest[what], error)
        print(f"{name}: {what}, {error:.1e}")
        if not error <= TOLERANCE:
            failures.append(f"{name}: {what}, {error:.1e}")

    def ours(adapter):
        out = scratch / "logits.safetensors"
        run = subprocess.run([finetune_lm, "logits", "--model", scratch / "model", "--adapter", adapter, "--batch",
                              scratch / "batch.json", "--out", out], capture_output=True, text=True)
        return (load_file(out)["logits"], "") if run.returncode == 0 else (None, run.stderr)

    plain, again = None, None
    for name, (settings, is_written) in KINDS.items():
        adapter, copy = scratch / name, scratch / f"{name} again"
        save(scratch / "model", settings, adapter)
        expected = with_adapter(scratch / "model", adapter)
        found, message = ours(adapter)
        if found is None:
            failures.append(f"{name}: {message}")
            continue
        compare("read", name, found, expected)
        if is_written:
            subprocess.run([rewrite, adapter, copy], check=True)
            compare("written", name, with_adapter(scratch / "model", copy), expected)
            if name == "patterns":
                plain, again = (scratch / "plain", adapter), (scratch / "plain again", copy)
    compare("written", "two adapters", with_adapter(scratch / "model", *again), with_adapter(scratch / "model", *plain))
    for name, (settings, reason) in REFUSED.items():
        save(scratch / "model", settings, scratch / name)
        found, message = ours(scratch / name)
        if found is not None or reason not in message:
            failures.append(f"{name}: {message or 'was read'}, expected a message with {reason}")
    print(f"PEFT {__import__('peft').__version__}, torch {torch.__version__}: {len(KINDS)} kinds read, "
          f"largest difference {largest['read']:.1e}; written, {largest['written']:.1e}; {len(REFUSED)} refused")
    sys.exit("\n".join(failures) if failures else 0)


if __name__ == "__main__":
    main(*sys.argv[1:])
