# make run and make test each work alone on a fresh machine: they need python3 (3.11 or newer,
# with venv) and a package index, and keep everything they install in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
# test-cuda adds the compiler that checks the CUDA kernels; without it those tests are skipped.
TEST_EXTRA ?= test
SWEEP ?= benchmarks/sweep.toml
# setuptools warns at length that folders may shadow an editable install; the links gpuscan/kernels and
# gpuscan/cli see to that.
INSTALL = PYTHONWARNINGS='ignore:Editable installation' $(BIN)/python -m pip install --quiet --editable

.PHONY: run test test-slow bench lint format clean help

help:
	@echo "make run     install into $(VENV) and run the default workload (ARGS='...' to add options)"
	@echo "make test    install into $(VENV) and run the tests (under 5 minutes)"
	@echo "make bench   record benchmarks/results (18 GiB free, half an hour on a quiet machine)"
	@echo "make lint    ruff, mypy --strict and import-linter"
	@echo "make format  apply ruff's fixes and formatting"
	@echo "make clean   remove $(VENV), caches and build output"

run: $(VENV)/installed
	$(BIN)/gpuscan run $(ARGS)

test: $(VENV)/installed-$(TEST_EXTRA)
	$(BIN)/pytest -n auto --maxprocesses 4 --dist loadfile $(ARGS)

test-slow: $(VENV)/installed-$(TEST_EXTRA)
	$(BIN)/pytest -m slow --timeout 1800 $(ARGS)

bench: $(VENV)/installed-bench
	$(BIN)/gpuscan bench sweep $(SWEEP) --out benchmarks/results $(ARGS)
	$(BIN)/python benchmarks/bars.py benchmarks/results/bench.json

lint: $(VENV)/installed-lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/installed-lint
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(VENV)/pip:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "gpuscan needs Python 3.11 or newer, this is %d.%d; set PYTHON=" % sys.version_info[:2])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	touch $@

$(VENV)/installed: $(VENV)/pip pyproject.toml
	$(INSTALL) .
	touch $@

# One stamp per extra of pyproject.toml: a plain run does not install the test tools.
$(VENV)/installed-%: $(VENV)/pip pyproject.toml
	$(INSTALL) '.[$*]'
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
