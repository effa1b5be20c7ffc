#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Measures training steps of a language model, and writes the section "Language model" of docs/benchmarks.md.

language_model.py --program build/bench/bench/language_model_benchmark --python PYTHON_WITH_TORCH_TRANSFORMERS_PEFT

Every run is a process of its own. All rows take turns, and so do the programs within a row.
"""
import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import page
import run

FLOAT, HALF = "float32", "bfloat16"
SHORT, LONG = 3, 40  # runs of all rows but the first; seconds of a run that is not repeated
COLD = "--warm-up 0 --steps 1"  # of steps that take a minute
# table, row, column, our options, and the types in which PyTorch does the same
ROWS = [
    ("step", "LoRA", "ours", "", (FLOAT, HALF)),
    ("step", "LoRA, oneDNN", "ours", "--engine onednn", (FLOAT,)),
    ("step", "LoRA, bfloat16 base", "ours", "--base bfloat16", ()),
    ("step", "LoRA, bfloat16 base, oneDNN with two terms", "ours", "--base bfloat16 --engine onednn", (HALF,)),
    ("step", "LoRA, bfloat16 base, oneDNN with one term", "ours", "--base bfloat16 --engine onednn-one-term", (HALF,)),
    ("step", "LoRA, bfloat16 base, gradient checkpointing", "ours", "--base bfloat16 --checkpointing --steps 1", ()),
    ("step", "LoRA, NF4 base", "ours", "--base nf4", ()),
    ("step", "LoRA, Q4_1 base (GGUF)", "ours", "--base Q4_1", ()),
    ("step", "LoRA, Q4_1 base (GGUF), gradient checkpointing", "ours", "--base Q4_1 --checkpointing --steps 1", ()),
    ("step", "LoRA, gradient checkpointing", "ours", "--checkpointing --steps 1", (FLOAT,)),
    ("step", "HydraLoRA of 3 heads", "ours", "--method hydra", ()),
    ("step", "full fine-tuning", "ours", "--method full --steps 1", (FLOAT,)),
    ("growth", "135 million, 512 tokens", "ours", "--steps 1", ()),
    ("growth", "135 million, 1024 tokens", "ours", COLD + " --tokens 1024", ()),
    ("growth", "135 million, 2048 tokens", "ours", COLD + " --tokens 2048", ()),
    ("growth", "135 million, 4096 tokens", "ours", COLD + " --tokens 4096", ()),
    ("growth", "1100 million, 512 tokens", "ours", COLD + " --shape 1.1b", ()),
    ("growth", "1100 million, 512 tokens, Q4_K base (GGUF)", "ours", COLD + " --shape 1.1b --base Q4_K", ()),
    ("threads", "LoRA, tokens/s", "one", "--steps 1", ()),
    ("threads", "multiply-add loop, GFLOP/s", "one", "--multiply-add", ()),
    ("threads", "LoRA, tokens/s", "two", "--threads 2 --steps 1", ()),
    ("threads", "multiply-add loop, GFLOP/s", "two", "--threads 2 --multiply-add", ()),
    ("threads", "LoRA, tokens/s", "two, disturbed", "--threads 2 --steps 1", ()),
    ("threads", "multiply-add loop, GFLOP/s", "two, disturbed", "--threads 2 --multiply-add", ()),
]


def peer(o):
    """What language_model.cpp does, with PyTorch and PEFT."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM
    torch.set_num_threads(o.threads)
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(  # SmolLM2-135M
        vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
        num_key_value_heads=3, tie_word_embeddings=True, max_position_embeddings=8192))
    if o.method == "lora":
        linears = [name + "_proj" for name in ("q", "k", "v", "o", "gate", "up", "down")]
        model = get_peft_model(model, LoraConfig(r=8, lora_alpha=16, target_modules=linears))
    model = model.to(getattr(torch, o.type))
    if o.checkpointing:
        model.gradient_checkpointing_enable()
        model.enable_input_require_grads()
    model.train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0)
    ids = torch.tensor([[(t * 7919 + 13) % 49152 for t in range(o.tokens)]])
    labels = ids.clone()
    labels[:, :o.tokens - int(o.labelled * o.tokens)] = -100

    def step():
        optimizer.zero_grad()
        loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        return loss.item()

    def timed(steps):
        start, cpu = time.perf_counter(), time.process_time()
        for _ in range(steps):
            loss = step()
        return time.process_time() - cpu, time.perf_counter() - start, loss, o.tokens * steps
    cpu, seconds, loss, tokens = timed(1)  # makes room, and starts the threads
    if cpu < 30:  # bfloat16 takes minutes where the processor does not know it: that step counts itself
        cpu, seconds, loss, tokens = timed(o.steps)
    print(json.dumps({"tokens_per_cpu_second": tokens / cpu, "loss": loss, "tokens_per_second": tokens / seconds,
                      "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))


def versions(python):
    """Of the other programs; empty where they are missing."""
    names = "torch", "transformers", "peft"
    found = ", ".join(f"{name}={name}.__version__" for name in names)
    code = f"import json, {', '.join(names)}; print(json.dumps(dict({found})))"
    done = subprocess.run(["env", python, "-c", code], capture_output=True, text=True)
    if done.returncode != 0:
        print(f"PyTorch is left out: {python} has not all of {', '.join(names)}")
        return {}
    return json.loads(done.stdout)


def measure(command, disturbed):
    environment = {**os.environ, "OMP_WAIT_POLICY": "passive"}  # as finetune_lm sets it
    other = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if disturbed else None
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
    finally:
        if other:
            other.kill()
            other.wait()
    if "does not run here" in done.stderr:
        return None
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", help="language_model_benchmark")
    parser.add_argument("--python", default=sys.executable, help="an interpreter with torch, transformers and peft")
    parser.add_argument("--runs", type=int, default=7, help="of LoRA; others have at most 3")
    parser.add_argument("--only", default="", help="a part of the names of tables and rows")
    parser.add_argument("--docs", default=run.SOURCE / "docs", type=Path, help="where the page is")
    parser.add_argument("--peer", action="store_true", help="measure PyTorch, here")
    parser.add_argument("--method", default="lora")
    parser.add_argument("--type", default=FLOAT)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--labelled", type=float, default=1)
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--engine", help="of ours")
    o = parser.parse_args()
    if o.peer:
        return peer(o)
    if not o.program:
        parser.error("--program is missing")

    context = {"commit": run.commit(), **versions(o.python)}
    entries = []  # [runs to do, command, entry]
    for table, row, column, arguments, types in ROWS:
        if o.only not in f"{table} {row}":
            continue
        if "onednn" in arguments and measure([o.program, "--shape", "tiny"] + arguments.split(), False) is None:
            print(f"{row} is left out: the program, or this processor, has not what it needs")
            continue
        count = o.runs if row == "LoRA" else min(o.runs, SHORT)
        programs = {column: [o.program]}
        if context.get("torch"):
            programs.update({f"PyTorch {kind}": [o.python, __file__, "--peer", "--type", kind] for kind in types})
        for name, command in programs.items():
            entries.append((count, command + arguments.split(), {"table": table, "row": row, "column": name}))
    for turn in range(o.runs):
        for count, command, entry in entries:
            if turn >= count or entry.get("seconds", 0) > LONG:
                continue
            start = time.monotonic()
            for key, value in measure(command, "disturbed" in entry["column"]).items():
                entry.setdefault(key, []).append(page.four_digits(value))
            entry["seconds"] = round(time.monotonic() - start)
            print(turn + 1, json.dumps(entry), flush=True)
    page.write(o.docs / "benchmarks_language_model.json", page.dump_language_model(context, [e[2] for e in entries]))
    with tempfile.TemporaryDirectory() as plots:
        drawn = (o.docs / "benchmarks_peers.svg").exists()
        page.write_page(o.docs / "benchmarks.json", o.docs / "benchmarks.md", plots if drawn else None)
    print(f"{o.docs}/benchmarks.md written")


if __name__ == "__main__":
    main()
