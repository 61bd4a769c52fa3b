# The environment is .venv in this checkout. Every target sets it up first; when nothing changed
# that costs one comparison of dates.
#
#   make demo      train a Neural Langevin Machine on the bundled digits, write runs/demo/report.html
#   make test      run the tests
#
#   PYTHON=python3.12   the interpreter that makes the environment
#   PIP_FLAGS=...       passed to pip, such as the index of torch's CPU builds
#   WORKERS=2           processes that run the tests
#   TESTS=tests/core    what `make test` runs
#   ARGS=...            passed on to the command of the target

SHELL := /bin/sh
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.set-up
WORKERS ?= 2
TESTS ?= tests
ARGS ?=
PIP_FLAGS ?=
PYTHON ?= $(shell for p in python3 python3.11 python3.12 python3.13 python3.14 python; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$$p"; break; }; done)

# One thread a process, and threads that wait instead of spin: two processes share two cores.
QUIET_THREADS := OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE

.PHONY: help setup demo demo-quick test lint format docs doctest claims-fast bench wheel clean

help:
	@awk '!/^#/ {exit} {sub(/^# ?/, ""); print}' Makefile
	@echo "targets: setup demo demo-quick test lint format docs doctest claims-fast bench wheel clean"

setup: $(STAMP)

# A usable .venv is kept, and with it the torch in it; pip is never given a reason to replace it.
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))

$(STAMP): pyproject.toml constraints.txt
	@if $(BIN)/python -m pip --version >/dev/null 2>&1; then \
	  $(BIN)/python -c '$(NEW_ENOUGH)' || { \
	    echo "make setup: $(VENV) runs $$($(BIN)/python --version), driftwell needs 3.11 or newer:" \
	         "remove it with 'rm -r $(VENV)' and try again." >&2; \
	    exit 1; }; \
	elif ! "$(PYTHON)" -c '$(NEW_ENOUGH)' 2>/dev/null; then \
	  found=$$("$(or $(PYTHON),python3)" --version 2>/dev/null || echo none); \
	  echo "make setup: driftwell needs Python 3.11 or newer, found $$found:" \
	       "install one, or name it with 'make setup PYTHON=/path/to/python3.11'." >&2; \
	  exit 1; \
	elif ! "$(PYTHON)" -c 'import ensurepip, venv' >/dev/null 2>&1; then \
	  echo "make setup: $(PYTHON) lacks the module venv or ensurepip:" \
	       "install them (on Debian and Ubuntu: apt install python3-venv)." >&2; \
	  exit 1; \
	else \
	  echo "make setup: making $(VENV) with $(PYTHON)"; \
	  "$(PYTHON)" -m venv $(VENV); \
	fi
	@echo "make setup: installing driftwell and what it needs into $(VENV)"
	@torch_version='from importlib.metadata import version; print(version("torch"))'; \
	before=$$($(BIN)/python -c "$$torch_version" 2>/dev/null); \
	$(BIN)/python -m pip install --disable-pip-version-check --quiet $(PIP_FLAGS) \
	  -c constraints.txt -e '.[demo,dev,docs,onnx]' </dev/null || exit 1; \
	after=$$($(BIN)/python -c "$$torch_version"); \
	case "$$before" in \
	  ""|"$$after") echo "make setup: done, torch $$after" ;; \
	  *) echo "make setup: done; torch $$before was replaced by $$after, which constraints.txt asks for" ;; \
	esac
	@touch $(STAMP)

# The digits' products are so small that a second thread costs more than it brings.
demo: setup
	$(BIN)/driftwell train nlm --data digits --preset default --threads 1 --out runs/demo \
	  --overwrite $(ARGS)
	$(BIN)/driftwell report runs/demo

demo-quick: setup
	$(BIN)/driftwell train nlm --data digits --updates 60 --out runs/demo-quick --overwrite $(ARGS)
	$(BIN)/driftwell report runs/demo-quick

test: setup
	$(QUIET_THREADS) $(BIN)/python -m pytest -n $(WORKERS) $(TESTS) $(ARGS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m mypy
	$(BIN)/lint-imports

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: setup
	$(QUIET_THREADS) $(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html $(ARGS)

doctest: setup
	$(QUIET_THREADS) $(BIN)/python -m pytest --doctest-modules src/driftwell $(ARGS)

claims-fast: setup
	$(BIN)/driftwell claims run --fast --json $(ARGS)

bench: setup
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python bench/run.py $(ARGS)

wheel: setup
	$(BIN)/python -m pip wheel --disable-pip-version-check --quiet --no-deps --wheel-dir dist . </dev/null

clean:
	rm -rf build dist docs/_build docs/api docs/papers.md .pytest_cache .mypy_cache .ruff_cache \
	  .hypothesis .import_linter_cache src/*.egg-info
	find src tests bench docs -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
