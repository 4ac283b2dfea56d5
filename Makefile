# Everything runs in .venv, which these targets make: nothing is needed but Python 3.11 or newer and a package index.
PYTHON ?= python3
TORCH ?= torch==2.13.0
BIN := .venv/bin
DEMO := outputs/demo

.DEFAULT_GOAL := help
.PHONY: help demo test lint clean

help:
	@echo "make demo   classify a simulated recording with the embedded checkpoint: a table and a plot"
	@echo "make test   run the test suite"
	@echo "make lint   check format, style and types"
	@echo "make clean  remove .venv and what the demo wrote"

# A looser request for torch takes gigabytes of CUDA packages, so it is installed first.
.venv/torch:
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$(TORCH)"
	@touch $@

.venv/core: .venv/torch pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

.venv/dev: .venv/torch pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev]"
	@touch $@ .venv/core

demo: .venv/core
	$(BIN)/python -m dataset_scripts.simulated $(DEMO)
	$(BIN)/lung-srad classify $(DEMO) --plot $(DEMO)

test: .venv/dev
	$(BIN)/python -m pytest

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf .venv outputs
