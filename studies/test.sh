#!/usr/bin/env bash
# The studies, small: complete, and the same bits on any number of threads.
# usage: test.sh FINETUNE_STUDY SCRATCH_FOLDER CONTROLLED_TASK
. "$(dirname "$0")/../examples/finetune_mlp/test_common.sh"
small=(--seeds 2 --pretraining-steps 4 --steps 4 --hidden 16 --batch 32 --evaluation-examples 64)
study=("$program" "${small[@]}" --base text=c.txt --domain law=law.txt --domain c=c.txt)
for threads in 1 2; do "${study[@]}" --threads $threads --out study$threads >/dev/null; done
cmp study1/study.md study2/study.md || fail "study: other results on 2 threads"
for heading in 'Every method' 'Gates and starts' 'Gates that tokens share' 'Number of heads' 'Hidden groups' \
  'When routing pays' 'Are A alike'; do
  grep -q "^## $heading" study1/study.md || fail "study: no section $heading"
done
grep -qi 'nan\|inf' study1/study.md study1/*.csv && fail "study: a figure is not finite"
[ "$(wc -l <study1/when.csv)" -eq 30 ] || fail "study: when.csv has $(wc -l <study1/when.csv) lines"
[ "$(wc -l <study1/likeness.csv)" -eq 9 ] || fail "study: likeness.csv has $(wc -l <study1/likeness.csv) lines"
"${study[@]}" --search-learning-rates >search.log
[ "$(wc -l < <(sed '1,/^method/d' search.log))" -eq 9 ] || fail "search: $(cat search.log)"
mistake '--seeds' --seeds 0
mistake '--checkpoint-every' --checkpoint-every 3
mistake 'nowhere.txt: No such file' --base law=nowhere.txt --domain a=law.txt
"$1" 1 10 | grep -q 'LoRA of the same rank' || fail "controlled_task prints no last row"
finish
