# Doors of the project; `make help` lists them. Each sets up what it needs.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup run test test-quick test-slow test-gpu check format results gpu-report docs docs-serve pictures lock environment clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## Install everything into .venv (repeatable; PYTHON=python3.12 picks another Python)
	@$(PYTHON) scripts/setup.py $(VENV)

run: setup ## Train, evaluate and draw on a toy Cityscapes: minutes on two CPU cores
	@$(BIN)/python run.py experiment=toy_quickstart $(ARGS)

test: setup ## The test suite (ARGS="-k name" narrows it)
	@$(BIN)/python -m pytest -n 2 --dist worksteal $(ARGS)

test-quick: setup ## The tests that take no seconds and start no processes, to be run while working
	@$(BIN)/python -m pytest -n 2 --dist worksteal --ignore=tests/processes -m "not thorough and not slow and not gpu" $(ARGS)

test-slow: setup ## The tests that take minutes
	@$(BIN)/python -m pytest -m slow $(ARGS)

test-gpu: ## The tests that need an NVIDIA GPU; without .venv by PYTHON, and without a network
	@$(or $(wildcard $(BIN)/python),$(PYTHON)) -m pytest -m gpu $(ARGS)

check: setup ## Lint, formatting, types, import directions
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/python -m mypy
	@$(BIN)/python -m pytest -n 0 tests/test_imports.py

format: setup ## Format the code and mend what ruff can mend
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

results: setup ## Make docs/reference/results.md anew; ARGS="FOLDER..." adds the runs below folders
	@$(BIN)/python scripts/publish_docs.py $(ARGS)

gpu-report: setup ## Tables of docs/ from a GPU: ARGS=DIR of scripts/gpu_check.py
	@$(BIN)/python scripts/gpu_report.py $(ARGS)

docs: setup ## Make the generated pages and the site, site/index.html; a warning is an error
	@$(BIN)/python scripts/generate_docs.py
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build $(ARGS)

docs-serve: setup ## Show the site at http://127.0.0.1:8000, made anew when a page changes
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve $(ARGS)

pictures: setup ## Make the pictures of docs/ anew: 40 minutes on two CPU cores; ARGS="NAME ..." some
	@$(BIN)/python scripts/make_pictures.py $(ARGS)

environment: setup ## Versions, GPU, Detectron2's origin: what a bug report needs
	@$(BIN)/python -m panoptic_dl.core.environment

lock: setup ## Resolve requirements.lock anew from pyproject.toml
	@$(VENV)/uv/bin/uv pip compile --quiet --universal --python-version 3.10 --generate-hashes \
	  --no-annotate --no-header --no-emit-index-url --no-emit-find-links --all-extras --upgrade \
	  pyproject.toml -o requirements.lock

clean: ## Remove caches of tools (never outputs, datasets or .venv)
	@rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
