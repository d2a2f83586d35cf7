#!/bin/bash
# Runs tests and benchmarks on a machine with a Hopper GPU, with a library built elsewhere: bindings/python/flashmla/libflashmla.so.2
# and _cdef.py; libflashmla/generated/kernels.json, by which records say of which kernels they are.
# usage: benchmarks/on_gpu.sh OUT [PART...]      parts, by default tests, sanitizer and bench:
#   tests        what only a GPU shows, random calls       -> OUT/gpu-tests.txt (pytest's summary), OUT/failures.txt
#   sanitizer    compute-sanitizer on a reduced set        -> OUT/sanitizer.txt
#   faults       faults of the kernels, made by tests/gpu/build_faults.py -> OUT/faults.txt
#   bench        the benchmark cases                       -> OUT/dense_decode.jsonl
#   grid         the grid of shapes                        -> OUT/grid.jsonl
#   traces       batches of a production trace             -> OUT/traces.jsonl
#   plans        plans made afresh, and batch invariant    -> OUT/plans.jsonl
#   quantised    dense_decode over quantised caches        -> OUT/quantised.jsonl
#   sparse       sparse_decode beside other libraries      -> OUT/sparse_decode.jsonl
#   sparse-grid  sparse_decode over a grid of shapes       -> OUT/sparse_grid.jsonl
#   sparse-plans what plans of sparse_decode cost          -> OUT/sparse_plans.jsonl
#   head-sizes   dense_decode of every head size           -> OUT/head_sizes.jsonl
#   writers      writers and readers of the KV cache       -> OUT/writers.jsonl
#   tuned        a tuning file is made, and calls with it and without -> OUT/flashmla.tuning, OUT/tuned.jsonl
#   models       models of transformers: tests, decode speed, forms of prefill -> OUT/gpu-tests.txt, OUT/transformers_decode.jsonl, OUT/prefill_forms.jsonl
#   host         host time of calls                        -> OUT/host.jsonl
#   pools        steps and swaps of a pool                 -> OUT/pool_steps.jsonl, OUT/pool_swap.jsonl
#   profile      what a profile costs a call               -> OUT/profile_overhead.txt
#   peers-tests  FlashMLA's own tests of decode            -> OUT/peers-tests.txt
# Environment: COMMIT names the sources in the records; *_LIMIT are seconds; GRID holds further arguments of grid.py, such
# as "--shard 0/2 --done FILE"; FLASHMLA_TESTS is the folder `tests` of FlashMLA, PEERS_TESTS which of its tests run (by
# default bf16, fp16 and sparse), SPARSE_CASES a part of those of sparse, such as 0::3. Peers to time beside: the module
# flash_mla on PYTHONPATH, FA3_LIBRARY and VLLM_FLASHMLA_LIBRARY (see peer_libraries.py).
# shellcheck disable=SC2329 # the parts are called by their names, at the end
set -u
cd "$(dirname "$0")/.." || exit
out=${1:?usage: on_gpu.sh OUT [tests] [sanitizer] [faults] [bench] [grid] [traces] [plans] [quantised] [sparse] [sparse-grid] [sparse-plans] [head-sizes] [writers] [tuned] [models] [host] [pools] [profile] [peers-tests]}
shift
mkdir -p "$out"
export PYTHONPATH=$PWD/bindings/python:$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
export FLASHMLA_TEST_FAILURES=$out/failures.txt
status=0

suite() { # name, pytest arguments...
  local name=$1
  shift
  HYPOTHESIS_PROFILE=${HYPOTHESIS_PROFILE:-gpu} timeout -k 5 "${TEST_LIMIT:-400}" python3 -m pytest -p no:cacheprovider -v -rs -n "${WORKERS:-8}" "$@" > "$out/$name.log" 2>&1 || status=1
  # A suite that is stopped has no summary: what failed until then is named, and how many passed.
  { echo "== pytest $*"
    grep -E "^(backend|hypothesis|figure|FAILED|ERROR|SKIPPED|calls drawn)| passed| failed|%\] (FAILED|ERROR) " "$out/$name.log" | sort -u
    grep -qE " (passed|failed).* in " "$out/$name.log" || echo "stopped; until then $(grep -c "%\] PASSED " "$out/$name.log") passed"
    echo; } >> "$out/gpu-tests.txt"
}

run_tests() {
  rm -f "$FLASHMLA_TEST_FAILURES"
  { nvidia-smi --query-gpu=name,driver_version --format=csv,noheader
    echo "kernels $(python3 -c 'import sys; sys.path.insert(0, "benchmarks"); import digest; print(digest.current())')"
  } > "$out/gpu-tests.txt"
  suite tests-gpu tests/gpu tests/ops tests/pool tests/tuning tests/integrations/test_torch_layer.py tests/unit/test_survivor.py -m gpu
  suite tests-property --timeout 120 tests/ops tests/test_invalid_calls.py -m "not gpu" -k gpu
  cat "$out/gpu-tests.txt"
}

