#!/usr/bin/env bash
# Tests, benchmarks and sanitizers that need a GPU, in stages, without network access.
#   benchmarks/gpu.sh                         all stages; needs torch, nvcc, ninja, pybind11 and pytest
#   benchmarks/gpu.sh smoke tests             these stages, in this order
#   benchmarks/gpu.sh --device cpu --quick    on any machine, to check that the stages run
# Results, a log and the tests' tracebacks (failures.log) are written to $OUT, by default benchmarks/results, as soon
# as they exist. A stage that fails does not stop the others; each is stopped after its limit. To measure the authors'
# code too, set AUTHORS to a checkout of it; to train on CIFAR-10, set CIFAR to its .npz and name the stage cifar.
set -u
cd "$(dirname "$0")/.." || exit 1

# The stages in order, and their limits in seconds.
names=(info build smoke tests graphs large kernels operator bias linked sweep steps keys watching memcheck racecheck initcheck)
declare -A limits=(
  [info]=30 [build]=200 [smoke]=60 [tests]=240 [graphs]=180 [large]=60 [kernels]=60 [operator]=240 [bias]=150
  [linked]=120 [sweep]=120 [steps]=240 [keys]=60 [watching]=60 [memcheck]=90 [racecheck]=90 [initcheck]=90
  [cifar]=580
)

device=cuda
quick=()
stages=()
while [ $# -gt 0 ]; do
  case $1 in
    --device) device=${2:-}; shift ;;
    --quick) quick=(--quick) ;;
    *)
      if [ -z "${limits[$1]:-}" ]; then
        echo "error: unknown argument $1: there are --device cuda|cpu, --quick and the stages ${names[*]} cifar" >&2
        exit 2
      fi
      stages+=("$1")
      ;;
  esac
  shift
done
if [ "$device" != cuda ] && [ "$device" != cpu ]; then
  echo "error: --device must be cuda or cpu, got '$device'" >&2
  exit 2
