# Two commands do all the set-up: `make demo` and `make test`. What they run is plain pip,
# snakemake and pytest; with an environment of your own, run those lines yourself.
# Another package index (CUDA or CPU builds of torch): make demo PIP_FLAGS="--index-url URL"
PYTHON ?= python3
PIP_FLAGS ?=
# As many tests at a time; a file's stay together, since they share what they are made from.
WORKERS ?= 2
# More for the pytest of `make test`, as FLAGS="--minutes 45".
FLAGS ?=
ENV := .venv
BIN := $(ENV)/bin
# What `make test` runs; the other markers have targets of their own.
PLAIN := not slow and not evalplus and not browser and not slurm and not faults
# SLURM="not slow" leaves out jobs that are ended, wait for their turn or share GPUs: minutes more.
SLURM ?= slurm
RUN := PATH="$(CURDIR)/$(BIN):$$PATH"

.DEFAULT_GOAL := help
.PHONY: help demo test test-unit test-slow test-evalplus test-browser test-slurm test-faults test-all lint clean

help: ## say what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(ENV)/.demo: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(ENV)
	$(BIN)/pip install --quiet --constraint constraints.txt $(PIP_FLAGS) --editable .
	@touch $@

$(ENV)/.test: $(ENV)/.demo
	$(BIN)/pip install --quiet --constraint constraints.txt $(PIP_FLAGS) --editable '.[test]'
	@touch $@

$(ENV)/.browser: $(ENV)/.test
	$(BIN)/pip install --quiet --constraint constraints.txt $(PIP_FLAGS) --editable '.[test,browser]'
	@touch $@

$(ENV)/.dev: $(ENV)/.test
	$(BIN)/pip install --quiet --constraint constraints.txt $(PIP_FLAGS) --editable '.[test,dev,gguf,browser]'
	@touch $@ $(ENV)/.browser

demo: $(ENV)/.demo ## make Table 1 of the embedded default, about ten minutes on two cores
	$(RUN) snakemake --profile cpu results/table1.tex results/figures/validation_perplexity.pdf
	$(BIN)/fnsft show results/table1.csv

test: $(ENV)/.test ## run the tests, about twenty minutes on two cores
	OMP_NUM_THREADS=1 $(RUN) pytest -m "$(PLAIN)" -n $(WORKERS) --dist loadfile $(FLAGS)

test-unit: $(ENV)/.test ## run the tests that start no processes of their own, in five minutes
	OMP_NUM_THREADS=1 $(RUN) pytest -m "$(PLAIN) and not workflow and not processes" -n $(WORKERS) --dist loadfile

test-slow: $(ENV)/.test ## make every kind of table and figure of small experiments, in ten minutes
	OMP_NUM_THREADS=1 $(RUN) pytest -m "slow and not slurm and not evalplus"

test-evalplus: $(ENV)/.test ## run all canonical solutions of EvalPlus in the sandbox, in ten minutes
	OMP_NUM_THREADS=1 $(RUN) pytest -m evalplus

test-browser: $(ENV)/.browser ## drive the page of fnsft explore in the system's Chromium, in a minute
	OMP_NUM_THREADS=1 $(RUN) pytest -m browser

test-slurm: $(ENV)/.test ## run the smoke configuration through a real SLURM (root, Debian's slurm-wlm)
	OMP_NUM_THREADS=1 $(RUN) pytest -m "slurm and $(SLURM)" -rs

test-faults: $(ENV)/.test ## kill processes, fill disks, truncate files, in fifteen minutes on one core
	OMP_NUM_THREADS=1 $(RUN) pytest -m faults

test-all: $(ENV)/.dev ## run every test
	$(RUN) pytest

lint: $(ENV)/.dev ## check style, types and the workflow's format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/snakefmt --check Snakefile workflow

clean: ## remove the environment, results and caches
	rm -rf $(ENV) .snakemake .pytest_cache .mypy_cache .ruff_cache checkpoints results/*
