# VENV=... and PYTHON=... choose where the environment lies and which Python makes it; HEADLESS=1 ignores the display.
VENV ?= .venv
PYTHON ?=
HEADLESS ?=
export VENV PYTHON HEADLESS

FIND = python="$$(sh scripts/find_python.sh)" &&

.PHONY: help demo test test-all format constraints clean
.DEFAULT_GOAL := help

help:
	@echo "make demo         set up, then show the sample EM stack segmented in napari (without a display: a screenshot)"
	@echo "make test         set up, then run every check and test except the slow ones"
	@echo "make test-all     the same with the slow tests"
	@echo "make format       set up, then format and mend the code with ruff"
	@echo "make constraints  write constraints.txt from what is installed in the environment"
	@echo "make clean        remove caches, build leftovers and demo-output (the environment stays)"

demo:
	@$(FIND) "$$python" scripts/setup.py all && "$$python" scripts/demo.py

test:
	@$(FIND) "$$python" scripts/setup.py test && "$$python" scripts/check.py

test-all:
	@$(FIND) "$$python" scripts/setup.py test && "$$python" scripts/check.py --slow

format:
	@$(FIND) "$$python" scripts/setup.py test && "$$VENV/bin/ruff" check --fix . && "$$VENV/bin/ruff" format .

constraints:
	@$(FIND) "$$python" scripts/setup.py test benchmark && "$$VENV/bin/python" scripts/constraints.py

clean:
	@rm -rf build dist demo-output .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .coverage
	@find src tests examples benchmarks scripts -name __pycache__ -type d -prune -exec rm -rf {} +
	@echo "Caches, build leftovers and demo-output are removed."
