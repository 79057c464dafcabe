# Everything runs in .venv, which the first call makes and later calls reuse. `make help` lists the commands.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help demo test lab outputs bench methods export readme format docs clean

VENV ?= .venv
BIN := $(VENV)/bin
# the first Python that is new enough; choose another with `make PYTHON=...`
PYTHON ?= $(shell for python in python3.11 python3 python3.12 python3.13 python; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
WORKERS ?= 2
# the notebooks and tests that run at a time share the processors; threads that wait for one another must not spin
THREADS = $(shell n=$$(nproc 2>/dev/null || sysctl -n hw.ncpu); echo $$((n > $(WORKERS) ? n / $(WORKERS) : 1)))
QUIET_THREADS = OMP_NUM_THREADS=$(THREADS) NUMBA_NUM_THREADS=$(THREADS) OMP_WAIT_POLICY=PASSIVE
SOURCES := settings.ini setup.py pyproject.toml constraints.txt
say = @printf '\n==> %s\n' "$(1)"

help:  ## list the commands
	@echo "make demo      align the simulated pair and leave the results in demo/"
	@echo "               your own files: CONTEXT=a.h5ad TARGET=b.h5ad CELL_KEY=cell_type BATCH_KEY=batch"
	@echo "               also: CONTEXT_NAME, TARGET_NAME, CONTEXT_TAXON, TARGET_TAXON, OUT (default demo)"
	@echo "make test      all checks, from exported modules to the test suite"
	@echo "make lab       JupyterLab on the notebooks"
	@echo "make outputs   run all notebooks and save their outputs (NOTEBOOKS=nbs/00_core.ipynb SLOW=1 WORKERS=4)"
	@echo "make bench     compare speed and memory with the reference package (BENCH=\"--repeats 1 --parts pairs\")"
	@echo "make methods   compare label transfer with other methods (METHODS=\"--part methods --methods ours --again\")"
	@echo "make export    write the modules from the notebooks"
	@echo "make readme    write README.md from nbs/index.ipynb"
	@echo "make format    format notebooks, scripts and tests, then export"
	@echo "make docs      render the documentation site into _docs (needs Quarto)"
	@echo "make clean     remove what was built; the environment stays"

# ---------------------------------------------------------------- the environment

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "Expected Python 3.11 or newer, found none; install it or give PYTHON=..."; exit 1; }
	$(call say,environment: $(VENV) with $(PYTHON))
	@"$(PYTHON)" -m venv $(VENV) || { echo "Python's venv module is missing; on Debian: apt-get install python3-venv"; exit 1; }

$(VENV)/.installed-demo: $(SOURCES) | $(BIN)/python
	$(call say,install: the package and what the demo needs)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[demo]"
	@touch $@

$(VENV)/.installed-dev: $(SOURCES) | $(BIN)/python
	$(call say,install: the package and what development needs)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[demo,dev]"
	@touch $@ $(VENV)/.installed-demo

# ---------------------------------------------------------------- the commands

OUT ?= demo

demo: $(VENV)/.installed-demo
	@$(BIN)/python scripts/demo.py --out "$(OUT)" --context "$(CONTEXT)" --target "$(TARGET)" \
		--cell-key "$(CELL_KEY)" --batch-key "$(BATCH_KEY)" \
		--context-name "$(CONTEXT_NAME)" --target-name "$(TARGET_NAME)" \
		--context-taxon "$(CONTEXT_TAXON)" --target-taxon "$(TARGET_TAXON)"

test: $(VENV)/.installed-dev
	$(call say,1/8 exported and clean: nbdev_export and nbdev_clean change nothing)
	@$(BIN)/python scripts/export.py
	$(call say,2/8 style: ruff)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	$(call say,3/8 types: mypy)
	@$(BIN)/mypy
	$(call say,4/8 examples: nbdev_test runs the notebooks)
	@$(QUIET_THREADS) $(BIN)/nbdev_test --n_workers $(WORKERS)
	$(call say,5/8 README.md: written from the index notebook)
	@$(BIN)/python scripts/readme.py --check
	$(call say,6/8 documentation: settings and sidebar and links and public names)
	@$(BIN)/python scripts/docs.py
	$(call say,7/8 build: source distribution and wheel)
	@rm -rf dist build && mkdir -p dist
	@$(BIN)/python -m build --outdir dist . > $(VENV)/build.log 2>&1 || { cat $(VENV)/build.log; exit 1; }
	@ls dist
	$(call say,8/8 pytest: the tests - and each notebook in a process of its own with its saved outputs compared)
	@$(QUIET_THREADS) $(BIN)/python -m pytest -n $(WORKERS)

lab: $(VENV)/.installed-dev
	@$(BIN)/jupyter lab nbs

outputs: $(VENV)/.installed-dev
	@$(BIN)/python scripts/notebooks.py --workers $(WORKERS) $(if $(SLOW),--slow) $(NOTEBOOKS)

bench: $(VENV)/.installed-dev
	@$(BIN)/python benchmarks/compare.py $(BENCH)

methods: $(VENV)/.installed-dev
	@$(BIN)/python benchmarks/methods.py $(METHODS)

export: $(VENV)/.installed-dev
	@$(BIN)/nbdev_export
	@$(BIN)/nbdev_clean

readme: $(VENV)/.installed-dev
	@$(BIN)/python scripts/readme.py

format: $(VENV)/.installed-dev
	@$(BIN)/ruff format .
	@$(MAKE) --no-print-directory export

docs: $(VENV)/.installed-dev
	@$(BIN)/python scripts/docs.py --render

clean:
	@rm -rf build dist _docs _proc demo *.egg-info .mypy_cache .ruff_cache .pytest_cache
	@find nbs scspecies scripts tests -name __pycache__ -type d -prune -exec rm -rf {} +
