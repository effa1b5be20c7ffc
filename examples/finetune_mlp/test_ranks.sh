#!/usr/bin/env bash
# finetune_mlp stopped in the middle and started again, alone and under mpirun: the same bits as never having stopped.
# usage: test_ranks.sh PROGRAM SCRATCH_FOLDER [MPIRUN…]
set -euo pipefail
program=$1
scratch=$2
shift 2
mpirun=("$@")  # followed by a number of ranks; none: this build has no MPI
rm -rf "$scratch"
mkdir -p "$scratch"
cd "$scratch"
failures=0
fail() { echo "FAILED: $*"; failures=$((failures + 1)); }

cat /usr/share/common-licenses/* /etc/services /etc/protocols 2>/dev/null | head -c 120000 >law.txt || true
[ "$(wc -c <law.txt)" -gt 20000 ] || { echo "no text to test on"; exit 1; }
short=(--pretraining-steps 12 --steps 12 --hidden 32 --batch 63 --evaluation-examples 64 --dropout 0.1 --base text=law.txt)
long=(--pretraining-steps 400 --steps 100 --hidden 32 --batch 63 --evaluation-examples 64 --dropout 0.1 --base text=law.txt)

# Starts the program, waits for its first checkpoint, and kills that process, or the rank of it that is named last.
start_and_kill() {  # FOLDER COMMAND…
  local folder=$1
  shift
  "$@" >"$folder.log" 2>&1 &
  local job=$!
  for _ in $(seq 600); do
    compgen -G "$folder/*.checkpoint.safetensors" >/dev/null && break
    sleep 0.1
  done
  kill -9 "$(pgrep -f -- "$program .*--out $folder\$" | grep -vx "$job" | tail -1 | grep . || echo $job)" 2>/dev/null || true
  wait $job && fail "$folder: killed, and yet it ended well"
  [ -e "$folder/curves.csv" ] && fail "$folder: it was too fast to be killed"
  compgen -G "$folder/*.checkpoint.safetensors" >/dev/null || fail "$folder: no checkpoint"
}

"$program" "${long[@]}" --out whole >/dev/null
start_and_kill killed "$program" "${long[@]}" --checkpoint-every 3 --out killed
cp -r killed broken
cp -r killed other
"$program" "${long[@]}" --checkpoint-every 5 --out killed >/dev/null
cmp whole/curves.csv killed/curves.csv || fail "killed and started again: other bits"
compgen -G "killed/*.checkpoint.safetensors" >/dev/null && fail "checkpoints stay after the end"

status=0
"$program" "${long[@]}" --seed 1 --checkpoint-every 3 --out other >/dev/null 2>other.err || status=$?
[ $status -eq 2 ] && grep -q 'is from a run with other settings' other.err || fail "another run's checkpoint: $status, $(cat other.err)"
cp -r broken rate
status=0
"$program" "${long[@]}" --learning-rate 0.001 --checkpoint-every 3 --out rate >/dev/null 2>rate.err || status=$?
[ $status -eq 2 ] && grep -q 'is from a run with other settings' rate.err || fail "a checkpoint of another rate: $status, $(cat rate.err)"
tr a-z b-za <law.txt >same_size.txt
status=0
"$program" "${long[@]/law.txt/same_size.txt}" --checkpoint-every 3 --out rate >/dev/null 2>rate.err || status=$?
[ $status -eq 2 ] || fail "a checkpoint of another text of the same size: $status, $(cat rate.err)"
for option in --study --search-learning-rates; do
  "$program" "${short[@]}" $option --checkpoint-every 3 --out rate >/dev/null 2>rate.err && fail "$option --checkpoint-every"
done
for file in broken/*.checkpoint.safetensors; do truncate -s -1 "$file"; done
status=0
"$program" "${long[@]}" --checkpoint-every 3 --out broken >/dev/null 2>broken.err || status=$?
[ $status -eq 1 ] && grep -q 'checkpoint.safetensors: ' broken.err || fail "a broken checkpoint: $status, $(cat broken.err)"

if [ ${#mpirun[@]} -eq 0 ]; then
  "$program" "${short[@]}" --mpi fastest --out none >/dev/null 2>none.err && fail "--mpi without MPI"
  grep -q 'built without MPI' none.err || fail "--mpi without MPI says $(cat none.err)"
else
  "$program" "${short[@]}" --out one >/dev/null
  for ranks in 1 2 3; do
    "${mpirun[@]}" $ranks "$program" "${short[@]}" --mpi rank-order --out ranks$ranks >ranks$ranks.log 2>&1 || fail "$ranks ranks: $(cat ranks$ranks.log)"
    # Floats are summed in another order, and 24 steps carry that on.
    paste -d, one/curves.csv ranks$ranks/curves.csv | awk -F, 'NR > 1 { d = $3 / $7 - 1; if (d < 0) d = -d; if (d > 1e-3 || $1 != $5) exit 1 } END { if (NR != 49) exit 1 }' ||
      fail "$ranks ranks: another curve than one process"
  done
  "${mpirun[@]}" 3 "$program" "${short[@]}" --mpi rank-order --out again >/dev/null
  cmp ranks3/curves.csv again/curves.csv || fail "3 ranks, a second time: other bits"
  cmp -s ranks1/curves.csv ranks3/curves.csv && fail "3 ranks give the bits of one: do they share anything?"

  # Two ranks that were given different texts.
  status=0
  timeout 60 "${mpirun[@]}" 1 "$program" "${short[@]}" --mpi fastest --out two : -np 1 "$program" "${short[@]}" --seed 7 --mpi fastest --out two >two.log 2>&1 || status=$?
  [ $status -eq 2 ] && grep -q 'the ranks were given different text or options' two.log || fail "ranks with other options: $status, $(cat two.log)"

  "${mpirun[@]}" 2 "$program" "${long[@]}" --mpi rank-order --out whole2 >/dev/null
  start_and_kill killed2 "${mpirun[@]}" 2 "$program" "${long[@]}" --mpi rank-order --checkpoint-every 3 --out killed2
  grep -qi 'killed\|signal 9' killed2.log || fail "a killed rank: mpirun says $(cat killed2.log)"
  cp -r killed2 broken2
  "${mpirun[@]}" 2 "$program" "${long[@]}" --mpi rank-order --checkpoint-every 3 --out killed2 >/dev/null
  cmp whole2/curves.csv killed2/curves.csv || fail "2 ranks, one killed and started again: other bits"
  # A rank that fails takes the others with it, and says why.
  for file in broken2/*.checkpoint.safetensors; do truncate -s -1 "$file"; done
  status=0
  timeout 60 "${mpirun[@]}" 2 "$program" "${long[@]}" --mpi rank-order --checkpoint-every 3 --out broken2 >broken2.log 2>&1 || status=$?
  [ $status -eq 1 ] || fail "a broken checkpoint under mpirun: $status (124: the other rank waits for ever)"
  grep -q 'finetune_mlp: rank 0: .*checkpoint.safetensors: ' broken2.log || fail "a rank that fails: $(cat broken2.log)"
fi

[ $failures -eq 0 ] && echo "all runs that were stopped ended as they would have"
exit $failures
