#!/usr/bin/env bash
# finetune_mlp and the studies as a user meets them, small.
# usage: test.sh program|ranks|studies PROGRAM SCRATCH_FOLDER [MPIRUN… for ranks | CONTROLLED_TASK for studies]
# shellcheck disable=SC2086  # options are words in a text: none has a space in it
set -euo pipefail
test=$1 failures=0 root=$(realpath "$(dirname "$0")/../..")
rm -rf "$3" && mkdir -p "$3" && cd "$3" && ln -s "$2" tested
shift 3
program=./tested
export OMP_WAIT_POLICY=passive
head -c 120000 < <(cat "$root"/docs/*.md) >law.txt
head -c 120000 < <(cat "$root"/include/hydralora/*/*.hpp) >c.txt

fail() { echo "FAILED: $*"; failures=$((failures + 1)); }
same() { cmp "$1/curves.csv" "$2/curves.csv" || fail "$3"; }
differ() { ! cmp -s "$1/curves.csv" "$2/curves.csv" || fail "$3"; }
lines() { [ "$(wc -l <"$1")" -eq "$2" ] || fail "$1 has $(wc -l <"$1") lines, expected $2: $3"; }
# expect CODE TEXT COMMAND…: the exit code, and a line of stderr with that text.
expect() {
  local code=$1 text=$2 got=0
  shift 2
  timeout 60 "$@" >stdout.log 2>stderr.log || got=$?
  { [ $got -eq "$code" ] && grep -qF -- "$text" stderr.log; } ||
    fail "$*: $got, $(cat stderr.log), expected $code, $text"
}
# mistake TEXT ARGUMENTS…: one line on stderr that names it, exit code 2, nothing written.
mistake() {
  local out="--out bad"
  case "$*" in *--out*) out= ;; esac
  expect 2 "$1" "$program" $small $out "${@:2}"
  lines stderr.log 1 "$*"
  [ ! -e bad ] || fail "$*: left $(find bad) behind"
}

