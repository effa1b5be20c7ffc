#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
#
# Adapters as Python trainers save them, and what PyTorch computes with them. The files beside it are its output:
#   python3 make_adapters.py        (Debian: python3-torch)
import json
import math
import os
import struct

import torch

DTYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.float64: "F64"}


def save_safetensors(path, tensors, metadata=None):
    """The format in twenty lines: header length, JSON header, the tensors' bytes in the order of the header."""
    header, data = {}, b""
    if metadata:
        header["__metadata__"] = metadata
    for name in sorted(tensors, key=lambda n: (-tensors[n].element_size(), n)):
        tensor = tensors[name].contiguous()
        raw = bytes(tensor.flatten().view(torch.uint8).tolist()) if tensor.numel() else b""
        header[name] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape),
                        "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + data)


def save_adapter(folder, config, tensors, modules):
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "adapter_config.json"), "w") as file:
        json.dump(config, file, indent=2, sort_keys=True)
    save_safetensors(os.path.join(folder, "adapter_model.safetensors"), tensors, {"format": "pt"})
    save_safetensors(os.path.join(folder, "expected.safetensors"), modules)


def config(rank, alpha, **more):
    """The keys of a PEFT adapter_config.json."""
    settings = {"auto_mapping": None, "base_model_name_or_path": "made/up", "bias": "none", "fan_in_fan_out": False,
                "inference_mode": True, "init_lora_weights": True, "layers_pattern": None,
                "layers_to_transform": None, "loftq_config": {}, "lora_alpha": alpha, "lora_dropout": 0.05,
                "megatron_config": None, "megatron_core": "megatron.core", "modules_to_save": None,
                "peft_type": "LORA", "r": rank, "rank_pattern": {}, "alpha_pattern": {}, "revision": None,
                "target_modules": ["q_proj", "up_proj"], "task_type": "CAUSAL_LM", "use_dora": False,
                "use_rslora": False}
    settings.update(more)
    return settings


def random(*shape):
    return torch.randn(*shape) / math.sqrt(shape[-1])


torch.manual_seed(7)
here = os.path.dirname(os.path.abspath(__file__))
tokens = 6
modules = {"model.layers.0.self_attn.q_proj": (12, 12, 4), "model.layers.0.mlp.up_proj": (12, 31, 3)}

# PEFT LoRA, rank-stabilised, another rank for one module.
tensors, expected = {}, {}
for name, (n_in, n_out, rank) in modules.items():
    A, B, x = random(rank, n_in), random(n_out, rank), torch.randn(tokens, n_in)
    tensors[f"base_model.model.{name}.lora_A.weight"] = A
    tensors[f"base_model.model.{name}.lora_B.weight"] = B
    scaling = 16 / math.sqrt(rank)
    expected[f"{name}.x"] = x
    expected[f"{name}.y"] = scaling * torch.nn.functional.linear(torch.nn.functional.linear(x, A), B)
save_adapter(os.path.join(here, "lora"), config(4, 16, use_rslora=True, rank_pattern={"up_proj": 3}), tensors, expected)

# HydraLoRA: one A, N routed B.
for folder, heads, dtype in (("hydra_lora", 3, torch.float32), ("hydra_lora_bf16", 11, torch.bfloat16)):
    tensors, expected = {}, {}
    for name, (n_in, n_out, _) in modules.items():
        rank = 4
        A, route, x = random(rank, n_in).to(dtype), torch.randn(heads, n_in).to(dtype), torch.randn(tokens, n_in)
        B = [random(n_out, rank).to(dtype) for _ in range(heads)]
        tensors[f"base_model.model.{name}.lora_A.weight"] = A
        tensors[f"base_model.model.{name}.lora_route.weight"] = route
        for i in range(heads):
            tensors[f"base_model.model.{name}.lora_B{i}.weight"] = B[i]
        weights = torch.softmax(x @ route.float().T, dim=-1)
        h = x @ A.float().T
        y = sum(weights[:, i:i + 1] * (h @ B[i].float().T) for i in range(heads))
        expected[f"{name}.x"], expected[f"{name}.y"] = x, 32 / rank * y
    save_adapter(os.path.join(here, folder), config(4, 32, lora_nums=heads), tensors, expected)

# LoRAMoE: N routed pairs.
heads, rank = 2, 4
tensors, expected = {}, {}
for name, (n_in, n_out, _) in modules.items():
    A, B = [random(rank, n_in) for _ in range(heads)], [random(n_out, rank) for _ in range(heads)]
    route, x = torch.randn(heads, n_in), torch.randn(tokens, n_in)
    for i in range(heads):
        tensors[f"base_model.model.{name}.lora_A{i}.weight"] = A[i]
        tensors[f"base_model.model.{name}.lora_B{i}.weight"] = B[i]
    tensors[f"base_model.model.{name}.lora_route.weight"] = route
    weights = torch.softmax(x @ route.T, dim=-1)
    y = sum(weights[:, i:i + 1] * (x @ A[i].T @ B[i].T) for i in range(heads))
    expected[f"{name}.x"], expected[f"{name}.y"] = x, 16 / rank * y
save_adapter(os.path.join(here, "lora_moe"), config(rank, 16, lora_nums=heads), tensors, expected)