fi
[ ${#stages[@]} -gt 0 ] || stages=("${names[@]}")
export PYTHON=${PYTHON:-python3} PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
OUT=${OUT:-benchmarks/results}
mkdir -p "$OUT"
log=$OUT/$device.log
failures=$OUT/failures.log
: >"$log"
: >"$failures"
failed=0
authors=()
[ -z "${AUTHORS:-}" ] || authors=(--authors "$AUTHORS")
parallel=()
! "$PYTHON" -c "import xdist" 2>/dev/null || parallel=(-n "$(($(nproc) < 12 ? $(nproc) : 12))")

# stage NAME COMMAND...: log the output, print the outcome, stop after the limit
stage() {
  local name=$1 limit=${limits[$1]} begin=$SECONDS outcome=ok before code
  shift
  before=$(wc -l <"$log")
  printf '\n==== %s: %s\n' "$name" "$*" >>"$log"
  timeout --signal=INT --kill-after=20 "$limit" "$@" >>"$log" 2>&1 # interrupted, pytest reports the failures so far
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

# bench STAGE OPTIONS...
bench() {
  local name=$1
  shift
  stage "$name" "$PYTHON" -m jumpstart_kernels bench --device "$device" --output "$OUT/${device}_$name.json" "$@"
}

# run_tests STAGE OPTIONS...: pytest, with tracebacks written to failures.log at once
run_tests() {
  local name=$1
  shift
  stage "$name" env FAILURES="$failures" "$PYTHON" -m pytest -m gpu -v -p no:cacheprovider --tb=short "$@"
}

# sanitize TOOL: check odd shapes with every backend, forward and backward, without and with a bias
sanitize() {
  if ! command -v compute-sanitizer >/dev/null; then
    skip "$1" "compute-sanitizer is not on PATH"
    return
  fi
  # Allocate from the driver, so that the tools know the bounds of each tensor.
  local bias
  for bias in "" --bias; do
    stage "$1" env PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool "$1" --error-exitcode 9 --print-limit 20 \
      "$PYTHON" -m jumpstart_kernels bench --device cuda --peer jumpstart --rounds 1 --pass forward+backward \
      --backend native --backend triton --dtype float32 --dtype bfloat16 --dtype float64 \
      --shape 33x7 --shape 1025x515 --shape 3x5x9x7 --shape 3x70x33x31 $bias
  done
}

graphs=()
[ "$device" = cpu ] || graphs=(--graphs)
for name in "${stages[@]}"; do
  case $name in
    info) stage info "$PYTHON" -m jumpstart_kernels info ;;
    smoke)
      for bias in "" --bias; do
        stage smoke "$PYTHON" -m jumpstart_kernels bench --device "$device" --rounds 1 --peer jumpstart \
          --shape 33x7 --shape 4096x1024 --shape 3x5x9x7 --shape 16x64x28x28 $bias
      done
      ;;
    operator)
      if [ "$device" = cuda ]; then
        bench operator "${graphs[@]}" --seconds 1 "${authors[@]}" "${quick[@]}"
      else
        bench operator --seconds 0.5 "${authors[@]}" "${quick[@]}"
      fi
      ;;
    bias)
      if [ "$device" = cuda ]; then
        # Of the compiled peers only the one without a penalty: compiling takes longer than measuring.
        bench bias --bias "${graphs[@]}" --seconds 0.5 --peer jumpstart --peer compiled_plain \
          --shape 256x64x112x112 --shape 16384x16384 --shape 256x1024 --shape 256x4
      else
        bench bias --bias --seconds 0.5 "${quick[@]}"
      fi
      ;;
    linked) bench linked --linked --seconds 0.3 "${quick[@]}" ;;
    keys)
      size=(--units 4096 --samples 50000)
      [ "$device" = cuda ] || size=(--units 256 --samples 2000)
      stage keys "$PYTHON" -m benchmarks.pruning_keys --device "$device" "${size[@]}" \
        --output "$OUT/${device}_pruning_keys.json"
      ;;
    watching)
      size=(--seconds 4)
      [ "$device" = cuda ] || size=(--rounds 1 --network "50 layers of 4 units")
      stage watching "$PYTHON" -m benchmarks.watching --device "$device" "${size[@]}" \
        --output "$OUT/${device}_watching.json"
      ;;
    cifar)
      if [ -z "${CIFAR:-}" ]; then
        skip cifar "CIFAR names no file"
        continue
      fi
      size=()
      [ "$device" = cuda ] || size=(--small --epochs 1 --width 8)
      stage cifar "$PYTHON" -m benchmarks.paper.cifar_full --data "$CIFAR" --device "$device" "${size[@]}" \
        --output "$OUT/${device}_cifar.json"
      ;;
    sweep)
      if [ "$device" = cuda ]; then
        bench sweep --sweep "${graphs[@]}" --seconds 0.5 --peer jumpstart --peer compiled --peer batch_norm
      else
        bench sweep --sweep --seconds 0.3 --peer jumpstart
      fi
      ;;
    steps)
      modes=(--mode eager)
      [ "$device" = cpu ] || modes+=(--mode graphs --mode compiled)
      # Those that compile fast come first, in case the limit stops the stage.
      stage steps "$PYTHON" -m benchmarks.steps --device "$device" --output "$OUT/${device}_steps.json" --seconds 4 \
        --network resnet50 --network mlp --network convnet --network 50x4 "${modes[@]}" "${authors[@]}" "${quick[@]}"
      ;;
    build | tests | graphs | large | kernels | *check)
      if [ "$device" = cpu ]; then
        skip "$name" "only with --device cuda"
        continue
      fi
      case $name in
        build) stage build env JUMPSTART_BUILD=require "$PYTHON" setup.py build_ext --inplace ;;
        # A failed capture leaves its process unusable, so the stage graphs runs each test in its own. Tests that take
        # most of the memory run alone, in the stage large.
        tests)
          run_tests tests "${parallel[@]}" --maxfail=40 --continue-on-collection-errors -k "not two_to_the_31" \
            --ignore tests/test_cuda_graphs.py --ignore tests/ops/test_native_cuda.py tests
          ;;
        graphs)
          stage graphs env FAILURES="$failures" bash -c '
            set -o pipefail
            "$PYTHON" -m pytest -m gpu --collect-only -q -p no:cacheprovider "$@" | grep :: |
              xargs -d "\n" -P 4 -n 1 "$PYTHON" -m pytest -q -p no:cacheprovider --tb=short
          ' graphs tests/test_cuda_graphs.py tests/ops/test_native_cuda.py
          ;;
        large) run_tests large -k two_to_the_31 tests/ops/test_jumpstart_activation_sizes.py ;;
        kernels) stage kernels "$PYTHON" -m benchmarks.kernels --output "$OUT/cuda_kernels.json" ;;
        *) sanitize "$name" ;;
      esac
      ;;
  esac
done

echo
"$PYTHON" -m benchmarks.goals "$OUT" --device "$device"
exit $failed
