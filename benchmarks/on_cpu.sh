#!/bin/bash
# Tests and times the CPU backend under instruction sets that are forced in turn, with a library built elsewhere
# (bindings/python/flashmla/libflashmla.so.*) on a machine with Python, PyTorch, NumPy, cffi, pytest, hypothesis and ml_dtypes.
# usage: benchmarks/on_cpu.sh OUT [SET...]    by default amx and avx512_bf16; of each that the machine has:
#   random calls and the tests of instruction sets -> OUT/tests-SET.log
#   the benchmark, for each number of threads      -> OUT/cpu-SET-THREADS.txt, OUT/cpu.jsonl
# Environment: THREADS (default: 2 and all), ROUNDS, HYPOTHESIS_PROFILE, TEST_LIMIT and BENCH_LIMIT in seconds, COMMIT.
set -u
cd "$(dirname "$0")/.." || exit
out=${1:?usage: on_cpu.sh OUT [SET...]}
shift
[ $# -gt 0 ] || set -- amx avx512_bf16
mkdir -p "$out"
export PYTHONPATH=$PWD/bindings/python:$PWD/tests:$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
status=0

chosen() { FLASHMLA_CPU_ISA=$1 python3 -c 'import flashmla; print(flashmla.info()["cpu_isa"])'; }

read -r -a threads <<< "${THREADS:-2 $(nproc)}"
for set in "$@"; do
  if [ "$(chosen "$set")" != "$set" ]; then
    echo "$set: this machine lacks it"
    continue
  fi
  export FLASHMLA_CPU_ISA=$set
  HYPOTHESIS_PROFILE=${HYPOTHESIS_PROFILE:-ci} CUDA_VISIBLE_DEVICES='' timeout -k 5 "${TEST_LIMIT:-240}" \
    python3 -m pytest -p no:cacheprovider tests/unit/test_cpu_isa.py tests/ops -m "not gpu" -k "cpu or $set" \
    > "$out/tests-$set.log" 2>&1 || status=1
  grep -E "^(backend|hypothesis|FAILED|ERROR|calls drawn)| passed| failed" "$out/tests-$set.log"
  for count in "${threads[@]}"; do
    timeout -k 5 "${BENCH_LIMIT:-200}" python3 benchmarks/cpu_vs_torch.py --threads "$count" --rounds "${ROUNDS:-15}" \
      --commit "${COMMIT:-}" --record "$out/cpu.jsonl" --force 2>&1 | tee "$out/cpu-$set-$count.txt"
    [ "${PIPESTATUS[0]}" = 0 ] || status=1
  done
done
exit $status
