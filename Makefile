# What .ci/run runs, for an environment that has the package and its tools: pip install -e '.[dev]'
OUT ?= build
.PHONY: check lint types docs quickstart test commands

check: lint types docs quickstart test commands

lint:
	ruff check .
	ruff format --check .

types:
	mypy

docs:
	sphinx-build -q -W -n docs $(OUT)/docs

quickstart:
	rm -rf $(OUT)/quickstart
	dpaat quickstart --epochs 2 --out $(OUT)/quickstart

test:
	pytest -n 2 --cov --cov-report=term:skip-covered

# every command in README, tutorial and how-tos, scaled down: about a minute
commands:
	pytest -n 2 --dist load -m slow tests/test_docs_commands.py
