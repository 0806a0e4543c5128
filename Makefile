# Each target sets up what it needs in .venv and then runs one command, which is printed.
PYTHON ?= python3
BIN := .venv/bin
# Newer builds of PyTorch bring several GB for GPUs, so this one is installed first, by itself.
TORCH := torch==2.13.0

.PHONY: compare test test-all lint lessons clean

compare: .venv/.base            ## the main job: full fine-tuning and LoRA side by side
	$(BIN)/minilora compare

test: .venv/.test               ## the quick tests
	$(BIN)/pytest -m "not slow"

test-all: .venv/.parity         ## all tests, also against PyTorch, transformers and PEFT
	$(BIN)/minilora fetch smollm2 || echo "no smollm2: its tests will be skipped"
	$(BIN)/pytest

lint: .venv/.test               ## style, types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

lessons: .venv/.notebooks       ## open the notebooks
	$(BIN)/jupyter lab notebooks

clean:
	rm -rf .venv build *.egg-info

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/.base: .venv/bin/python pyproject.toml
	$(BIN)/pip install --quiet --editable .
	touch $@

.venv/.test: .venv/.base
	$(BIN)/pip install --quiet --editable ".[test,llm,graph]"
	touch $@

.venv/.parity: .venv/.test
	$(BIN)/pip install --quiet $(TORCH)
	$(BIN)/pip install --quiet --editable ".[test,llm,graph,parity,llamacpp]"
	touch $@

.venv/.notebooks: .venv/.base
	$(BIN)/pip install --quiet --editable ".[notebooks,llm,graph]"
	touch $@
