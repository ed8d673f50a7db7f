#!/bin/sh
# Everything that `make test` runs, cheapest first. The fuzz targets take FUZZ_SECONDS each (default 60).
set -eu

cd "$(dirname "$0")/.."
mkdir -p build
for preset in dev asan tsan; do
  echo "== C++ tests, preset $preset"
  sh tests/run_cpp.sh "$preset"
done
echo "== fuzz targets"
sh tests/run_fuzz.sh
echo "== Python tests and the examples of the docs"
EDGEBUILD_TEST_EDGERUN=$PWD/build/dev/cpp/apps/edgerun/edgerun
export EDGEBUILD_TEST_EDGERUN
# One process a core; a file's tests stay together, because they share what is expensive to make. The order is tests/conftest.py's.
.venv/bin/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder --durations 40
