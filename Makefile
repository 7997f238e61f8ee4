# make demo    index 2,000 abstracts, start the server, search, filter and steer
# make test    every test, the slow ones too (5 to 15 minutes on 2 cores)
# make asan    the kernels' tests with sanitizers; make tsan for data races
# make lint types protos bench clean
# make bench-vectors bench-peers bench-search   compare with other engines (benches/README.md)
#
# Everything is installed into .venv, once; a change of the requirements or of the C++ sources installs again.
# PYTHON=python3.12 make ... takes another interpreter.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV := .venv
# Processes that tests are spread over.
WORKERS := 2
RUN := $(VENV)/bin/python
PIP := $(RUN) -m pip --disable-pip-version-check install --quiet --constraint constraints.txt
PACKAGES := encoders index kernels retrieval service
NATIVE := CMakeLists.txt kernels/cpu/CMakeLists.txt $(wildcard kernels/cpu/src/*)
# An editable install lists its packages when it is made, so a new one installs again.
LISTED := $(wildcard */__init__.py */*/__init__.py protos/sparsight/v1/__init__.py)
PYTHON ?= $(shell for name in python3 python3.13 python3.12 python3.11; do \
	$$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$name && break; done)

.PHONY: help demo test lint types protos bench install clean

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

demo: install
	$(VENV)/bin/sparsight demo

# Python may write its bytecode: the tests start hundreds of processes, each of which would compile our sources again.
test: install
	env -u PYTHONDONTWRITEBYTECODE $(VENV)/bin/pytest --numprocesses $(WORKERS) --dist worksteal \
		-m "not gpu and not jvm and not sample" --durations=10 tests

lint: install
	$(VENV)/bin/ruff check .

# The folders at the root are one package only once installed, which mypy cannot see: it gets the same tree as links.
types: install
	rm -rf build/types
	mkdir -p build/types/sparsight
	ln -s $(abspath $(wildcard sparsight/*.py) sparsight/types $(PACKAGES) protos/sparsight/v1) build/types/sparsight/
	cd build/types && ../../$(VENV)/bin/mypy --config-file ../../pyproject.toml -p sparsight

protos: install
	$(RUN) protos/generate.py

.PHONY: asan tsan

# The kernels' tests with GCC's sanitizers: memory and undefined behaviour (asan), data races (tsan). A report fails the
# target. The normal build is left alone. Minutes each; ARGS="-k corrupt" runs a part, ARGS="-m slow" the long fuzz tests.
asan: install
	$(RUN) tests/kernels/sanitized.py address $(ARGS)

tsan: install
	$(RUN) tests/kernels/sanitized.py thread $(ARGS)

bench: install
	set -e; for bench in $(wildcard benches/bench_*.py); do $(RUN) "$$bench"; done

.PHONY: bench-vectors bench-peers bench-search

# Corpora in BEIR layout are at CORPORA; a GPU takes minutes, two cores a night. Stopped runs go on where they were.
bench-vectors: install
	@test -d "$(CORPORA)" || { echo "give the folder of the corpora: make bench-vectors CORPORA=DIR" >&2; exit 2; }
	$(RUN) -m benches.vectors --data "$(CORPORA)" --out "$(or $(SPARSIGHT_BENCH),$(HOME)/.cache/sparsight/bench)" $(ARGS)

# The peers have an environment of their own; ARGS="--engines sparsight seismic --k 10" measures a part.
PEERS := .venv-peers

bench-peers: $(PEERS)/.built

bench-search: install bench-peers
	$(RUN) -m benches.search $(ARGS)

$(PEERS)/.built: benches/search/requirements-peers.txt | $(VENV)/.requirements
	test -x $(PEERS)/bin/python || $(RUN) -m venv $(PEERS)
	$(PEERS)/bin/pip --disable-pip-version-check install --quiet --no-deps --requirement $<
	@touch $@

install: $(VENV)/.built

# Two stamps, written last: what did not finish starts again.
$(VENV)/.requirements: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "sparsight needs Python 3.11 or newer and found none: apt-get install python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "sparsight needs Python 3.11 or newer, $(PYTHON) is older: apt-get install python3" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "sparsight needs Python's venv module: apt-get install python3-venv" >&2; exit 1; }
	@$(PYTHON) -c 'import pathlib, sys, sysconfig; sys.exit(not pathlib.Path(sysconfig.get_path("include"), "Python.h").exists())' || \
		{ echo "sparsight needs Python's header files to build its kernels: apt-get install python3-dev" >&2; exit 1; }
	@test -n "$$CXX" || command -v c++ >/dev/null || command -v g++ >/dev/null || command -v clang++ >/dev/null || \
		{ echo "sparsight needs a C++20 compiler to build its kernels: apt-get install g++" >&2; exit 1; }
	@echo "Installing the requirements into $(VENV) (minutes, the first time) ..."
	test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	@$(RUN) -c 'import tomllib; \
		project = tomllib.load(open("pyproject.toml", "rb")); \
		needed = (project["build-system"]["requires"], project["project"]["dependencies"], project["project"]["optional-dependencies"]["dev"]); \
		print(*(line for part in needed for line in part), sep="\n")' > $(VENV)/requirements.txt
	$(PIP) torch
	$(PIP) --requirement $(VENV)/requirements.txt
	@touch $@

$(VENV)/.built: $(VENV)/.requirements $(NATIVE) $(LISTED)
	$(PIP) --no-build-isolation --no-deps --editable .
	@touch $@

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
