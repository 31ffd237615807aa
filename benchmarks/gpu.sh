#!/usr/bin/env bash
# Everything that needs a GPU, in under nine minutes and without a network: build, test, measure, sanitize.
#   benchmarks/gpu.sh                         with torch, nvcc, ninja, pybind11 and pytest installed
#   benchmarks/gpu.sh --sanitize              the GPU tests under compute-sanitizer, in nine minutes more
#   benchmarks/gpu.sh --device cpu --quick    on any machine, to see that its stages run
# Results and one log go to $OUT, by default benchmarks/results. A stage that fails stops no other.
set -u
cd "$(dirname "$0")/.." || exit 1

device=cuda
quick=()
sanitize=no
while [ $# -gt 0 ]; do
  case $1 in
    --device) device=${2:-}; shift ;;
    --quick) quick=(--quick) ;;
    --sanitize) sanitize=yes ;;
    *) echo "error: unknown argument $1: there are --device cuda|cpu, --quick and --sanitize" >&2; exit 2 ;;
  esac
  shift
done
if [ "$device" != cuda ] && [ "$device" != cpu ]; then
  echo "error: --device must be cuda or cpu, got '$device'" >&2
  exit 2
fi
if [ "$sanitize" = yes ] && [ "$device" != cuda ]; then
  echo "error: --sanitize needs --device cuda" >&2
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

# sanitize TOOL SECONDS COMMAND...
sanitize() {
  local tool=$1 limit=$2
  shift 2
  if command -v compute-sanitizer >/dev/null; then
    stage "$tool" "$limit" compute-sanitizer --tool "$tool" --error-exitcode 9 --print-limit 20 \
      --target-processes all "$@"
  else
    skip "$tool" "compute-sanitizer is not on PATH"
  fi
}

build() {
  stage info 30 "$PYTHON" -m jumpstart_kernels info
  stage build 100 env JUMPSTART_REQUIRE_NATIVE=1 "$PYTHON" setup.py build_ext --inplace
}

if [ "$sanitize" = yes ]; then # the limits add up to 520 seconds
  build
  # Memory from the driver itself, whose ends the tools know; but graphs need PyTorch's allocator.
  export PYTORCH_NO_CUDA_MEMORY_CACHING=1
  for tool in memcheck racecheck initcheck; do
    sanitize "$tool" 110 "$PYTHON" -m pytest -m gpu -q -x -p no:cacheprovider tests/kernels tests/ops
  done
  unset PYTORCH_NO_CUDA_MEMORY_CACHING
  sanitize memcheck 60 "$PYTHON" -m pytest -m gpu -q -x -p no:cacheprovider tests/test_cuda_graphs.py
  exit $failed
fi

if [ "$device" = cuda ]; then # the limits add up to 535 seconds
  build
  stage tests 110 "$PYTHON" -m pytest -m gpu -q -p no:cacheprovider
  bench operator 120 --graphs --seconds 1 "${quick[@]}"
  bench sweep 30 --sweep --graphs --seconds 0.5 --peer jumpstart --peer composite --peer batch_norm
  steps 85 --mode eager --mode compiled --seconds 8
  for tool in memcheck racecheck initcheck; do # odd shapes through every backend, with values and gradients
    sanitize "$tool" 20 "$PYTHON" -m jumpstart_kernels bench --device cuda --peer jumpstart --rounds 1 \
      --shape 33x7 --shape 3x5x9x7 --dtype float32
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