# Small runs, the same bits on any number of threads, and every mistake.
test_program() {
  small="--pretraining-steps 12 --steps 12 --hidden 48 --batch 64 --evaluation-examples 256"
  on_law="$program $small --base text=law.txt"

  # Both mixtures run; the results are complete; the same seed gives the same bits on 1, 2 and 4 threads. The third is
  # large enough that Eigen would thread a product by itself, and narrow enough to be a single slice.
  declare -A runs=(
    [tasks]="$small --base text=law.txt"
    [domains]="$small --base text=c.txt --domain law=law.txt --domain c=c.txt --heads auto --dropout 0.1"
    [narrow]="--pretraining-steps 3 --steps 2 --hidden 64 --batch 512 --evaluation-examples 256 --base text=law.txt")
  for run in "${!runs[@]}"; do
    for threads in 1 2 4; do
      "$program" ${runs[$run]} --threads $threads --out $run$threads >$run$threads.log
      same ${run}1 $run$threads "$run: other bits on $threads threads"
      cmp <(grep -v seconds ${run}1/results.json) <(grep -v seconds $run$threads/results.json) ||
        fail "$run: other results on $threads threads"
    done
    for method in 'base frozen' 'full fine-tuning' 'LoRA same rank' 'LoRA same size' SplitLoRA HydraLoRA; do
      { grep -q "^$method " ${run}1.log && grep -q "\"method\": \"$method\"" ${run}1/results.json; } ||
        fail "$run: no row for $method, or it is not in results.json"
    done
    grep -q 'head 1' ${run}1.log || fail "$run: no routing table"
    grep -q $'\r' ${run}1.log && fail "$run: progress lines in piped output"
  done
  grep -q 'elbow is at' domains1.log || fail "--heads auto says nothing"
  lines tasks1/curves.csv 49 'a header, 6 trainings of 8 points'
  lines tasks1/routing.csv 25 'a header, 2 methods, 3 layers, 4 parts'
  { grep -q '<polyline' tasks1/report.html && [ "$(grep -c 'figure class' tasks1/report.html)" -ge 2 ]; } ||
    fail "report.html has no curves, or not the routing of two methods"
  $on_law --seed 1 --out other >/dev/null
  differ tasks1 other "another seed gives the same bits"
  # A base of fewer bits: the adapters train on it, and a weight takes what it says.
  for stored in 'bf16, 2.000' 'f16, 2.000' 'int8, 1.0' 'nf4, 0.56'; do
    $on_law --base-precision "${stored%,*}" --out stored >stored.log
    grep -q "frozen in $stored" stored.log || fail "$stored: $(grep frozen stored.log)"
    differ tasks1 stored "--base-precision ${stored%,*} changes nothing"
  done
  # Names that are not UTF-8, and long ones: the run completes and the columns stay apart.
  odd=$'caf\xe9.txt'
  cp law.txt "$odd"
  "$program" $small --base "odd=$odd" --domain "court-decisions-$odd=$odd" --domain contracts-of-all-kinds=law.txt \
    --out odd >odd.log || fail "a name that is not UTF-8 ended the run"
  [ -s odd/results.json ] || fail "no results.json beside a name that is not UTF-8"
  grep -aq '  contracts-of-all-kinds ' odd.log || fail "long names run together: $(grep -a ms/step odd.log)"
  # Training helps: every method ends below the frozen base.
  awk '/^base frozen/ {base = $NF} /^(full|LoRA|Split|Hydra).*[0-9]$/ {better += $NF < base} END {exit better != 5}' \
    tasks1.log || fail "a method is no better than the base"
  # A rate that makes the loss explode is reported, not trained through to the end.
  expect 1 'diverged at step' $on_law --learning-rate 1e30 --out exploded

  printf x >one.txt
  law="--base law=law.txt"
  mistake 'nowhere.txt: No such file' --base law=nowhere.txt
  mistake 'found 1 bytes' $law --domain law=law.txt --domain one=one.txt  # corpus_test has the other bad domains
  mistake 'at least one domain' $law --mixture domains
  mistake 'given twice' $law --domain a=law.txt --domain a=c.txt
  mistake '--domain belongs to' --mixture tasks --domain a=law.txt
  mistake 'one.txt' $law --out one.txt/results
  for heads in 0 x 0x4; do mistake "--heads $heads" $law --heads $heads; done
  for bad in '--max-bytes 100' '--rank 0' '--steps many' '--base-precision fp3'; do mistake "${bad% *}" $law $bad; done
  for unknown in --unknown --study --search-learning-rates; do mistake "$unknown" $unknown; done
  [ "$(cat one.txt)" = x ] || fail "--out over a file changed it"
  mkdir unreadable && chmod 000 unreadable && chmod 755 . && cp "$program" program
  user=  # root may read and write everything: ask as nobody
  [ "$(id -u)" -ne 0 ] || user='setpriv --reuid=65534 --regid=65534 --clear-groups'
  $user test -x ./program || return 0
  for arguments in "--base law=unreadable --out /tmp/hydralora-nobody" "$law --out unreadable/out"; do
    expect 2 'ermission denied' $user ./program $arguments
    grep -q unreadable stderr.log || fail "$arguments: $(cat stderr.log)"
  done
}

saved() { compgen -G "$1/*.checkpoint.safetensors" >/dev/null; }

