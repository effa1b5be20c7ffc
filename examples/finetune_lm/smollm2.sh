#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Fine-tunes a real model, SmolLM2-135M-Instruct, on this machine's package lists. Then it exports the adapter for
# llama.cpp.
#
# smollm2.sh <finetune_lm> <folder for all files> [steps]
set -euo pipefail
program=$(realpath "$1") steps=${3:-50}
here=$(dirname "$(realpath "$0")")
"$here/fetch_smollm2.sh" "$2"
cd "$2"
model=SmolLM2-135M-Instruct.Q4_1.gguf
python3 "$here/package_data.py" --out packages --limit 2500

echo "Before:"
"$program" evaluate --model $model --max-tokens 8 --data packages/test.jsonl
rm -rf run adapter.gguf
"$program" train --model $model --data packages/train.jsonl --method lora --rank 8 --alpha 16 --learning-rate 2e-3 \
  --warmup-steps 10 --weight-decay 0 --micro-batch 16 --steps "$steps" --out run
echo "After:"
"$program" evaluate --model $model --adapter run --max-tokens 8 --data packages/test.jsonl
"$program" export --model $model --adapter run --to gguf-adapter --out adapter.gguf

python3 - <<'END' >question.json
import json
first = json.loads(open("packages/test.jsonl", encoding="utf-8").readline())["messages"]
print(json.dumps(first[:1]))
END
echo "The first question of the test, answered here:"
"$program" generate --model $model --adapter run --messages question.json
if python3 -c "import llama_cpp" 2>/dev/null; then
  echo "and by llama.cpp with adapter.gguf:"
  python3 - $model <<'END'
import json, sys
from llama_cpp import Llama
llama = Llama(sys.argv[1], lora_path="adapter.gguf", n_ctx=1024, verbose=False)
answer = llama.create_chat_completion(json.load(open("question.json")), temperature=0, max_tokens=32)
print(answer["choices"][0]["message"]["content"])
END
else
  echo "llama-cpp-python is not installed: llama-cli -m $model --lora adapter.gguf answers the same"
fi
