#!/usr/bin/env bash
# The program as a user meets it: small runs on real text, the same bits on any number of threads, and every mistake.
. "$(dirname "$0")/test_common.sh"
small=(--pretraining-steps 12 --steps 12 --hidden 48 --batch 64 --evaluation-examples 256)
on_law=("$program" "${small[@]}" --base text=law.txt)

# Both mixtures run; the results are complete; the same seed gives the same bits on 1, 2 and 4 threads.
for threads in 1 2 4; do
  "${on_law[@]}" --threads $threads --out tasks$threads >tasks$threads.log
  "$program" "${small[@]}" --base text=c.txt --domain law=law.txt --domain c=c.txt --heads auto --dropout 0.1 \
    --threads $threads --out domains$threads >domains$threads.log
  # Large enough that Eigen would thread a product by itself, and narrow enough to be a single slice.
  "$program" --pretraining-steps 3 --steps 2 --hidden 64 --batch 512 --evaluation-examples 256 --base text=law.txt \
    --threads $threads --out narrow$threads >narrow$threads.log
  for run in tasks domains narrow; do
    cmp ${run}1/curves.csv $run$threads/curves.csv || fail "$run: other bits on $threads threads"
    cmp <(grep -vE 'seconds' ${run}1/results.json) <(grep -vE 'seconds' $run$threads/results.json) ||
      fail "$run: other results on $threads threads"
  done
done
for run in tasks domains; do
  for method in 'base frozen' 'full fine-tuning' 'LoRA same rank' 'LoRA same size' SplitLoRA HydraLoRA; do
    grep -q "^$method " ${run}1.log || fail "$run: no row for $method"
    grep -q "\"method\": \"$method\"" ${run}1/results.json || fail "$run: $method is not in results.json"
  done
  grep -q 'head 1' ${run}1.log || fail "$run: no routing table"
  grep -q $'\r' ${run}1.log && fail "$run: progress lines in piped output"
done
grep -q 'elbow is at' domains1.log || fail "--heads auto says nothing"
[ "$(wc -l <tasks1/curves.csv)" -eq 49 ] || fail "curves.csv has no header, 6 trainings of 8 points"
[ "$(wc -l <tasks1/routing.csv)" -eq 25 ] || fail "routing.csv has no header, 2 methods, 3 layers, 4 parts"
"${on_law[@]}" --seed 1 --out other >/dev/null
cmp -s tasks1/curves.csv other/curves.csv && fail "another seed gives the same bits"
# A base of fewer bits: the adapters train on it, and a weight takes what it says.
for precision in bf16:2.000 f16:2.000 int8:1.0 nf4:0.56; do
  "${on_law[@]}" --base-precision "${precision%:*}" --out narrow >narrow.log
  grep -q "frozen in ${precision%:*}, ${precision#*:}" narrow.log || fail "$precision: $(grep frozen narrow.log)"
  cmp -s tasks1/curves.csv narrow/curves.csv && fail "--base-precision ${precision%:*} changes nothing"
done
# Names that are not UTF-8, and long ones: the run completes and the columns stay apart.
odd=$'caf\xe9.txt'
cp law.txt "$odd"
"$program" "${small[@]}" --base "odd=$odd" --domain "court-decisions-$odd=$odd" --domain contracts-of-all-kinds=law.txt \
  --out odd >odd.log || fail "a name that is not UTF-8 ended the run"
[ -s odd/results.json ] || fail "no results.json beside a name that is not UTF-8"
grep -aq '  contracts-of-all-kinds ' odd.log || fail "long names run together: $(grep -a ms/step odd.log)"
# Training helps: every method ends below the frozen base.
awk '/^base frozen/ {base=$NF} /^(full|LoRA|Split|Hydra).*[0-9]$/ {if ($NF >= base) bad=1; n++} END {exit !(n == 5 && !bad)}' \
  tasks1.log || fail "a method is no better than the base"
# A rate that makes the loss explode is reported, not trained through to the end.
expect 1 'diverged at step' "${on_law[@]}" --learning-rate 1e30 --out exploded

: >empty.txt
printf x >one.txt
mkdir -p unreadable && touch unreadable/file
law=(--base law=law.txt)
mistake 'nowhere.txt: No such file' --base law=nowhere.txt
mistake 'no file matches' --base 'law=*.nothing'
mistake 'expected NAME=PATH' --base law.txt
mistake 'found 0 bytes' "${law[@]}" --domain e=empty.txt
mistake 'found 1 bytes' "${law[@]}" --domain law=law.txt --domain one=one.txt
mistake 'at least one domain' "${law[@]}" --mixture domains
mistake 'given twice' "${law[@]}" --domain a=law.txt --domain a=c.txt
mistake '--domain belongs to' --mixture tasks --domain a=law.txt
for heads in 0 x 0x4; do mistake "--heads $heads" "${law[@]}" --heads $heads; done
for bad in '--max-bytes 100' '--rank 0' '--steps many' '--base-precision fp3'; do
  # shellcheck disable=SC2086
  mistake "${bad% *}" "${law[@]}" $bad
done
for unknown in --unknown --study --search-learning-rates; do mistake "$unknown" $unknown; done
mistake 'one.txt' "${law[@]}" --out one.txt/results
[ "$(cat one.txt)" = x ] || fail "--out over a file changed it"
if [ "$(id -u)" -eq 0 ]; then  # root may read and write everything: ask as nobody
  chmod 700 unreadable && chmod 755 . && cp "$program" ./program && chmod 755 program
  nobody=(setpriv --reuid=65534 --regid=65534 --clear-groups)
  if "${nobody[@]}" test -x ./program 2>/dev/null; then
    for arguments in "--base law=unreadable --out /tmp/hydralora-nobody" "--base law=law.txt --out unreadable/out"; do
      # shellcheck disable=SC2086
      expect 2 'ermission denied' "${nobody[@]}" ./program $arguments
      grep -q unreadable stderr.log || fail "$arguments as nobody: $(cat stderr.log)"
    done
    rm -rf /tmp/hydralora-nobody
  fi
else
  chmod 000 unreadable
  mistake 'Permission denied' --base law=unreadable
  chmod 700 unreadable
fi
finish
