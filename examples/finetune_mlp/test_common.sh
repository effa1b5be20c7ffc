# Read by the test scripts, which are called with PROGRAM SCRATCH_FOLDER …: real text of any Linux machine, made small, and
# checks that count what failed.
set -euo pipefail
program=$1 scratch=$2 failures=0
shift 2
rm -rf "$scratch" && mkdir -p "$scratch" && cd "$scratch"
fail() { echo "FAILED: $*"; failures=$((failures + 1)); }
finish() { [ $failures -eq 0 ] && echo "all as expected"; exit $((failures > 0)); }
# expect CODE TEXT COMMAND…: the exit code, and a line of stderr with that text.
expect() {
  local code=$1 text=$2 got=0
  shift 2
  timeout 60 "$@" >stdout.log 2>stderr.log || got=$?
  if [ $got -ne "$code" ] || ! grep -qF -- "$text" stderr.log; then fail "$*: $got, $(cat stderr.log), expected $code, $text"; fi
}
# mistake TEXT ARGUMENTS…: one line on stderr that names it, exit code 2, nothing written.
mistake() {
  local text=$1 out=(--out bad)
  shift
  case "$*" in *--out*) out=() ;; esac
  expect 2 "$text" "$program" "${small[@]}" "${out[@]}" "$@"
  [ "$(wc -l <stderr.log)" -eq 1 ] || fail "$*: stderr has $(wc -l <stderr.log) lines"
  [ ! -e bad ] || fail "$*: left $(find bad) behind"
}
cat /usr/share/common-licenses/* /etc/services /etc/protocols 2>/dev/null | head -c 120000 >law.txt || true
find /usr/include -name '*.h' -type f -size -40k 2>/dev/null | LC_ALL=C sort | head -n 40 | xargs -r cat 2>/dev/null |
  tr -d '\000' | head -c 120000 >c.txt || true
[ "$(wc -c <law.txt)" -gt 20000 ] && [ "$(wc -c <c.txt)" -gt 20000 ] || { echo "no text to test on"; exit 1; }
