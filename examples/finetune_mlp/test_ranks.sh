#!/usr/bin/env bash
# finetune_mlp stopped in the middle and started again, alone and under mpirun: the same bits as never having stopped.
# usage: test_ranks.sh PROGRAM SCRATCH_FOLDER [MPIRUN…]
. "$(dirname "$0")/test_common.sh"
mpirun=("$@")  # followed by a number of ranks; none: this build has no MPI
common=(--hidden 32 --batch 63 --evaluation-examples 64 --dropout 0.1 --base text=law.txt)
short=("$program" --pretraining-steps 12 --steps 12 "${common[@]}")
long=("$program" --pretraining-steps 400 --steps 100 "${common[@]}")

# Starts the program, waits for its first checkpoint, and kills that process, or the rank of it that is named last.
start_and_kill() {  # FOLDER COMMAND…
  local folder=$1
  shift
  "$@" --checkpoint-every 3 --out "$folder" >"$folder.log" 2>&1 &
  local job=$!
  for _ in $(seq 600); do
    compgen -G "$folder/*.checkpoint.safetensors" >/dev/null && break
    sleep 0.1
  done
  kill -9 "$(pgrep -f -- "$program .*--out $folder\$" | grep -vx "$job" | tail -1 | grep . || echo $job)" 2>/dev/null || true
  wait $job && fail "$folder: killed, and yet it ended well"
  [ -e "$folder/curves.csv" ] && fail "$folder: it was too fast to be killed"
  compgen -G "$folder/*.checkpoint.safetensors" >/dev/null || fail "$folder: no checkpoint"
  cp -r "$folder" "$folder.broken" && truncate -s -1 "$folder.broken"/*.checkpoint.safetensors
  cp -r "$folder" "$folder.other"
}

"${long[@]}" --out whole >/dev/null
start_and_kill killed "${long[@]}"
"${long[@]}" --checkpoint-every 5 --out killed >/dev/null
cmp whole/curves.csv killed/curves.csv || fail "killed and started again: other bits"
compgen -G "killed/*.checkpoint.safetensors" >/dev/null && fail "checkpoints stay after the end"
others='is from a run with other settings'
tr a-z b-za <law.txt >same_size.txt
expect 2 "$others" "${long[@]}" --seed 1 --checkpoint-every 3 --out killed.other
expect 2 "$others" "${long[@]}" --learning-rate 0.001 --checkpoint-every 3 --out killed.other
expect 2 "$others" "${long[@]/law.txt/same_size.txt}" --checkpoint-every 3 --out killed.other
expect 1 'checkpoint.safetensors: ' "${long[@]}" --checkpoint-every 3 --out killed.broken

if [ ${#mpirun[@]} -eq 0 ]; then
  expect 2 'built without MPI' "${short[@]}" --mpi fastest --out none
  finish
fi
"${short[@]}" --out one >/dev/null
for ranks in 1 2 3; do
  "${mpirun[@]}" $ranks "${short[@]}" --mpi rank-order --out ranks$ranks >ranks.log 2>&1 || fail "$ranks ranks: $(cat ranks.log)"
  # Floats are summed in another order, and 24 steps carry that on.
  paste -d, one/curves.csv ranks$ranks/curves.csv | awk -F, 'NR > 1 { d = $3 / $7 - 1; if (d < 0) d = -d
    if (d > 1e-3 || $1 != $5) exit 1 } END { if (NR != 49) exit 1 }' || fail "$ranks ranks: another curve than one process"
done
"${mpirun[@]}" 3 "${short[@]}" --mpi rank-order --out again >/dev/null
cmp ranks3/curves.csv again/curves.csv || fail "3 ranks, a second time: other bits"
cmp -s ranks1/curves.csv ranks3/curves.csv && fail "3 ranks give the bits of one: do they share anything?"
expect 2 'the ranks were given different text or options' "${mpirun[@]}" 1 "${short[@]}" --mpi fastest --out two : \
  -np 1 "${short[@]}" --seed 7 --mpi fastest --out two

two=("${mpirun[@]}" 2 "${long[@]}" --mpi rank-order)
"${two[@]}" --out whole2 >/dev/null
start_and_kill killed2 "${two[@]}"
grep -qi 'killed\|signal 9' killed2.log || fail "a killed rank: mpirun says $(cat killed2.log)"
"${two[@]}" --checkpoint-every 3 --out killed2 >/dev/null
cmp whole2/curves.csv killed2/curves.csv || fail "2 ranks, one killed and started again: other bits"
# A rank that fails takes the others with it, and says why.
expect 1 'finetune_mlp: rank 0: ' "${two[@]}" --checkpoint-every 3 --out killed2.broken
grep -q 'finetune_mlp: rank 0: .*checkpoint.safetensors: ' stderr.log || fail "a rank that fails: $(cat stderr.log)"
finish
