# Everything that needs Python makes .venv first, when it is missing or older than what it is made from.

PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-slow check docs format clean

demo: .venv/demo-installed
	$(BIN)/inlay demo

test: .venv/dev-installed
	$(BIN)/pytest

test-slow: .venv/dev-installed
	$(BIN)/pytest -m ""

# What CI runs: formatting, lint, types, the tests, and the README's examples.
check: .venv/dev-installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/basedpyright src
	$(BIN)/lint-imports --no-cache
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet
	$(BIN)/pytest -n 2 -m "not slow or readme"

docs: .venv/dev-installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve

format: .venv/dev-installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv runs site

.venv/demo-installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[demo]'
	touch $@

.venv/dev-installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@ .venv/demo-installed
