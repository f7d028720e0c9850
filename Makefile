# make demo        build the environment, compare device selection on the built-in corpus
# make test        build the environment, pass the tests
# make test-slow   the long tests
# make lint        format, lint, types
# make docs        the documentation, under build/docs; fails on warnings, dead links and quick examples
#
# PYTHON picks the interpreter, PIP_ARGS goes to pip (the README says when you want it).

PYTHON ?= python3
VENV ?= .venv
PIP_ARGS ?=
BIN := $(VENV)/bin

export HF_HUB_OFFLINE ?= 1
export FLWR_TELEMETRY_ENABLED ?= 0

.PHONY: demo test test-slow lint format docs
.DEFAULT_GOAL := test

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c constraints.txt -e ".[simulation,test,dev]"
	touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c constraints.txt -e ".[docs]"
	touch $@

demo: $(VENV)/.installed
	rm -rf runs/demo
	$(BIN)/fedsim experiment selection --preset quick --out runs/demo

test: $(VENV)/.installed
	$(BIN)/python -m pytest --hypothesis-profile=fixed -m "not slow" -n 2 --dist loadfile

test-slow: $(VENV)/.installed
	$(BIN)/python -m pytest --hypothesis-profile=fixed -m slow

lint: $(VENV)/.installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(VENV)/.installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(VENV)/.installed-docs
	$(BIN)/python -m sphinx --fresh-env --write-all --fail-on-warning --keep-going --quiet -b html docs build/docs
	$(BIN)/python -m pytest --hypothesis-profile=fixed -m "not slow" tests/docs
