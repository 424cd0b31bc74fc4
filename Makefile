# VENV=... and PYTHON=... choose where the environment lies and which Python makes it; HEADLESS=1 ignores the display.
VENV ?= .venv
PYTHON ?=
HEADLESS ?=
export VENV PYTHON HEADLESS

FIND = python="$$(sh scripts/find_python.sh)" &&

.PHONY: help demo test test-all check pytest pytest-lowest pytest-newest docs package format constraints clean
.DEFAULT_GOAL := help

help:
	@echo "make demo         set up, then show the sample EM stack segmented in napari (without a display: a screenshot)"
	@echo "make test         set up, then run every check and test except the slow ones"
	@echo "make test-all     the same with the slow tests"
	@echo "make check        set up, then run every check but no test"
	@echo "make pytest       set up, then run every test but the slow ones and those on real data"
	@echo "make docs         set up, then build the documentation site in build/site"
	@echo "make package      set up, then build the wheel and the source archive in dist, and look at them"
	@echo "make format       set up, then format and mend the code with ruff"
	@echo "make constraints  write constraints.txt from what is installed in the environment"
	@echo "make clean        remove caches, build leftovers and demo-output (the environment stays)"

demo:
	@$(FIND) "$$python" scripts/setup.py all && "$$python" scripts/demo.py

test:
	@$(FIND) "$$python" scripts/setup.py dev && "$$python" scripts/check.py

test-all:
	@$(FIND) "$$python" scripts/setup.py dev && "$$python" scripts/check.py --slow

check:
	@$(FIND) "$$python" scripts/setup.py dev && "$$python" scripts/check.py --no-tests

pytest:
	@$(FIND) "$$python" scripts/setup.py dev && "$$python" scripts/check.py --no-checks --no-data

pytest-lowest: # the oldest versions that pyproject.toml allows, in an environment of their own
	@VENV=.venv-lowest; export VENV; $(FIND) "$$python" scripts/setup.py --lowest dev && "$$python" scripts/check.py --no-checks --no-data

pytest-newest: # the newest versions of everything, pre-releases of napari and npe2 included
	@VENV=.venv-newest; export VENV; $(FIND) "$$python" scripts/setup.py --newest dev && "$$python" scripts/check.py --no-checks --no-data

docs:
	@$(FIND) "$$python" scripts/setup.py docs openvino && NO_MKDOCS_2_WARNING=1 "$$VENV/bin/mkdocs" build --strict --site-dir build/site

package:
	@$(FIND) "$$python" scripts/setup.py package && "$$VENV/bin/python" scripts/package.py dist

format:
	@$(FIND) "$$python" scripts/setup.py dev && "$$VENV/bin/ruff" check --fix . && "$$VENV/bin/ruff" format .

constraints:
	@$(FIND) "$$python" scripts/setup.py dev benchmark && "$$VENV/bin/python" scripts/constraints.py

clean:
	@rm -rf build dist demo-output .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .coverage
	@find src tests examples benchmarks scripts -name __pycache__ -type d -prune -exec rm -rf {} +
	@echo "Caches, build leftovers and demo-output are removed."
