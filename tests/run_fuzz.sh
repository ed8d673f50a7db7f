#!/bin/sh
# Builds the fuzz targets and runs each for FUZZ_SECONDS (default 60). Needs clang with its libFuzzer runtime.
set -eu

seconds=${FUZZ_SECONDS:-60}
cd "$(dirname "$0")/.."
PATH=$PWD/.venv/bin:$PATH
export PATH
mkdir -p build
clang=$(command -v clang++ || ls /usr/bin/clang++-* 2>/dev/null | sort -V | tail -n 1 || true)
if [ -z "$clang" ] || ! echo 'extern "C" int LLVMFuzzerTestOneInput(const unsigned char*, unsigned long) { return 0; }' |
  "$clang" -fsanitize=fuzzer -x c++ - -o build/fuzz-probe >/dev/null 2>&1; then
  echo "SKIPPED fuzz targets: no clang with libFuzzer here (apt-get install clang libclang-rt-14-dev)"
  exit 0
fi
cmake --preset fuzz -DCMAKE_CXX_COMPILER="$clang" -DCMAKE_C_COMPILER="${clang%++*}${clang##*++}" >build/configure-fuzz.log 2>&1 || {
  cat build/configure-fuzz.log
  exit 10
}
cmake --build --preset fuzz --target fuzz_manifest fuzz_archive
# Both at once: each has a core of its own.
for target in manifest archive; do
  mkdir -p "build/fuzz-corpus/$target"
  program=$(find build/fuzz -name "fuzz_$target" -type f -perm -u+x)
  echo "fuzz_$target: ${seconds} s"
  "$program" -max_total_time="$seconds" -print_final_stats=1 -artifact_prefix="build/fuzz-$target-" "build/fuzz-corpus/$target" \
    2>"build/fuzz-$target.log" &
  started="${started:-} $target:$!"
done
failed=0
for one in $started; do
  log=build/fuzz-${one%:*}.log
  if wait "${one#*:}"; then
    grep -E 'stat::number_of_executed_units' "$log"
  else
    tail -n 40 "$log"
    failed=1
  fi
done
exit $failed
