#!/usr/bin/env bash
# finetune_lm as a user meets it, on its tiny default model.
# usage: test.sh PROGRAM SCRATCH_FOLDER
set -euo pipefail
failures=0
here=$(cd "$(dirname "$0")" && pwd)
rm -rf "$2" && mkdir -p "$2" && cd "$2" && ln -s "$1" finetune_lm
fail() { echo "FAILED: $*"; failures=$((failures + 1)); }
# mistake TEXT ARGUMENTS…: exit code 2, and at most three lines on stderr, one of which has the text.
mistake() {
  local code=0
  ./finetune_lm "${@:2}" >stdout.log 2>stderr.log || code=$?
  { [ $code -eq 2 ] && grep -qF -- "$1" stderr.log && [ "$(wc -l <stderr.log)" -le 3 ]; } ||
    fail "${*:2}: code $code, $(cat stderr.log), expected '$1'"
}
weights() { sha256sum <"$1/adapter_model.safetensors"; }

answer='{"role": "assistant", "content": "yes"}'
for i in $(seq 40); do
  echo "{\"messages\": [{\"role\": \"user\", \"content\": \"$i\"}, $answer], \"group\": \"g$((i % 2))\"}"
done >chat.jsonl
train="train --data chat.jsonl --max-length 128 --learning-rate 0.02 --rank 4 --dropout 0.1"
for gate in token causal prompt given; do
  # shellcheck disable=SC2086
  ./finetune_lm $train --steps 12 --method hydra --gate $gate --validation chat.jsonl --evaluate-every 6 \
    --out $gate >/dev/null 2>&1
  ./finetune_lm evaluate --adapter $gate --data chat.jsonl --max-tokens 4 --json >evaluation.json
  python3 - $gate <<'P' || fail "$gate: evaluate and train's last evaluation differ"
import json, sys
lines = [json.loads(line) for line in open(sys.argv[1] + "/metrics.jsonl")]
steps = [line for line in lines if "loss" in line]
assert [line["step"] for line in steps] == list(range(1, 13)) and steps[-1]["loss"] < steps[0]["loss"]
last = [line["validation_loss"] for line in lines if "validation_loss" in line][-1]
result = json.load(open("evaluation.json"))
assert abs(result["all"]["loss"] - last) < 1e-6 and set(result) == {"all", "g0", "g1"}
P
done
# Killed and stopped in the middle, then resumed: the bits of a run that was not.
# shellcheck disable=SC2086
{
  long="$train --steps 200 --checkpoint-every 5"
  ./finetune_lm $long --out whole >/dev/null 2>&1
  for signal in KILL INT; do
    ./finetune_lm $long --out $signal >/dev/null 2>&1 &
    job=$!
    until compgen -G "$signal/checkpoint-*/training.safetensors" >/dev/null; do sleep 0.02; done
    kill -$signal $job
    code=0
    wait $job || code=$?
    [ $code -eq $([ $signal = INT ] && echo 130 || echo 137) ] || fail "SIG$signal: exit code $code"
    mistake 'is not empty: --resume' $long --out $signal
    mistake '--rank 4, not 5' ${long/--rank 4/--rank 5} --resume --out $signal
    ./finetune_lm $long --resume --out $signal >/dev/null 2>&1
    [ "$(weights whole)" = "$(weights $signal)" ] || fail "SIG$signal: other bits"
    [ "$(grep -c '"loss"' $signal/metrics.jsonl)" -eq 200 ] || fail "SIG$signal: not a line per step"
  done
  ./finetune_lm $long --out again --threads 2 >/dev/null 2>&1
  [ "$(weights whole)" = "$(weights again)" ] || fail "two threads: other bits"

  # Two ranks, and one rank with as many micro-batches, compute the same up to rounding; dropout included.
  if command -v mpirun >/dev/null && ldd ./finetune_lm | grep -q libmpi; then
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1
    ./finetune_lm $train --steps 20 --accumulate 2 --out one-rank >/dev/null 2>&1
    # With sanitizers, whole stacks, for Open MPI's leaks (tests/support/leaks.txt).
    ASAN_OPTIONS=${ASAN_OPTIONS:-}:fast_unwind_on_malloc=0 \
      mpirun -np 2 ./finetune_lm $train --steps 20 --threads 1 --out two-ranks >/dev/null 2>&1
    python3 - <<'P' || fail "two ranks: other numbers than one"
import array, json, struct
def numbers(path):
    data = open(path, "rb").read()
    return array.array("f", data[8 + struct.unpack("<Q", data[:8])[0] :])
def lines(run):
    return [json.loads(line) for line in open(run + "/metrics.jsonl")]
a, b = (numbers(run + "/adapter_model.safetensors") for run in ("one-rank", "two-ranks"))
assert sum((x - y) ** 2 for x, y in zip(a, b)) <= 1e-8 * sum(x * x for x in a) and len(a) == len(b)
one, two = lines("one-rank"), lines("two-ranks")
assert len(two) == 20 and [l["tokens"] for l in one] == [l["tokens"] for l in two]
assert abs(one[0]["loss"] - two[0]["loss"]) < 1e-6 and abs(one[0]["grad_norm"] / two[0]["grad_norm"] - 1) < 1e-6
P
  else
    echo "no mpirun, or a program without MPI: two ranks are not tested"
  fi
}
for base in bfloat16 int8 nf4; do
  ./finetune_lm train --data chat.jsonl --steps 3 --base $base --out $base >/dev/null 2>&1 || fail "--base $base"
