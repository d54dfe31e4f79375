# `make demo` and `make test` set everything up by themselves, with nothing but Python (3.10 or newer) and make.
# Another interpreter than python3: make demo PYTHON=/path/to/python3.12

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow lint format clean
export PYTHON

VENV_PYTHON := .venv/bin/python
DEMO := demo
PYTEST := $(VENV_PYTHON) -m pytest -n 2 --dist loadfile

help: ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' Makefile

demo: ## Quantize the embedded model to W4A8, compare its pictures, and say where the page is; goes on where it stopped
	@sh scripts/setup.sh run
	@$(VENV_PYTHON) -m src.run_pipeline --model mini --out $(DEMO)/pipeline --resume

test: ## Run the tests: code, formatting, types; two processes (others: ARGS='-n 4')
	@sh scripts/setup.sh test
	@$(PYTEST) -m 'not slow' $(ARGS)

test-slow: ## Run the tests that take long: every documented command, whole runs that are killed, the notebook
	@sh scripts/setup.sh test
	@$(PYTEST) -m slow $(ARGS)

lint: ## Check formatting and types alone
	@sh scripts/setup.sh test
	@$(VENV_PYTHON) -m pytest -q -m 'not slow' tests/house

format: ## Format the code, and mend what ruff can mend
	@sh scripts/setup.sh test
	@$(VENV_PYTHON) -m ruff check --fix --quiet . ; $(VENV_PYTHON) -m ruff format .

clean: ## Remove caches and the demo (the environment: rm -r .venv)
	rm -rf $(DEMO) build dist .pytest_cache .ruff_cache
	find src tests scripts -name __pycache__ -type d -prune -exec rm -r {} +
