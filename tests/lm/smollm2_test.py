#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""smollm2_test.py PROGRAM CASES MODEL: a real model in 4 bits, against transformers on its dequantised weights.

The preset smollm2 downloads MODEL. Without it the test is skipped.
"""
import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path

program, cases, model = sys.argv[1:]
if not Path(model).exists():
    print(f"skipped: there is no {model}; `cmake --workflow --preset smollm2` downloads it")
    sys.exit(77)
expected = json.loads(Path(cases, "expected.json").read_text(encoding="utf-8"))
assert hashlib.sha256(Path(model).read_bytes()).hexdigest() == expected["sha256"], "another file"


def run(*arguments):
    return json.loads(subprocess.run([program, *arguments, "--model", model], check=True, stdout=subprocess.PIPE,
                                     encoding="utf-8").stdout)


for case in expected["cases"]:
    made = run("generate", "--prompt", case["prompt"], "--max-tokens", "24", "--ignore-eos", "--json")
    assert made["prompt_ids"] == case["ids"], case["prompt"]
    assert made["ids"] == case["greedy_ids"], (case["prompt"], made["ids"])
with tempfile.NamedTemporaryFile("w", suffix=".json", encoding="utf-8") as file:
    json.dump([case["text"] for case in expected["tokens"]], file)
    file.flush()
    for case, made in zip(expected["tokens"], run("tokenize", "--texts", file.name)):
        assert (made["ids"], made["decoded"]) == (case["ids"], case["decoded"]), case["text"]
with tempfile.NamedTemporaryFile("w", suffix=".json", encoding="utf-8") as file:
    json.dump(expected["chat"], file)
    file.flush()
    for case, made in zip(expected["chat"], run("tokenize", "--chats", file.name)):
        assert (made["text"], made["ids"]) == (case["text"], case["ids"]), case["text"]
print(f"{len(expected['cases'])} prompts, {len(expected['tokens'])} texts, {len(expected['chat'])} chats are equal")