done
mistake 'full fine-tuning needs a float32 base' train --method full --base nf4 --steps 1 --out none
./finetune_lm train --method full --steps 3 --pack 256 --accumulate 2 --gradient-checkpointing \
  --out full >/dev/null 2>&1
[ -s full/model.safetensors ] || fail "full: no model"
./finetune_lm train --adapter token --data chat.jsonl --steps 2 --out more >/dev/null 2>&1
./finetune_lm train --adapter token --method hydra --rank 4 --data chat.jsonl --steps 1 --out same >/dev/null 2>&1 ||
  fail "options that --adapter has too are refused"
# The gates' weights in a report are those of the model, without dropout.
cp -r token without
sed -i 's/"lora_dropout": *[0-9.]*/"lora_dropout": 0.0/' without/adapter_config.json
cmp -s token/adapter_config.json without/adapter_config.json && fail "the adapter has no dropout to take away"
for run in token without; do
  ./finetune_lm report --adapter $run --data chat.jsonl --examples 5 --max-tokens 4 >/dev/null || fail "report of $run"
done
cmp token/routing.json without/routing.json || fail "dropout changes the routing of a report"

# Groups are those of training by name, in whatever order another file has them.
tac chat.jsonl >backwards.jsonl
./finetune_lm evaluate --adapter given --data chat.jsonl --max-tokens 4 --json >evaluation.json
./finetune_lm evaluate --adapter given --data backwards.jsonl --max-tokens 4 --per-example >backwards.json
python3 - <<'P' || fail "the order of groups in a file changes the results"
import json
a, b = json.load(open("evaluation.json")), json.load(open("backwards.json"))
assert all(abs(a[group]["loss"] - b[group]["loss"]) < 1e-9 for group in ("g0", "g1")), (a, b)
assert len(b["g0"]["losses"]) == len(b["g0"]["rights"]) == 20
P
sed 's/"g0"/"g7"/' chat.jsonl >other.jsonl
mistake 'has the group "g7"' evaluate --adapter given --data other.jsonl
a=$(./finetune_lm generate --adapter given --prompt 7 --chat --max-tokens 8 --group g0)
b=$(./finetune_lm generate --adapter given --prompt 7 --chat --max-tokens 8 --group 1)
[ "$a" = "$b" ] || fail "--group g0 is the second in the data: '$a' and '$b'"
mistake '--group g7' generate --adapter given --prompt 7 --group g7
mistake '--rank 5: --adapter token has 4' train --adapter token --rank 5 --data chat.jsonl --steps 2 --out none
mistake '--method lora: --adapter token has hydra' train --adapter token --method lora --data chat.jsonl --out none
mistake 'has other modules' train --adapter token --target-modules q_proj --data chat.jsonl --steps 2 --out none
text=$(./finetune_lm generate --adapter token --prompt 7 --chat --max-tokens 8 --json)
[[ $text == *'"prompt_ids"'* ]] || fail "generate: $text"
text=$(printf 'hello\n/adapter\nhello\n/new\n/quit\n' | ./finetune_lm chat --adapter token --max-tokens 4)
[[ $text == *'the adapter is off'* ]] || fail "chat: $text"

# Exports, and reports of runs.
./finetune_lm train --data chat.jsonl --steps 3 --learning-rate 0.02 --out lora >/dev/null 2>&1
./finetune_lm export --adapter lora --to gguf-adapter --out lora.gguf >/dev/null || fail "export to a GGUF"
./finetune_lm export --adapter lora.gguf --to peft --out peft >/dev/null || fail "export of a GGUF to PEFT"
[ "$(weights lora)" = "$(weights peft)" ] || fail "exports: other numbers"
[ "$(./finetune_lm evaluate --adapter lora --data chat.jsonl)" = \
  "$(./finetune_lm evaluate --adapter lora.gguf --data chat.jsonl)" ] || fail "an adapter as GGUF: other results"
