#!/bin/bash
# Runs the GPU tests and the benchmark on a machine with a Hopper GPU, with a library built elsewhere (bindings/python/flashmla/libflashmla.so.1).
# usage: benchmarks/on_gpu.sh OUT [tests] [sanitizer] [bench]      (default: all three)
# Writes OUT/gpu-tests.txt (pytest's summary), OUT/sanitizer.txt and OUT/dense_decode.jsonl. COMMIT names the sources in the record.
set -u
cd "$(dirname "$0")/.."
out=${1:?usage: on_gpu.sh OUT [tests] [sanitizer] [bench]}
shift
mkdir -p "$out"
export PYTHONPATH=$PWD/bindings/python:$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
status=0

suite() { # name, pytest arguments...
  local name=$1
  shift
  HYPOTHESIS_PROFILE=gpu timeout -k 5 "${TEST_LIMIT:-240}" python3 -m pytest -p no:cacheprovider -rs "$@" > "$out/$name.log" 2>&1 || status=1
  { echo "== pytest $*"
    grep -E "^(flashmla|backend|kernel|hypothesis|figure|FAILED|ERROR|SKIPPED|calls drawn)| passed| failed" "$out/$name.log" | sort -u
    echo; } >> "$out/gpu-tests.txt"
}

run_tests() {
  nvidia-smi --query-gpu=name,driver_version --format=csv,noheader > "$out/gpu-tests.txt"
  suite tests-gpu tests/gpu
  suite tests-property -n "${WORKERS:-8}" --timeout 120 tests/property tests/stateful -k gpu
  cat "$out/gpu-tests.txt"
}

run_sanitizer() {
  for tool in memcheck racecheck synccheck; do
    timeout -k 5 "${SANITIZER_LIMIT:-120}" compute-sanitizer --tool "$tool" --error-exitcode 9 python3 tests/gpu/sanitizer_cases.py \
      > "$out/sanitizer-$tool.log" 2>&1 || status=1
    echo "$tool: $(grep -E 'ERROR SUMMARY|RACECHECK SUMMARY|hazard' "$out/sanitizer-$tool.log" | tail -1)"
  done | tee "$out/sanitizer.txt"
}

run_bench() {
  timeout -k 5 "${BENCH_LIMIT:-300}" python3 benchmarks/dense_decode.py --commit "${COMMIT:-}" --record "$out/dense_decode.jsonl" || status=1
}

for step in "${@:-tests sanitizer bench}"; do
  for name in $step; do "run_$name"; done
done
exit $status
