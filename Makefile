# Everything runs in .venv, made on first use; `make help` lists what there is.
SHELL := /bin/bash
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# torchvision runs with the torch it was built for alone; a second environment has both from PyPI, for timm and smp.
EXTRAS := .venv-extras

# OpenMP threads that wait in a busy loop steal the cores the others need: 10 times slower on a loaded machine.
export OMP_WAIT_POLICY := PASSIVE
# glibc maps every large tensor afresh and faults each of its pages in; let it come from the heap instead.
export MALLOC_MMAP_THRESHOLD_ := 4294967296
# And keep what is freed for the next step instead of giving it back to the system.
export MALLOC_TRIM_THRESHOLD_ := 4294967296
# Weights & Biases reports its own crashes to its makers unless told otherwise.
export WANDB_ERROR_REPORTING := false

# The demo is one process alone: threads that look 2000 times before they sleep make its steps a fifth shorter (two cores).
demo: export GOMP_SPINCOUNT := 2000

# Tests reach no network: runs are logged to disk, and no hub is asked for weights.
test test-extras check docs: export WANDB_MODE := offline
test test-extras check docs: export HF_HUB_OFFLINE := 1

.PHONY: help install install-extras demo test test-extras check static bench docs pins

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-15s%s\n", $$1, $$2}' Makefile

install: $(STAMP) ## .venv with segdistill and its tools, at the versions that passed the tests
	@:

$(STAMP): pyproject.toml requirements/constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "segdistill needs Python 3.11 or later; say which: make PYTHON=python3.12" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV): a few minutes the first time" >&2
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -c requirements/constraints.txt -e '.[dev]'
	@touch $@

install-extras: $(EXTRAS)/.installed ## .venv-extras, also with timm, smp and their torchvision: 6 GB where torch brings CUDA
	@:

$(EXTRAS)/.installed: $(STAMP) requirements/extras.txt
	@test -x $(EXTRAS)/bin/python || $(PYTHON) -m venv $(EXTRAS)
	@echo "installing into $(EXTRAS): a few minutes the first time" >&2
	@$(EXTRAS)/bin/python -m pip install -qq --disable-pip-version-check -c requirements/extras.txt -e '.[smp,hf,dev]'
	@$(EXTRAS)/bin/python -c 'import segmentation_models_pytorch, timm, transformers' # or their tests would be skipped
	@touch $@

demo: install ## teach, distil, measure and report on procedural street scenes, on a CPU in minutes
	@$(BIN)/segdistill demo

test: install ## every test
	@$(BIN)/python -m pytest

test-extras: install-extras ## the models again, with those that need timm or smp
	@$(EXTRAS)/bin/python -m pytest -m extras

check: static install-extras ## what CI runs: ruff, pyright, then every test, here and in .venv-extras
	@$(BIN)/python -m pytest
	@$(EXTRAS)/bin/python -m pytest -m extras

static: install ## the part of check that runs no test
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/pyright --pythonpath $(BIN)/python

bench: install ## every file of benchmarks/, one after the other
	@shopt -s nullglob; for file in benchmarks/[a-z]*.py; do echo "$$file"; $(BIN)/python "$$file" || exit 1; done

docs: install ## the documents' links, code and commands
	@$(BIN)/python -m pytest tests/test_docs.py

# After a change of pyproject.toml; a pin that need not move stays. `rm requirements/constraints.txt` first moves all.
# torch: pip prefers a CPU wheel at hand (2.13.0+cpu) to 2.13.0. typing: a dependency of cityscapesscripts whose newest
# version refuses every Python since 3.5. What a CUDA build of torch needs is pinned by torch itself, so it is left out.
COMPILE = $(BIN)/uv pip compile --quiet --universal --no-annotate --no-header --constraint - pyproject.toml
pins: ## requirements/*.txt anew
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -qq --disable-pip-version-check uv
	@printf 'torch==2.13.0\ntyping==3.7.4.3\n' | $(COMPILE) --extra dev --output-file requirements/constraints.txt
	@printf 'torch==2.15.0\ntyping==3.7.4.3\n' | $(COMPILE) --all-extras --output-file requirements/extras.txt
	@sed -i.bak -E '/^(nvidia-|cuda-|triton)/d' requirements/*.txt && rm requirements/*.txt.bak