mistake 'with a gate' export --adapter token --to gguf-adapter --out none
mistake 'lora: exists already' export --adapter lora --to peft --out lora
mistake '--model is missing' export --adapter lora --to merged --out none
mistake 'no metrics.jsonl' report --adapter lora.gguf --data chat.jsonl
for run in lora token; do
  ./finetune_lm report --adapter $run --data chat.jsonl --examples 5 --max-tokens 4 >/dev/null || fail "report of $run"
  grep -q '<polyline' $run/report.html || fail "the report of $run has no curve"
done
grep -q 'Mean weight of each head, g1' token/report.html || fail "the report has no picture of the gates"

# The data of package lists: no source is in two files, without tags there is one task, mistakes leave nothing.
for i in $(seq 12); do
  section=$([ $((i % 3)) -eq 0 ] && echo libs || echo games)
  printf 'Package: p%s-data\nSource: s%s (1.0)\nSection: universe/%s\n' "$i" $((i / 2)) "$section"
  printf 'Description: thing %s\n More of it.\n' "$i"
  printf 'Tag: use::viewing, role::program,\n implemented-in::c\n\n'
done >lists
python3 "$here/package_data.py" --from lists --out packages --test-share 0.25 --limit 12 >packages.log
grep -q '66.7 % are games' packages.log || fail "package_data.py: $(cat packages.log)"
python3 - <<'P' || fail "package_data.py: wrong files"
import json, re
lines = {name: list(open(f"packages/{name}.jsonl")) for name in ("train", "validation", "test")}
sources = [{int(re.search(r"p(\d+)-data: thing", line)[1]) // 2 for line in some} for some in lines.values()]
assert sum(map(len, sources)) == 7 and all(sources), sources
assert sorted({json.loads(line)["group"] for line in lines["train"]}) == ["language", "role", "section"]
P
./finetune_lm train --data packages/train.jsonl --steps 2 --out packages/run >/dev/null 2>&1 || fail "no package data"
grep -v -e ^Tag: -e implemented lists >untagged
python3 "$here/package_data.py" --from untagged --out untagged.d >packages.log
grep -q 'role: not made' packages.log || fail "package_data.py without tags: $(cat packages.log)"
: >empty
for wrong in "--from empty --out none" "--from nowhere --out none" "--from lists --out empty"; do
  code=0
  # shellcheck disable=SC2086
  python3 "$here/package_data.py" $wrong >/dev/null 2>stderr.log || code=$?
  { [ $code -eq 2 ] && [ "$(wc -l <stderr.log)" -eq 1 ]; } || fail "package_data.py $wrong: $code $(cat stderr.log)"
done

echo '{"messages": [' >broken.jsonl
printf GGUF >short.gguf
echo '{"input_ids": [1, 999], "labels": [1, 999]}' >foreign.jsonl
echo '{"input_ids": [1, 2, 3], "labels": [1, 999, 3]}' >labels.jsonl
echo '{"messages": [{"role": "user", "content": [{"type": 5}]}]}' >parts.jsonl
echo '[5]' >conversation.json
mkdir used && : >used/file
echo '{"messages": [{"role": "assistant", "tool_calls": [1]}]}' >tools.jsonl
: >empty.jsonl
mistake 'broken.jsonl: line 1: is not JSON' train --data broken.jsonl --out none
mistake 'token 999 of the data' train --data foreign.jsonl --out none
mistake 'token 999 of the data' train --data labels.jsonl --out none
mistake 'parts.jsonl: line 1' train --data parts.jsonl --out none
mistake 'conversation.json: is not' generate --messages conversation.json
mistake 'is not a folder' train --out empty.jsonl
mistake 'used is not empty' train --out used
mistake "the model's context has 512" generate --prompt "$(printf 'x%.0s' $(seq 600))"
mistake '--seed' generate --prompt x --seed -1
mistake '(q is not a regular expression' train --target-modules '(q' --out none
mistake 'frobnicate' frobnicate
mistake 'a command is missing'
mistake 'tools.jsonl: line 1: tool calls' train --data tools.jsonl --out none
mistake 'no example is left' train --data empty.jsonl --out none
mistake 'nowhere.jsonl' train --data nowhere.jsonl --out none
mistake '--unknown' train --unknown
mistake '--out is missing' train
mistake 'nowhere' info --model nowhere
mistake 'short.gguf: ends in its header' train --model short.gguf --data chat.jsonl --out none
mistake 'is not a GGUF' info --model chat.jsonl
for command in "info" "generate --prompt x --max-tokens 2" "evaluate --data chat.jsonl --max-tokens 1"; do
  code=0
  # shellcheck disable=SC2086
  ./finetune_lm $command >/dev/full 2>/dev/null || code=$?
  [ $code -eq 2 ] || fail "$command on a full disk: code $code"
done
[ ! -e none ] || fail "a mistake left files behind"
exit $((failures > 0))
