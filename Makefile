# Everything runs in .venv, which these targets make: nothing is needed but Python 3.11 or newer and a package index.
PYTHON ?= python3
TORCH ?= torch==2.13.0
BIN := .venv/bin
DEMO := outputs/demo
SUITE ?= quick

.DEFAULT_GOAL := help
.PHONY: help demo static test lint bench clean

help:
	@echo "make demo   classify a simulated recording with the embedded checkpoint: a table and a plot"
	@echo "make static build the page that computes in the browser, in outputs/static; npm gets its runtime"
	@echo "make test   run the test suite, on two cores"
	@echo "make lint   check format, style and types"
	@echo "make bench  measure speed and memory beside the peers, about 10 minutes (SUITE=full: over an hour); goes on after a kill"
	@echo "make clean  remove .venv and what the demo wrote"

# The tested version, installed first. Where the index serves it with CUDA (5 GB), a build without is had by
# make demo TORCH="torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu"
.venv/torch:
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" 2>/dev/null || \
		{ echo "$(PYTHON): is not Python 3.11 or newer; run make demo PYTHON=python3.11" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(TORCH)
	@touch $@

.venv/core: .venv/torch pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

.venv/dev: .venv/torch pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev]"
	@touch $@ .venv/core

demo: .venv/core
	@rm -rf $(DEMO)
	$(BIN)/lung-srad prepare simulated $(DEMO)/sounds --layout icbhi --patients 2 --recordings-per-patient 1
	$(BIN)/lung-srad classify $(DEMO)/sounds --plot $(DEMO)/plots
	@echo "plots: $(DEMO)/plots"

static: .venv/dev
	$(BIN)/python -m space_demo.static.build

test: .venv/dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: .venv/dev
	$(BIN)/python -m benchmarks.speed --suite $(SUITE)

clean:
	rm -rf .venv outputs
