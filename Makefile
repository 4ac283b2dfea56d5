# Everything runs in .venv, which these targets make: nothing is needed but Python 3.11 or newer and a package index.
PYTHON ?= python3
TORCH ?= torch==2.13.0
BIN := .venv/bin
DEMO := outputs/demo
SUITE ?= quick
KILLS ?= 50
MINUTES ?= 1

.DEFAULT_GOAL := help
.PHONY: help demo static test lint supply transformers-tests lock matrix mutants faults fuzz bench clean

help:
	@echo "make demo   classify a simulated recording with the embedded checkpoint: a table and a plot"
	@echo "make static build the page that computes in the browser, in outputs/static; npm gets its runtime"
	@echo "make test   run the test suite, on two cores"
	@echo "make lint   check format, style and types"
	@echo "make supply licences, list of parts, secrets, known vulnerabilities, transformers' rules for models"
	@echo "make transformers-tests  fetch transformers' own tests of models, which make test then runs too"
	@echo "make lock   write the versions in .venv to requirements/ci.txt, which .ci/run installs"
	@echo "make matrix install the lowest and the highest versions on each Python found, with tests: a table, about 20 minutes"
	@echo "make mutants  change 200 places of the code, one at a time: a table of what the tests notice, about 30 minutes"
	@echo "make bench  measure speed and memory beside the peers, about 10 minutes (SUITE=full: over an hour); goes on after a kill"
	@echo "make faults kill commands at random moments, fill disks, and the like (KILLS=50 of each command: about 45 minutes)"
	@echo "make fuzz   inputs changed at random into every entrance, MINUTES=1 for each of them, one a processor at a time"
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

outputs/tools: requirements/tools.txt
	$(PYTHON) -m venv $@
	$@/bin/python -m pip install --quiet --disable-pip-version-check -r requirements/tools.txt
	@touch $@

supply: .venv/dev outputs/tools
	.ci/supply

# The wheel lacks them, the source distribution of the same version has them.
transformers-tests: .venv/dev
	@version=$$($(BIN)/python -c "import importlib.metadata as m; print(m.version('transformers'))"); \
	$(BIN)/python -m pip download --quiet --disable-pip-version-check --no-deps \
		--no-binary transformers --dest outputs/sources "transformers==$$version" && \
	tar --extract --gzip --file "outputs/sources/transformers-$$version.tar.gz" --directory outputs \
		"transformers-$$version/tests" && touch "outputs/transformers-$$version/tests/__init__.py"

lock: .venv/dev
	@{ echo "# Versions that .ci/run installs; made by make lock."; \
		$(BIN)/python -m pip freeze --disable-pip-version-check --exclude-editable | sed 's/+cpu$$//'; } \
		>requirements/ci.txt

matrix: outputs/tools
	.ci/matrix

mutants: .venv/dev outputs/tools
	OMP_NUM_THREADS=1 $(BIN)/python tests/mutants.py

bench: .venv/dev
	$(BIN)/python -m benchmarks.speed --suite $(SUITE)

faults: .venv/dev
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.faults --kills $(KILLS)

fuzz: .venv/dev
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz --minutes $(MINUTES)

clean:
	rm -rf .venv outputs
