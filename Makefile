# Two commands matter: `make run` and `make test`. Everything else is for developers.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# One thread: two torch threads spin when anything else runs on two cores.
export OMP_NUM_THREADS ?= 1
export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false
# Dozens of processes that the tests start would each compile the same files again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: run test test-slow test-gpu test-browser golden mutants lint format docs bench clean

run: $(VENV)/.installed  ## make the environment, run the quickstart
	$(BIN)/fedtune run quickstart

# Whole files are shared out, so that what a module makes once is made once.
test: $(VENV)/.installed  ## the fast tier
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-slow: $(VENV)/.installed  ## minutes long: kills, long runs
	$(BIN)/python -m pytest -m slow

test-gpu: $(VENV)/.installed  ## needs a CUDA device
	$(BIN)/python -m pytest -m gpu

test-browser: $(VENV)/.installed  ## needs Chromium on the PATH
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[browser]'
	$(BIN)/python -m pytest -m browser

golden: $(VENV)/.installed  ## the golden recipes end in the bits of BASE
	$(BIN)/python tests/golden/compare.py $(BASE)

mutants: $(VENV)/.installed  ## twenty known breakages, each caught by the fast tier
	$(BIN)/python tests/mutants/run.py

lint: $(VENV)/.installed  ## lint, format, types, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.installed  ## the pages of rules, attacks and keys, from what they say of themselves
	$(BIN)/python -c "from fedtune.listing import as_markdown; print(as_markdown(), end='')" \
		> docs/aggregators.md
	$(BIN)/python -c "from fedtune.listing import attacks_as_markdown as md; print(md(), end='')" \
		> docs/attacks.md
	$(BIN)/python -c "from fedtune.recipe.key_page import keys_as_markdown as md; print(md(), end='')" \
		> docs/keys.md

bench: $(VENV)/.installed  ## what a client-round costs, and what a rule does
	$(BIN)/python benchmarks/rounds.py
	$(BIN)/python benchmarks/aggregators.py --small

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache
