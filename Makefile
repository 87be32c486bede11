# Shortcuts for Snakemake and `psld` commands. Run `make help` for a list.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
# Let Python cache compiled modules, because each job of a grid is a process that imports modules.
unexport PYTHONDONTWRITEBYTECODE

PYTHON ?= python3
PROFILE ?= profiles/default
GRID ?= demo
API ?= docs/api
INSTALLED := .venv/installed
RUN := PATH="$(CURDIR)/.venv/bin:$$PATH"
SNAKEMAKE := $(RUN) snakemake --profile $(PROFILE)
# On a terminal, show progress bars instead of the lines of the profile's logger. The test checks
# stderr, because stdout is a pipe inside $( ).
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

check-demo: $(INSTALLED) ## Check the results of the demo; also in a browser if chromium is installed
	$(RUN) python -m pytest tests/workflow/check_demo.py

small: $(INSTALLED) ## Run a small version of the paper on 16×16 Fashion-MNIST (docs/notes/small.md)
	@$(SNAKEMAKE) small $(LOGGER)
	@$(SNAKEMAKE) small-seeds $(LOGGER)
	@$(MAKE) --no-print-directory answer GRID=small
	@$(MAKE) --no-print-directory answer GRID=small-seeds

answer: $(INSTALLED) ## Summarize each table of GRID in a sentence
	@$(RUN) psld page grid_name=$(GRID)
	@echo "Tables: make results GRID=$(GRID)   Pictures: results/figures/$(GRID)/"

results: $(INSTALLED) ## Print the tables of GRID
	@$(RUN) psld tabulate grid_name=$(GRID)
	@echo "Tables: results/tables/$(GRID)/   Pictures: results/figures/$(GRID)/"
	@echo "Page: results/$(GRID).html (psld page grid_name=$(GRID) writes it from the finished cells)"

report: results/$(GRID)-report.html ## Write the Snakemake report of GRID as one HTML file

results/$(GRID)-report.html: $(INSTALLED) $(wildcard results/tables/$(GRID)/*.html results/figures/$(GRID)/*.png results/figures/$(GRID)/*/*.png)
	@$(RUN) psld plan grid_name=$(GRID) list=cells >/dev/null
	@$(SNAKEMAKE) $(GRID) --report $@ --quiet \
		|| { echo "error: no report; if grid $(GRID) is unfinished, first run: snakemake --profile $(PROFILE) $(GRID)"; exit 1; }
	@echo "Report: $@"

sync: $(INSTALLED) ## Upload new trainings and the results of GRID to wandb
	@$(RUN) psld wandb sync grid_name=$(GRID)

dashboard: $(INSTALLED) ## Create or update the report of GRID in wandb
	@$(RUN) psld wandb dashboard grid_name=$(GRID)

cells: $(INSTALLED) ## List the cells of GRID; each cell is a target of Snakemake
	@$(RUN) psld plan grid_name=$(GRID) list=cells

plan: $(INSTALLED) ## Print models, cells, jobs and the cost of GRID
	@$(RUN) psld plan grid_name=$(GRID)

test: $(INSTALLED) ## Run the fast tests
	$(RUN) python -m pytest -m 'not slow and not slurm and not gpu' -n 2 --dist worksteal

test-slow: $(INSTALLED) ## Run the slow tests
	$(RUN) python -m pytest -m 'slow and not slurm and not gpu' -n 2 --dist worksteal

test-slurm: $(INSTALLED) ## Start a real Slurm cluster of four nodes on this machine, and run its tests
	@tests/slurm/install.sh
	$(RUN) python -m pytest tests/slurm -rs

test-gpu: $(INSTALLED) ## Run the tests on a GPU, the whole demo last (at most 20 minutes)
	$(RUN) timeout 1200 python -m pytest tests/gpu -rs

gpu-hour: ## Run the GPU measurements in parts of less than ten minutes; run again to resume
	@$(RUN) python -m benchmarks.gpu_hour

test-fake-gpu: $(INSTALLED) ## Run the GPU code paths on a fake GPU that computes nothing; needs g++
	$(RUN) python -m pytest tests/fake_gpu -rs

fuzz: $(INSTALLED) ## Test the file readers with many damaged inputs
	$(RUN) python -m pytest tests/fuzz --hypothesis-profile=fuzz

test-wheel: $(INSTALLED) ## Build the wheel and test it in a new environment, outside the checkout
	$(RUN) tests/check_wheel.sh

lint: $(INSTALLED) ## Check style, imports and types: ruff, snakefmt, snakemake --lint, basedpyright
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/snakefmt --check Snakefile workflow
	.venv/bin/lint-imports
	.venv/bin/basedpyright
	$(SNAKEMAKE) --lint

docs: $(INSTALLED) ## Generate the API pages of the library in docs/api/
	$(RUN) python -m pdoc --docformat google --output-directory $(API) \
		psld.library psld.training.saving psld.evaluation.images psld.data.images psld.diffusion psld.networks

lock: $(INSTALLED) ## Update requirements.lock after a change of pyproject.toml
	.venv/bin/uv pip compile --quiet --universal --python-version 3.11 --all-extras --generate-hashes \
		--custom-compile-command 'make lock' --output-file requirements.lock pyproject.toml

bench: $(INSTALLED) ## Run the benchmarks of training and sampling
	@$(RUN) OMP_NUM_THREADS=1 python -m benchmarks.step
	@$(RUN) OMP_NUM_THREADS=1 python -m benchmarks.sampling
