#!/usr/bin/env bash
# Tests, benchmarks and sanitizers that need a GPU, in stages, without network access.
#   benchmarks/gpu.sh                         all stages; needs torch, nvcc, ninja, pybind11 and pytest
#   benchmarks/gpu.sh smoke tests             these stages, in this order
#   benchmarks/gpu.sh --run first             a planned run: first, second or third
#   benchmarks/gpu.sh --run third --seconds N ends within N seconds; without --run, too
#   benchmarks/gpu.sh --device cpu --quick    on any machine, to check that the stages run
# Results, a log and the tests' tracebacks (failures.log) are written to $OUT, by default benchmarks/results, with
# --quick build/quick, as soon as they exist. A stage that fails does not stop the others; each is stopped after its
# limit. What make gpu-package has prepared is used. To measure the authors' code too, set AUTHORS to a checkout of
# it; to train on CIFAR-10, set CIFAR to its .npz and name the stage cifar, or run third; --minutes N is for it.
set -u
cd "$(dirname "$0")/.." || exit 1

# The stages in order, each with its limit in seconds, the planned run that it belongs to, and its limit there. Of the
# runs' seconds build takes some only where it is not prepared, and cifar has what is left.
plan="
  info            30  first   30
  build          200  first   200
  smoke           60  first   30
  tests          240  first   110
  graphs         180  first   40
  operator_short  90  first   45
  steps_short     90  first   55
  large           60  second  35
  kernels         60  second  25
  plans           90  second  30
  operator       240  second  100
  bias           150  second  45
  steps          240  second  70
  memcheck        90  second  35
  racecheck       90  second  35
  sweep          120  third   35
  linked         120  third   70
  keys            60  third   30
  watching        60  third   45
  initcheck       90  third   35
  cifar          580  third   580
"
declare -A run_seconds=([first]=330 [second]=400 [third]=280)
spare=20 # of these: for a stage that does not end when it is told to, and for the table of goals
least=15 # a stage that has less is skipped

names=() # of all stages, but for those that are a part of others, and the training
declare -A limits=() limits_there=() runs=()
while read -r name limit run limit_there; do
  [ -n "$name" ] || continue
  limits[$name]=$limit limits_there[$name]=$limit_there
  runs[$run]="${runs[$run]:-} $name"
  [[ $name == *_short || $name == cifar ]] || names+=("$name")
done <<<"$plan"

fail() {
  echo "error: $1" >&2
  exit 2
}

device=cuda run='' seconds='' minutes=''
quick=()
stages=()
while [ $# -gt 0 ]; do
  case $1 in
    --quick) quick=(--quick) ;;
    --device | --run | --seconds | --minutes)
      [ $# -gt 1 ] || fail "$1 needs a value"
      declare "${1#--}=$2"
      shift
      ;;
    *)
      [ -n "${limits[$1]:-}" ] || fail "unknown argument $1: there are --device cuda|cpu, --quick, --run NAME, \
--seconds N, --minutes N and the stages ${names[*]} operator_short steps_short cifar"
      stages+=("$1")
      ;;
  esac
  shift
done
[ "$device" = cuda ] || [ "$device" = cpu ] || fail "--device must be cuda or cpu, got '$device'"
for value in "$seconds" "$minutes"; do
  [[ $value =~ ^([1-9][0-9]*)?$ ]] || fail "--seconds and --minutes must be positive integers, got '$value'"
