# Shortcuts for people; everything else is Snakemake and `psld`. See `make help`.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
# Python keeps compiled modules: each of a grid's many jobs is a process that imports them.
unexport PYTHONDONTWRITEBYTECODE

PYTHON ?= python3
PROFILE ?= profiles/default
GRID ?= demo
API ?= docs/api
INSTALLED := .venv/installed
RUN := PATH="$(CURDIR)/.venv/bin:$$PATH"
SNAKEMAKE := $(RUN) snakemake --profile $(PROFILE)
# On a terminal bars, elsewhere the profile's lines. The test asks stderr: stdout is a pipe in $( ).
LOGGER := $$(test -t 2 && echo --logger rich)

.PHONY: help setup demo check-demo small test test-slow test-slurm test-gpu test-fake-gpu gpu-hour test-wheel fuzz lint lock docs cells plan results report sync dashboard bench

help: ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(INSTALLED) ## Install everything into .venv

$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "error: $(PYTHON) is older than 3.11; use make PYTHON=/path/to/python3.11"; exit 2; }
	@$(PYTHON) -m venv .venv \
		|| { echo "error: $(PYTHON) has no venv; on Debian: apt-get install python3-venv"; exit 2; }
	.venv/bin/python -m pip install --quiet --upgrade pip
	.venv/bin/python -m pip install --editable '.[dev]'
	touch $@

demo: $(INSTALLED) ## Run the demo grid: train, sample, evaluate; tables, figures, page
	@test -e results/demo.html || echo "About 10 minutes on 2 cores, half of it 5 trainings; watch: tail -f logs/train/demo/*.log"
	@$(SNAKEMAKE) demo $(LOGGER)
	@$(MAKE) --no-print-directory answer GRID=demo

check-demo: $(INSTALLED) ## Check what the demo has made; its page and tables in a browser, if chromium is there
	$(RUN) python -m pytest tests/workflow/check_demo.py

small: $(INSTALLED) ## Run the paper in small, on Fashion-MNIST at 16×16: docs/notes/small.md
	@$(SNAKEMAKE) small $(LOGGER)
	@$(SNAKEMAKE) small-seeds $(LOGGER)
	@$(MAKE) --no-print-directory answer GRID=small
	@$(MAKE) --no-print-directory answer GRID=small-seeds

answer: $(INSTALLED) ## Say what came out of GRID, in a sentence for each table
	@$(RUN) psld page grid_name=$(GRID)
	@echo "Tables: make results GRID=$(GRID)   Pictures: results/figures/$(GRID)/"

results: $(INSTALLED) ## Print the tables of GRID
	@$(RUN) psld tabulate grid_name=$(GRID)
	@echo "Tables: results/tables/$(GRID)/   Pictures: results/figures/$(GRID)/"
	@echo "To read: results/$(GRID).html (psld page grid_name=$(GRID) makes it from the cells run so far)"

report: results/$(GRID)-report.html ## Make the report of Snakemake for GRID, in one file

results/$(GRID)-report.html: $(INSTALLED) $(wildcard results/tables/$(GRID)/*.html results/figures/$(GRID)/*.png results/figures/$(GRID)/*/*.png)
	@$(RUN) psld plan grid_name=$(GRID) list=cells >/dev/null
	@$(SNAKEMAKE) $(GRID) --report $@ --quiet \
		|| { echo "error: is grid $(GRID) finished? first: snakemake --profile $(PROFILE) $(GRID)"; exit 1; }
	@echo "Report: $@"

sync: $(INSTALLED) ## Upload to wandb what it lacks: trainings and the results of GRID
	@$(RUN) psld wandb sync grid_name=$(GRID)

dashboard: $(INSTALLED) ## Create or update the report of GRID in wandb
	@$(RUN) psld wandb dashboard grid_name=$(GRID)

cells: $(INSTALLED) ## List the cells of GRID; each is a target of Snakemake
	@$(RUN) psld plan grid_name=$(GRID) list=cells

plan: $(INSTALLED) ## Print models, cells, jobs and the cost of GRID
	@$(RUN) psld plan grid_name=$(GRID)

test: $(INSTALLED) ## Run the fast tests
	$(RUN) python -m pytest -m 'not slow and not slurm and not gpu' -n 2 --dist worksteal

test-slow: $(INSTALLED) ## Run the slow tests
	$(RUN) python -m pytest -m 'slow and not slurm and not gpu' -n 2 --dist worksteal

test-slurm: $(INSTALLED) ## Start a real Slurm cluster of four nodes here and run the tests on it
	@tests/slurm/install.sh
	$(RUN) python -m pytest tests/slurm -rs

test-gpu: $(INSTALLED) ## Run the tests on this machine's GPU, the whole demo last, in 20 minutes at most
	$(RUN) timeout 1200 python -m pytest tests/gpu -rs

gpu-hour: ## Measure what waits for a GPU, in parts of less than ten minutes; the same command goes on
	@$(RUN) python -m benchmarks.gpu_hour

test-fake-gpu: $(INSTALLED) ## Run the GPU's code on a GPU that computes nothing; needs g++
	$(RUN) python -m pytest tests/fake_gpu -rs

fuzz: $(INSTALLED) ## Give the readers of files many damaged inputs
	$(RUN) python -m pytest tests/fuzz --hypothesis-profile=fuzz

test-wheel: $(INSTALLED) ## Build the wheel and use it in a fresh environment, outside the checkout
	$(RUN) tests/check_wheel.sh

lint: $(INSTALLED) ## Check style, imports and types: ruff, snakefmt, snakemake --lint, basedpyright
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/snakefmt --check Snakefile workflow
	.venv/bin/lint-imports
	.venv/bin/basedpyright
	$(SNAKEMAKE) --lint

docs: $(INSTALLED) ## Make the API pages of the library from its docstrings, in docs/api/
	$(RUN) python -m pdoc --docformat google --output-directory $(API) \
		psld.library psld.training.saving psld.evaluation.images psld.data.images psld.diffusion psld.networks

lock: $(INSTALLED) ## Write requirements.lock again, after a change of pyproject.toml
	.venv/bin/uv pip compile --quiet --universal --python-version 3.11 --all-extras --generate-hashes \
		--custom-compile-command 'make lock' --output-file requirements.lock pyproject.toml

bench: $(INSTALLED) ## Run the benchmarks of training and sampling
	@$(RUN) OMP_NUM_THREADS=1 python -m benchmarks.step
	@$(RUN) OMP_NUM_THREADS=1 python -m benchmarks.sampling
