#!/usr/bin/env bash
# The program as a user meets it: small runs on real text, the same bits on any number of threads, and every mistake.
# usage: test_program.sh PROGRAM SCRATCH_FOLDER
set -euo pipefail
program=$1
scratch=$2
rm -rf "$scratch"
mkdir -p "$scratch"
cd "$scratch"
failures=0
fail() { echo "FAILED: $*"; failures=$((failures + 1)); }

# Real text of any Linux machine, made small.
cat /usr/share/common-licenses/* /etc/services /etc/protocols 2>/dev/null | head -c 120000 >law.txt || true
find /usr/include -name '*.h' -type f -size -40k 2>/dev/null | LC_ALL=C sort | head -n 40 | xargs -r cat 2>/dev/null | tr -d '\000' | head -c 120000 >c.txt || true
[ "$(wc -c <law.txt)" -gt 20000 ] && [ "$(wc -c <c.txt)" -gt 20000 ] || { echo "no text to test on"; exit 1; }
small=(--pretraining-steps 12 --steps 12 --hidden 48 --batch 64 --evaluation-examples 256)

# Both mixtures run; the results are complete; the same seed gives the same bits on 1, 2 and 4 threads.
for threads in 1 2 4; do
  "$program" "${small[@]}" --base text=law.txt --threads $threads --out tasks$threads >tasks$threads.log
  "$program" "${small[@]}" --base text=c.txt --domain law=law.txt --domain c=c.txt --heads auto --dropout 0.1 --threads $threads \
    --out domains$threads >domains$threads.log
done
for run in tasks domains; do
  for threads in 2 4; do
    cmp ${run}1/curves.csv $run$threads/curves.csv || fail "$run: other bits on $threads threads"
    diff <(grep -vE 'seconds' ${run}1/results.json) <(grep -vE 'seconds' $run$threads/results.json) >/dev/null ||
      fail "$run: other results on $threads threads"
  done
  for method in 'base frozen' 'full fine-tuning' 'LoRA same rank' 'LoRA same size' SplitLoRA HydraLoRA; do
    grep -q "^$method " ${run}1.log || fail "$run: no row for $method"
    grep -q "\"method\": \"$method\"" ${run}1/results.json || fail "$run: $method is not in results.json"
  done
  grep -q 'head 1' ${run}1.log || fail "$run: no routing table"
  grep -q $'\r' ${run}1.log && fail "$run: progress lines in piped output"
done
grep -q 'elbow is at' domains1.log || fail "--heads auto says nothing"
[ "$(wc -l <tasks1/curves.csv)" -eq 49 ] || fail "curves.csv has $(wc -l <tasks1/curves.csv) lines"  # header, 6 trainings of 8 points
[ "$(wc -l <tasks1/routing.csv)" -eq 25 ] || fail "routing.csv has $(wc -l <tasks1/routing.csv) lines"  # header, 2 methods, 3 layers, 4 parts
# Large enough that Eigen would thread a product by itself, and narrow enough to be a single slice.
for threads in 1 2; do
  "$program" --pretraining-steps 3 --steps 2 --hidden 64 --batch 512 --evaluation-examples 256 --base text=law.txt --threads $threads --out narrow$threads >/dev/null
done
cmp narrow1/curves.csv narrow2/curves.csv || fail "hidden 64: other bits on 2 threads"
"$program" "${small[@]}" --base text=law.txt --seed 1 --out other >/dev/null
cmp -s tasks1/curves.csv other/curves.csv && fail "another seed gives the same bits"

# A base of fewer bits: the adapters train on it, and a weight takes what it says.
for precision in bf16:2.000 f16:2.000 int8:1.0 nf4:0.56; do
  "$program" "${small[@]}" --base text=law.txt --base-precision "${precision%:*}" --out narrow >narrow.log
  grep -q "frozen in ${precision%:*}, ${precision#*:}" narrow.log || fail "--base-precision ${precision%:*}: $(grep frozen narrow.log)"
  cmp -s tasks1/curves.csv narrow/curves.csv && fail "--base-precision ${precision%:*} changes nothing"
done

# The study, small: complete, and the same bits on any number of threads.
study=(--study --seeds 2 --pretraining-steps 4 --steps 4 --hidden 16 --batch 32 --evaluation-examples 64)
for threads in 1 2; do
  "$program" "${study[@]}" --base text=c.txt --domain law=law.txt --domain c=c.txt --threads $threads --out study$threads >/dev/null
done
cmp study1/study.md study2/study.md || fail "study: other results on 2 threads"
for heading in 'Every method' 'Gates and starts' 'Gates that tokens share' 'Number of heads' 'Hidden groups' 'When routing pays' 'Are A alike'; do
  grep -q "^## $heading" study1/study.md || fail "study: no section $heading"
done
grep -qi 'nan\|inf' study1/study.md study1/*.csv && fail "study: a figure is not finite"
[ "$(wc -l <study1/when.csv)" -eq 30 ] || fail "study: when.csv has $(wc -l <study1/when.csv) lines"
[ "$(wc -l <study1/likeness.csv)" -eq 9 ] || fail "study: likeness.csv has $(wc -l <study1/likeness.csv) lines"

# Names that are not UTF-8, and long ones: the run completes and the columns stay apart.
odd=$'caf\xe9.txt'
cp law.txt "$odd"
"$program" "${small[@]}" --base "odd=$odd" --domain "court-decisions-$odd=$odd" --domain contracts-of-all-kinds=law.txt --out odd >odd.log || fail "a name that is not UTF-8 ended the run"
[ -s odd/results.json ] || fail "no results.json beside a name that is not UTF-8"
grep -aq '  contracts-of-all-kinds ' odd.log || fail "long names run together: $(grep -a ms/step odd.log)"

# A rate that makes the loss explode is reported, not trained through to the end.
code=0
"$program" "${small[@]}" --base text=law.txt --learning-rate 1e30 --out exploded >/dev/null 2>stderr.log || code=$?
if [ $code -ne 1 ] || ! grep -q 'diverged at step' stderr.log; then fail "learning rate 1e30: $code, $(cat stderr.log)"; fi

# Training helps: every method ends below the frozen base.
awk '/^base frozen/ {base=$NF} /^(full|LoRA|Split|Hydra).*[0-9]$/ {if ($NF >= base) bad=1; n++} END {exit !(n == 5 && !bad)}' tasks1.log ||
  fail "a method is no better than the base"

# Every mistake: one line on stderr that names it, exit code 2, nothing written.
mistake() {  # expected text, then arguments
  local expected=$1 code=0 out=(--out bad)
  shift
  case "$*" in *--out*) out=() ;; esac
  rm -rf bad
  "$program" "${small[@]}" "${out[@]}" "$@" >stdout.log 2>stderr.log || code=$?
  [ $code -eq 2 ] || fail "$*: exit code $code"
  [ "$(wc -l <stderr.log)" -eq 1 ] || fail "$*: stderr has $(wc -l <stderr.log) lines"
  grep -qF -- "$expected" stderr.log || fail "$*: stderr says '$(cat stderr.log)', expected '$expected'"
  [ ! -e bad ] || fail "$*: left $(find bad) behind"
}
: >empty.txt
printf x >one.txt
mkdir -p unreadable && touch unreadable/file
mistake 'nowhere.txt: No such file' --base law=nowhere.txt
mistake 'no file matches' --base 'law=*.nothing'
mistake 'expected NAME=PATH' --base law.txt
mistake 'found 0 bytes' --base law=law.txt --domain e=empty.txt
mistake 'found 1 bytes' --base law=law.txt --domain law=law.txt --domain one=one.txt
mistake 'at least one domain' --base law=law.txt --mixture domains
mistake 'given twice' --base law=law.txt --domain a=law.txt --domain a=c.txt
mistake '--domain belongs to' --mixture tasks --domain a=law.txt
mistake '--heads 0' --base law=law.txt --heads 0
mistake '--heads x' --base law=law.txt --heads x
mistake '--heads 0x4' --base law=law.txt --heads 0x4
mistake '--max-bytes' --base law=law.txt --max-bytes 100
mistake '--rank' --base law=law.txt --rank 0
mistake '--steps' --base law=law.txt --steps many
mistake '--unknown' --unknown
mistake '--base-precision' --base law=law.txt --base-precision fp3
mistake '--seeds' --study --seeds 0
mistake 'nowhere.txt: No such file' --study --base law=nowhere.txt --domain a=law.txt
mistake 'one.txt' --base law=law.txt --out one.txt/results
[ "$(cat one.txt)" = x ] || fail "--out over a file changed it"
if [ "$(id -u)" -eq 0 ]; then  # root may read and write everything: ask as nobody
  chmod 700 unreadable && chmod 755 . && cp "$program" ./program && chmod 755 program
  as_nobody() { setpriv --reuid=65534 --regid=65534 --clear-groups "$@"; }
  if as_nobody test -x ./program 2>/dev/null; then
    for arguments in "--base law=unreadable --out /tmp/hydralora-nobody" "--base law=law.txt --out unreadable/out"; do
      code=0
      # shellcheck disable=SC2086
      as_nobody ./program $arguments >/dev/null 2>stderr.log || code=$?
      if [ $code -ne 2 ] || ! grep -q 'unreadable.*ermission denied' stderr.log; then fail "$arguments as nobody: $code, $(cat stderr.log)"; fi
    done
    rm -rf /tmp/hydralora-nobody
  fi
else
  chmod 000 unreadable
  mistake 'Permission denied' --base law=unreadable
  chmod 700 unreadable
fi

[ $failures -eq 0 ] && echo "all as expected"
exit $((failures > 0))