done
if [ -n "$run" ]; then
  [ -n "${runs[$run]:-}" ] || fail "--run must be first, second or third, got '$run'"
  [ ${#stages[@]} -eq 0 ] || fail "--run $run and the stage ${stages[0]} exclude each other"
  read -ra stages <<<"${runs[$run]}"
  for name in "${stages[@]}"; do limits[$name]=${limits_there[$name]}; done
  seconds=${seconds:-${run_seconds[$run]}}
fi
[ ${#stages[@]} -gt 0 ] || stages=("${names[@]}")
run_ends=$((${seconds:-1000000} - spare)) # of SECONDS, which counts from the start

# JUMPSTART_BUILD: only the stage build builds, none at first use
export PYTHON=${PYTHON:-python3} PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1 JUMPSTART_BUILD=never
[ ${#quick[@]} -eq 0 ] || OUT=${OUT:-build/quick} # not where the results are that the documentation shows
OUT=${OUT:-benchmarks/results}
mkdir -p "$OUT"
log=$OUT/$device.log
failures=$OUT/failures.log
: >"$log"
: >"$failures"
failed=0
authors=()
[ -z "${AUTHORS:-}" ] || authors=(--authors "$AUTHORS")
export WORKERS=$(($(nproc) < 12 ? $(nproc) : 12))
parallel=()
! "$PYTHON" -c "import xdist" 2>/dev/null || parallel=(-n "$WORKERS")

# left: seconds that the stage still has, of its own and of the run
left() {
  local ends=$((stage_ends < run_ends ? stage_ends : run_ends))
  echo $((ends > SECONDS ? ends - SECONDS : 0))
}

# stage NAME COMMAND...: log the output, print the outcome, stop after the limit
stage() {
  local name=$1 limit begin=$SECONDS outcome=ok before code
  limit=$(left)
  shift
  if [ "$limit" -lt $least ]; then
    skip "$name" "only $limit s are left"
    return
  fi
  before=$(wc -l <"$log")
  printf '\n==== %s: %s\n' "$name" "$*" >>"$log"
  # Interrupted, pytest reports the failures so far; a shell in the background has its children ignore that.
  timeout --signal=INT --kill-after=10 "$limit" env --default-signal=INT "$@" >>"$log" 2>&1
  code=$?
  if [ "$code" -ne 0 ]; then
    failed=1
    outcome="failed ($code)"
    [ "$code" -ne 124 ] && [ "$code" -ne 137 ] || outcome="stopped after $limit s"
  fi
  printf '%-14s %4d s  %s\n' "$name" $((SECONDS - begin)) "$outcome"
  [ "$code" -eq 0 ] || tail -n "+$((before + 1))" "$log" | tail -n 15
}

skip() {
  printf '%-14s    -    skipped: %s\n' "$1" "$2"
}

# bench STAGE OPTIONS...
bench() {
  local name=$1
  shift
  stage "$name" "$PYTHON" -m jumpstart_kernels bench --device "$device" \
    --output "$OUT/${device}_${name%_short}.json" "$@"
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
  # Allocate from the driver, so that the tools know the bounds of each tensor. Deterministic memory is filled, which
  # keeps small results apart, but is nothing to ask initcheck about.
  local bias run=(-m jumpstart_kernels)
  [ "$1" != memcheck ] || run=(-c "import sys, torch; torch.use_deterministic_algorithms(True, warn_only=True)
from jumpstart_kernels.cli import main
sys.exit(main())")
  for bias in "" --bias; do
    stage "$1" env PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool "$1" --error-exitcode 9 --print-limit 20 \
      "$PYTHON" "${run[@]}" bench --device cuda --peer jumpstart --rounds 1 --pass forward+backward \
      --backend native --backend triton --dtype float32 --dtype bfloat16 --dtype float64 \
      --shape 33x7 --shape 130x72 --shape 1025x515 --shape 3x5x9x7 --shape 3x70x33x31 $bias
  done
}

# What make gpu-package has prepared. An extension of other sources is left where it is.
prepared=build/gpu
extension=''
kernels=''
compiled() {
  find $prepared/triton -name "*.cubin" -not -name "triton_*" | wc -l # but for those of torch.compile
}
unpack() {
  [ ! -d $prepared/triton ] || return 0
  "$PYTHON" -m tarfile -e $prepared/package.tar.xz $prepared >>"$log" 2>&1 || return
  find $prepared/triton -name "__grp__*" -exec sed -i "s|@cache@|$PWD/$prepared/triton|g" {} +
}
if [ "$device" = cuda ] && [ -f $prepared/package.tar.xz ]; then
  if unpack; then
    if sha256sum --check --status $prepared/sources.sha256; then
      cp $prepared/extension/* jumpstart_kernels/ && extension=prepared
    fi
    export TRITON_CACHE_DIR=$PWD/$prepared/triton
    kernels=$(compiled)
    outcome="$kernels kernels of Triton, extension: ${extension:-of other sources}"
  else
    rm -rf $prepared/triton
    outcome="damaged: it is not used"
  fi
  printf '%-14s %4d s  %s\n' prepared $SECONDS "$outcome"
fi

graphs=()
[ "$device" = cpu ] || graphs=(--graphs)
planned=0 # when the stages so far were to end; what a planned run saves goes to those that follow
for name in "${stages[@]}"; do
  stage_ends=$((SECONDS + limits[$name]))
  if [ -n "$run" ] && [ "$name" != build ]; then
    planned=$((planned + limits[$name]))
    stage_ends=$((planned > stage_ends ? planned : stage_ends))
  fi
  case $name in
    info) stage info "$PYTHON" -m jumpstart_kernels info ;;
    smoke)
      for bias in "" --bias; do
        stage smoke "$PYTHON" -m jumpstart_kernels bench --device "$device" --rounds 1 --peer jumpstart \
          --shape 33x7 --shape 256x1024 --shape 4096x1024 --shape 3x5x9x7 --shape 16x64x28x28 $bias
      done
      ;;
    operator_short) # the shapes that have goals
      if [ "$device" = cuda ]; then
        bench operator_short --peer jumpstart "${graphs[@]}" --seconds 0.5 \
          --shape 256x64x112x112 --shape 16384x16384 --shape 256x1024 --shape 256x4
      else
        bench operator_short --peer jumpstart --seconds 0.3 "${quick[@]}"
      fi
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
      size=(--minutes "${minutes:-$(($(left) < 120 ? 1 : $(left) / 60))}")
      [ "$device" = cuda ] || size+=(--small --epochs 1 --width 8)
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
    steps_short)
      stage steps_short "$PYTHON" -m benchmarks.steps --device "$device" --output "$OUT/${device}_steps.json" \
        --seconds 4 --network resnet50 "${quick[@]}"
      ;;
    steps)
      modes=(--mode eager)
      [ "$device" = cpu ] || modes+=(--mode graphs --mode compiled)
      # Those that compile fast come first, in case the limit stops the stage.
      stage steps "$PYTHON" -m benchmarks.steps --device "$device" --output "$OUT/${device}_steps.json" --seconds 4 \
        --network resnet50 --network mlp --network convnet --network 50x4 "${modes[@]}" "${authors[@]}" "${quick[@]}"
      ;;
    build | tests | graphs | large | kernels | plans | *check)
      if [ "$device" = cpu ]; then
        skip "$name" "only with --device cuda"
        continue
      fi
      case $name in
        build)
          has_cuda="from jumpstart_kernels.ops import native; raise SystemExit(not native.has_cuda())"
          if [ -n "$extension" ] && "$PYTHON" -c "$has_cuda" >>"$log" 2>&1; then
            skip build "the extension is there"
          else
            stage build env JUMPSTART_BUILD=require "$PYTHON" setup.py build_ext --inplace
          fi
          ;;
        # A failed capture leaves its process unusable, so the stage graphs runs each test in its own. Tests that take
        # most of the memory run alone, in the stage large.
        tests)
          # Every worker imports all files: only those that can have such tests. tests/bench, which is first, has the
          # one that takes longest.
          mapfile -t files < <(grep -rlwE "gpu|target" tests --include="test_*.py" | sort |
            grep -v -e tests/test_cuda_graphs.py -e tests/ops/test_native_cuda.py)
          run_tests tests "${parallel[@]}" --maxfail=40 --continue-on-collection-errors -k "not two_to_the_31" \
            "${files[@]}"
          ;;
        graphs)
          stage graphs env FAILURES="$failures" bash -c '
            set -o pipefail
            "$PYTHON" -m pytest -m gpu --collect-only -q -p no:cacheprovider "$@" | grep :: |
              xargs -d "\n" -P "$WORKERS" -n 1 "$PYTHON" -m pytest -q -p no:cacheprovider --tb=short
          ' graphs tests/test_cuda_graphs.py tests/ops/test_native_cuda.py
          ;;
        large)
          run_tests large -k two_to_the_31 tests/ops/test_jumpstart_activation_sizes.py \
            tests/ops/test_large_activations.py
          ;;
        kernels) stage kernels "$PYTHON" -m benchmarks.kernels --output "$OUT/cuda_kernels.json" ;;
        plans) stage plans "$PYTHON" -m benchmarks.plans --rounds 1 --output "$OUT/cuda_plans.json" ;;
        *) sanitize "$name" ;;
      esac
      ;;
  esac
done

[ -z "$kernels" ] || echo "Triton: $kernels kernels were there, $(($(compiled) - kernels)) compiled"
rm -f "$OUT"/*.part # of a file that was being written
echo
"$PYTHON" -m benchmarks.goals "$OUT" --device "$device"
exit $failed