run_sanitizer() {
  for tool in memcheck racecheck synccheck; do
    timeout -k 5 "${SANITIZER_LIMIT:-120}" compute-sanitizer --tool "$tool" --error-exitcode 9 python3 tests/gpu/sanitizer_cases.py \
      > "$out/sanitizer-$tool.log" 2>&1 || status=1
    echo "$tool: $(grep -E 'ERROR SUMMARY|RACECHECK SUMMARY|hazard' "$out/sanitizer-$tool.log" | tail -1)"
  done > "$out/sanitizer.txt"
  cat "$out/sanitizer.txt"
}

run_faults() {
  timeout -k 5 "${FAULTS_LIMIT:-500}" python3 tests/gpu/run_faults.py > "$out/faults.txt" 2>&1 || status=1
  cat "$out/faults.txt"
}

timed() { # seconds, program and its record's name, further arguments...
  local seconds=$1 name=$2
  shift 2
  timeout -k 5 "$seconds" python3 "benchmarks/$name.py" --commit "${COMMIT:-}" --record "$out/$name.jsonl" "$@" || status=1
}

run_bench() { timed "${BENCH_LIMIT:-300}" dense_decode; }
# The grid ends by itself before its limit, so that no record is cut off.
# shellcheck disable=SC2086 # GRID holds several arguments
run_grid() { timed "$((${GRID_LIMIT:-400} + 30))" grid --limit-seconds "${GRID_LIMIT:-400}" ${GRID:-}; }
run_traces() { timed "${TRACES_LIMIT:-120}" traces; }
run_host() { timed "${HOST_LIMIT:-120}" host; }
run_pools() {
  timed "${POOLS_LIMIT:-60}" pool_steps --device cuda
  timed "${POOLS_LIMIT:-60}" pool_swap
}
run_profile() {
  { nvidia-smi --query-gpu=name,driver_version --format=csv,noheader
    echo "commit ${COMMIT:-}"
    timeout -k 5 "${PROFILE_LIMIT:-60}" python3 benchmarks/profile_overhead.py
  } > "$out/profile_overhead.txt" || status=1
  cat "$out/profile_overhead.txt"
}
run_plans() { timed "${PLANS_LIMIT:-120}" plans; }
run_quantised() { timed "${QUANTISED_LIMIT:-120}" quantised; }
run_sparse() { timed "${SPARSE_LIMIT:-200}" sparse_decode; }
run_sparse_grid() { timed "$((${SPARSE_GRID_LIMIT:-90} + 30))" sparse_grid --limit-seconds "${SPARSE_GRID_LIMIT:-90}"; }
run_sparse_plans() { timed "${SPARSE_PLANS_LIMIT:-120}" sparse_plans; }
run_head_sizes() { timed "${HEAD_SIZES_LIMIT:-120}" head_sizes; }
run_models() {
  suite tests-models tests/integrations -m gpu
  timed "${MODELS_LIMIT:-120}" transformers_decode
  timed "${MODELS_LIMIT:-120}" prefill_forms
}
run_tuned() {
  timeout -k 5 "${TUNE_LIMIT:-120}" python3 -m flashmla tune --output "$out/flashmla.tuning" || status=1
  timed "${TUNED_LIMIT:-200}" tuned "$out/flashmla.tuning"
}
run_writers() { timed "${WRITERS_LIMIT:-300}" writers; }

peers_test() { # name, arguments of run_flashmla_tests.py...
  local log="$out/peers-tests-$1.log"
  shift
  timeout -k 5 "${PEERS_TESTS_LIMIT:-200}" python3 tests/peers/run_flashmla_tests.py "$@" > "$log" 2>&1 || status=1
  tail -n 1 "$log"
}

run_peers_tests() {
  local tests=${FLASHMLA_TESTS:?the folder tests of FlashMLA is needed}
  for name in ${PEERS_TESTS:-bf16 fp16 sparse}; do
    case $name in
      sparse) peers_test sparse ${SPARSE_CASES:+--cases "$SPARSE_CASES"} "$tests/test_flash_mla_sparse_decoding.py" ;;
      *) peers_test "$name" "$tests/test_flash_mla_dense_decoding.py" --dtype "$name" ;;
    esac
  done > "$out/peers-tests.txt"
  cat "$out/peers-tests.txt"
}

for step in "${@:-tests sanitizer bench}"; do
  for name in $step; do "run_${name//-/_}"; done
done
exit $status
