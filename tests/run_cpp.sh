#!/bin/sh
# Configures, builds and runs the C++ tests of one preset: run_cpp.sh dev|asan|tsan
set -eu

preset=${1:?usage: run_cpp.sh dev|asan|tsan}
cd "$(dirname "$0")/.."
bin=$PWD/.venv/bin
PATH=$bin:$PATH
export PATH
EDGEBUILD_TEST_ONNXRUNTIME=$("$bin/python" -c 'import importlib.util, pathlib
print(next((pathlib.Path(importlib.util.find_spec("onnxruntime").origin).parent / "capi").glob("libonnxruntime.so.*")))')
export EDGEBUILD_TEST_ONNXRUNTIME
export TSAN_OPTIONS="ignore_noninstrumented_modules=1 ${TSAN_OPTIONS:-}"
# The LibTorch backend, in the preset without sanitizers: torch's own libraries are not instrumented. Torch is not imported.
libtorch=
if [ "$preset" = dev ]; then
  libtorch=$("$bin/python" -c 'import importlib.util, pathlib
spec = importlib.util.find_spec("torch")
print(pathlib.Path(spec.origin).parent if spec else "")')
fi
# A new tree compiles several files at once, because headers are most of the work; one that was configured otherwise stays as it is.
together=
[ -e "build/$preset/CMakeCache.txt" ] || together=-DCMAKE_UNITY_BUILD=ON
cmake --preset "$preset" $together -DEDGEBUILD_LIBTORCH_ROOT="$libtorch" -Dpybind11_DIR="$("$bin/python" -m pybind11 --cmakedir)" >"build/configure-$preset.log" 2>&1 || {
  cat "build/configure-$preset.log"
  exit 10
}
cmake --build --preset "$preset"
ctest --preset "$preset"
