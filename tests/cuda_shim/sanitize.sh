#!/bin/sh
# On a machine with a GPU and the CUDA toolkit: races, stray and uninitialised accesses, and misused
# barriers in the kernels. Usage: tests/cuda_shim/sanitize.sh [pytest's -k expression]
set -e
cd "$(dirname "$0")/../.."
for tool in memcheck racecheck initcheck synccheck; do
  echo "== compute-sanitizer --tool $tool"
  compute-sanitizer --tool "$tool" --error-exitcode 1 --target-processes all \
    "${PYTHON:-python3}" -m pytest -q -m gpu tests/ops/test_cuda_gpu.py -k "${1:-not 1024 and not 2048}"
done