# Starts the program, waits for its first checkpoint, and kills that process, or the rank of it that is named last.
start_and_kill() {  # FOLDER COMMAND…
  local folder=$1 tries=0
  "${@:2}" --checkpoint-every 3 --out "$folder" >"$folder.log" 2>&1 &
  local job=$!
  until saved "$folder" || [ $((++tries)) -gt 600 ]; do sleep 0.1; done
  kill -9 "$(pgrep -P $job | tail -1 | grep . || echo $job)" 2>/dev/null || true
  wait $job && fail "$folder: killed, and yet it ended well"
  [ -e "$folder/curves.csv" ] && fail "$folder: it was too fast to be killed"
  saved "$folder" || fail "$folder: no checkpoint"
  cp -r "$folder" "$folder.broken" && truncate -s -1 "$folder.broken"/*.checkpoint.safetensors
  cp -r "$folder" "$folder.other"
}

# Stopped in the middle and started again, alone and under mpirun: the same bits as never having stopped.
test_ranks() {
  export OMP_NUM_THREADS=1 OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1
  mpirun=$*
  common="--hidden 32 --batch 63 --evaluation-examples 64 --dropout 0.1 --base text=law.txt"
  short="$program --pretraining-steps 12 --steps 12 $common" long="$program --pretraining-steps 400 --steps 100 $common"
  $long --out whole >/dev/null
  start_and_kill killed $long
  $long --checkpoint-every 5 --out killed >/dev/null
  same whole killed "killed and started again: other bits"
  saved killed && fail "checkpoints stay after the end"
  tr a-z b-za <law.txt >same_size.txt
  for other in "$long --seed 1" "$long --learning-rate 0.001" "${long/law.txt/same_size.txt}"; do
    expect 2 'is from a run with other settings' $other --checkpoint-every 3 --out killed.other
  done
  expect 1 'checkpoint.safetensors: ' $long --checkpoint-every 3 --out killed.broken

  [ -n "$mpirun" ] || { expect 2 'built without MPI' $short --mpi fastest --out none; return; }
  $short --out one >/dev/null
  for ranks in 1 2 3; do
    $mpirun $ranks $short --mpi rank-order --out ranks$ranks >ranks.log 2>&1 || fail "$ranks ranks: $(cat ranks.log)"
    # Floats are summed in another order, and 24 steps carry that on.
    paste -d, one/curves.csv ranks$ranks/curves.csv |
      awk -F, '$1 == $5 && ($3 / $7 - 1) ^ 2 < 1e-6 {same++} END {exit NR != 49 || same != 48}' ||
      fail "$ranks ranks: another curve than one process"
  done
  $mpirun 3 $short --mpi rank-order --out again >/dev/null
  same ranks3 again "3 ranks, a second time: other bits"
  differ ranks1 ranks3 "3 ranks give the bits of one: do they share anything?"
  expect 2 'the ranks were given different text or options' $mpirun 1 $short --mpi fastest --out two : \
    -np 1 $short --seed 7 --mpi fastest --out two

  two="$mpirun 2 $long --mpi rank-order"
  $two --out whole2 >/dev/null
  start_and_kill killed2 $two
  grep -qi 'killed\|signal 9' killed2.log || fail "a killed rank: mpirun says $(cat killed2.log)"
  $two --checkpoint-every 3 --out killed2 >/dev/null
  same whole2 killed2 "2 ranks, one killed and started again: other bits"
  # A rank that fails takes the others with it, and says why.
  expect 1 'finetune_mlp: rank 0: ' $two --checkpoint-every 3 --out killed2.broken
  grep -q 'finetune_mlp: rank 0: .*checkpoint.safetensors: ' stderr.log || fail "a rank that fails: $(cat stderr.log)"
}

# Complete, and the same bits on any number of threads.
test_studies() {
  small="--seeds 2 --pretraining-steps 4 --steps 4 --hidden 16 --batch 32 --evaluation-examples 64"
  study="$program $small --base text=c.txt --domain law=law.txt --domain c=c.txt"
  for threads in 1 2; do $study --threads $threads --out study$threads >/dev/null; done
  cmp study1/study.md study2/study.md || fail "study: other results on 2 threads"
  sections='Every method|Gates and starts|Gates that tokens|Number of heads|Hidden groups|When routing pays|Are A alike'
  [ "$(grep -cE "^## ($sections)" study1/study.md)" -eq 7 ] || fail "study: $(grep '^##' study1/study.md)"
  grep -qi 'nan\|inf' study1/study.md study1/*.csv && fail "study: a figure is not finite"
  lines study1/when.csv 30 'a header, 29 lines of the table'
  lines study1/likeness.csv 9 'a header, A and B of 2 domains and 2 starts'
  $study --search-learning-rates | sed '1,/^method/d' >search.log && lines search.log 9 'a method each'
  mistake '--seeds' --seeds 0
  mistake '--checkpoint-every' --checkpoint-every 3
  mistake 'nowhere.txt: No such file' --base law=nowhere.txt --domain a=law.txt
  "$1" 1 10 | grep -q 'LoRA of the same rank' || fail "controlled_task prints no last row"
}

test_$test "$@"
exit $((failures > 0))
