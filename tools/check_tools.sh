#!/bin/sh
# Says plainly what is missing before anything is installed: check_tools.sh PYTHON
set -u

python=${1:-python3}
missing=0
say() {
  missing=1
  echo "edgebuild: $1" >&2
  echo "  get it: $2" >&2
}

if ! command -v "$python" >/dev/null 2>&1; then
  say "$python is not on PATH; Python 3.11 or newer is needed" "apt-get install python3 python3-venv (or: make PYTHON=/path/to/python3.11 …)"
elif ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
  say "$("$python" --version) is too old; Python 3.11 or newer is needed" "make PYTHON=/path/to/python3.11 …"
elif ! "$python" -c 'import ensurepip, venv' >/dev/null 2>&1; then
  say "the module venv of $python is missing" "apt-get install python3-venv"
elif ! "$python" -c 'import sysconfig, pathlib, sys; sys.exit(not (pathlib.Path(sysconfig.get_path("include")) / "Python.h").is_file())'; then
  say "the headers of $python are missing (Python.h)" "apt-get install python3-dev"
fi

compiler=${CXX:-}
[ -n "$compiler" ] || compiler=$(command -v c++ || command -v g++ || command -v clang++ || true)
if [ -z "$compiler" ]; then
  say "there is no C++ compiler" "apt-get install g++"
elif ! echo '#include <span>
int main() { return 0; }' | $compiler -std=c++20 -x c++ -fsyntax-only - >/dev/null 2>&1; then
  say "$compiler does not compile C++20" "apt-get install g++ (10 or newer), or set CXX"
fi

[ "$missing" -eq 0 ] || exit 10
