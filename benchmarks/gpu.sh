#!/usr/bin/env bash
# Everything that needs a GPU, in under nine minutes and without a network: build, test, measure, sanitize.
#   benchmarks/gpu.sh                         with torch, nvcc, ninja, pybind11 and pytest installed
#   benchmarks/gpu.sh --device cpu --quick    on any machine, to see that its stages run
# Results and one log go to $OUT, by default benchmarks/results. A stage that fails stops no other.
set -u
cd "$(dirname "$0")/.." || exit 1

device=cuda
quick=()
while [ $# -gt 0 ]; do
  case $1 in
    --device) device=${2:-}; shift ;;
    --quick) quick=(--quick) ;;
    *) echo "error: unknown argument $1: there are --device cuda|cpu and --quick" >&2; exit 2 ;;
  esac
  shift
done
if [ "$device" != cuda ] && [ "$device" != cpu ]; then
  echo "error: --device must be cuda or cpu, got '$device'" >&2
  exit 2
fi
export PYTHON=${PYTHON:-python3} PYTHONPATH=$PWD PYTHONUNBUFFERED=1
OUT=${OUT:-benchmarks/results}
mkdir -p "$OUT"
log=$OUT/$device.log
: >"$log"
failed=0

# stage NAME SECONDS COMMAND...: its output goes to the log, its outcome here; it is stopped after SECONDS
stage() {
  local name=$1 limit=$2 begin=$SECONDS outcome=ok before code
  shift 2
  before=$(wc -l <"$log")
  printf '\n==== %s: %s\n' "$name" "$*" >>"$log"
  timeout --kill-after=5 "$limit" "$@" >>"$log" 2>&1
  code=$?
  if [ "$code" -ne 0 ]; then
    failed=1
    outcome="failed ($code)"
    [ "$code" -ne 124 ] && [ "$code" -ne 137 ] || outcome="stopped after $limit s"
  fi
  printf '%-10s %4d s  %s\n' "$name" $((SECONDS - begin)) "$outcome"
  [ "$code" -eq 0 ] || tail -n "+$((before + 1))" "$log" | tail -n 15
}

skip() {
  printf '%-10s    -    skipped: %s\n' "$1" "$2"
}

# bench NAME SECONDS OPTIONS...
bench() {
  local name=$1 limit=$2
  shift 2
  stage "$name" "$limit" "$PYTHON" -m jumpstart_kernels bench --device "$device" \
    --output "$OUT/${device}_$name.json" "$@"
}

# steps SECONDS OPTIONS...
steps() {
  local limit=$1
  shift
  stage steps "$limit" "$PYTHON" -m benchmarks.steps --device "$device" \
    --output "$OUT/${device}_steps.json" "${quick[@]}" "$@"
}

# sanitize TOOL: odd shapes through every backend; the benchmark checks their values and gradients
sanitize() {
  stage "$1" 30 compute-sanitizer --tool "$1" --error-exitcode 9 --print-limit 20 \
    "$PYTHON" -m jumpstart_kernels bench --device cuda --peer jumpstart --rounds 1 \
    --shape 33x7 --shape 3x5x9x7 --dtype float32
}

if [ "$device" = cuda ]; then # the limits add up to 530 seconds
  stage info 30 "$PYTHON" -m jumpstart_kernels info
  stage build 100 env JUMPSTART_REQUIRE_NATIVE=1 "$PYTHON" setup.py build_ext --inplace
  stage tests 75 "$PYTHON" -m pytest -m gpu -x -q -p no:cacheprovider
  bench operator 120 --graphs --seconds 1 "${quick[@]}"
  bench sweep 30 --sweep --graphs --seconds 0.5 --peer jumpstart --peer composite --peer batch_norm
  steps 85 --mode eager --mode compiled --seconds 8
  for tool in memcheck racecheck initcheck; do
    if command -v compute-sanitizer >/dev/null; then
      sanitize "$tool"
    else
      skip "$tool" "compute-sanitizer is not on PATH"
    fi
  done
else
  skip build "only with --device cuda"
  skip tests "only with --device cuda"
  if [ ${#quick[@]} -gt 0 ]; then
    bench operator 60 --quick --seconds 0.5
    bench sweep 60 --sweep --seconds 0.3 --peer jumpstart
    steps 60 --seconds 1
  else
    bench operator 300
    bench sweep 120 --sweep
    steps 120
  fi
  skip sanitizers "only with --device cuda"
fi

echo
"$PYTHON" -m benchmarks.goals "$OUT" --device "$device"
exit $failed
