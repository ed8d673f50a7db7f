# The two commands of a newcomer: `make demo` and `make test`. Everything lands in .venv and build/.
.SUFFIXES:
.PHONY: help demo test lint format install test-python test-cpp test-sanitizers fuzz bench wheel wheel-prebuilt clean
PYTHON = python3
VENV = .venv
BIN = $(VENV)/bin
STAMP = $(VENV)/.installed
TEST_STAMP = $(VENV)/.installed-test
CONSTRAINTS = requirements/constraints.txt
# Seconds that each fuzz target runs.
FUZZ_SECONDS = 60

help:
	@echo "make demo       install into .venv, train a small model, build its bundle, run it"
	@echo "make test       all tests: Python, C++, sanitizers, examples in the docs"
	@echo "make lint       ruff, mypy, clang-format"
	@echo "make bench      the figures, as programs in benchmarks/ print them"
	@echo "make fuzz       the fuzz targets (needs clang)"
	@echo "make wheel      a wheel in dist/"
	@echo "make wheel-prebuilt   a wheel with the runners of all boards: its users need no compiler"
	@echo "make clean      remove build/ and demo/; .venv stays"

demo: $(STAMP)
	$(BIN)/python examples/digits/demo.py

test: $(TEST_STAMP)
	sh tests/run_all.sh

test-python: $(TEST_STAMP)
	$(BIN)/python -m pytest

test-cpp: $(TEST_STAMP)
	sh tests/run_cpp.sh dev

test-sanitizers: $(TEST_STAMP)
	sh tests/run_cpp.sh asan
	sh tests/run_cpp.sh tsan

fuzz: $(TEST_STAMP)
	FUZZ_SECONDS=$(FUZZ_SECONDS) sh tests/run_fuzz.sh

lint: $(TEST_STAMP)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $$(git ls-files 'cpp/*.hpp' 'cpp/*.h' 'cpp/*.cpp' 'cpp/*.c' 'examples/*.c' 'examples/*.cpp' 'benchmarks/*.c' 'benchmarks/*.cpp' 'benchmarks/*.h')

format: $(TEST_STAMP)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	$(BIN)/clang-format -i $$(git ls-files 'cpp/*.hpp' 'cpp/*.h' 'cpp/*.cpp' 'cpp/*.c' 'examples/*.c' 'examples/*.cpp' 'benchmarks/*.c' 'benchmarks/*.cpp' 'benchmarks/*.h')

bench: $(TEST_STAMP)
	$(BIN)/python -m pip install --quiet --no-deps --constraint $(CONSTRAINTS) --requirement requirements/bench.txt
	$(BIN)/python benchmarks/run.py

wheel: $(STAMP)
	$(BIN)/python -m pip wheel --no-deps --wheel-dir dist .

wheel-prebuilt: $(STAMP)
	$(BIN)/python tools/prebuild_runners.py build/prebuilt
	$(BIN)/python -m pip wheel --no-deps --wheel-dir dist --config-settings=cmake.define.EDGEBUILD_PREBUILT_DIR=$(CURDIR)/build/prebuilt .

install: $(STAMP)

# The installation compiles the extension module, so its sources are inputs too.
NATIVE_SOURCES = $(shell find cpp/include cpp/src cpp/backends cpp/bindings cmake -type f) CMakeLists.txt

# An editable installation knows each module by its path: one that is added or moved needs it anew.
MODULES = build/modules.txt
.PHONY: force
$(MODULES): force
	@mkdir -p build
	@find python/edgebuild -name '*.py' -type f | LC_ALL=C sort >$@.new
	@if cmp -s $@.new $@; then rm $@.new; else mv $@.new $@; fi

$(STAMP): pyproject.toml $(CONSTRAINTS) requirements/demo.txt $(NATIVE_SOURCES) $(MODULES)
	@sh tools/check_tools.sh $(PYTHON)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint $(CONSTRAINTS) --requirement requirements/demo.txt
	$(BIN)/python -m pip install --quiet --no-build-isolation --constraint $(CONSTRAINTS) --editable '.[build,cross]'
	@touch $@

$(TEST_STAMP): $(STAMP) requirements/test.txt
	$(BIN)/python -m pip install --quiet --constraint $(CONSTRAINTS) --requirement requirements/test.txt
	@touch $@

clean:
	rm -rf build demo
