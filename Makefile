# Spica. `make` lists what there is; nothing but make and Python >= 3.11 must be there before.
#
#   VENV=.venv         where the environment lies
#   DEMO_DIR=demo      workspace of the demo        HEADLESS=1   no web page at the end
#   SEED=1  PORT=8765  of the demo                  WORKERS=3    processes of pytest

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
SHELL := /bin/sh

VENV ?= .venv
DEMO_DIR ?= demo
WORKERS ?= 3
PYTEST ?=
export UV_PYTHON_DOWNLOADS = never
export PIP_DISABLE_PIP_VERSION_CHECK = 1

BIN := $(VENV)/bin
RECORDS := pyproject.toml setup.py constraints.txt

.PHONY: help
help: ## list these targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: demo
demo: $(VENV)/.warmed ## simulate a survey, run everything on it, open the web page (HEADLESS=1: no page)
	$(BIN)/spica demo "$(DEMO_DIR)" $(if $(filter 1,$(HEADLESS)),--headless) $(if $(SEED),--seed $(SEED)) $(if $(PORT),--port $(PORT))

.PHONY: test
test: lint $(VENV)/.warmed ## lint, types, floors, and every test
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(PYTEST)

.PHONY: lint
lint: $(VENV)/.installed-test ## ruff, mypy and import-linter only
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

.PHONY: bench
bench: $(VENV)/.installed-test ## measure speed and depth on simulated exposures
	$(BIN)/python -m benchmarks

.PHONY: docs
docs: $(VENV)/.installed-demo ## rewrite the generated blocks of docs/ from the code
	$(BIN)/python docs/generate.py

.PHONY: pictures
pictures: $(VENV)/.installed-test $(VENV)/.warmed ## take the pictures of docs/ in Chromium, on a simulated survey
	rm -rf "$(DEMO_DIR)-pictures"
	$(BIN)/spica demo "$(DEMO_DIR)-pictures" --headless
	$(BIN)/python -m tests.walk.night_shift --workspace "$(DEMO_DIR)-pictures" --pictures docs/pictures
	rm -rf "$(DEMO_DIR)-pictures"

.PHONY: venv
venv: $(VENV)/.installed-test ## make the environment with everything the tests need

.PHONY: clean
clean: ## remove the demo, builds and caches; the environment stays
	rm -rf "$(DEMO_DIR)" build dist spica.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find spica web daemon migrations tests docs -name __pycache__ -type d -prune -exec rm -rf {} +

# The environment. A stamp a set of packages; a newer list of packages makes it again.

$(VENV)/bin/python:
	@python=; for name in "$$PYTHON" python3.11 python3.12 python3.13 python3.14 python3 python; do \
	  if [ -n "$$name" ] && "$$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	    python=$$name; break; fi; done; \
	if [ -z "$$python" ]; then \
	  echo "make: no Python >= 3.11 found; install one, or name it: make PYTHON=/path/to/python3.11" >&2; exit 1; fi; \
	if command -v uv >/dev/null 2>&1; then \
	  uv venv --quiet --python "$$("$$python" -c 'import sys; print(sys.executable)')" "$(VENV)"; \
	else \
	  "$$python" -m venv "$(VENV)" || { echo "make: this Python makes no environments; install python3-venv" >&2; exit 1; }; \
	fi

define install
	@echo "installing $(1) into $(VENV)"
	@if command -v uv >/dev/null 2>&1; then \
	  uv pip install --quiet --compile-bytecode --python "$(BIN)/python" --constraint constraints.txt --editable "$(1)"; \
	else \
	  "$(BIN)/python" -m pip install --quiet --constraint constraints.txt --editable "$(1)"; \
	fi
	@"$(BIN)/python" -m compileall -q spica web daemon migrations # where Python may not write caches itself
	@touch $@
endef

$(VENV)/.installed-demo: $(RECORDS) | $(VENV)/bin/python
	$(call install,.)

$(VENV)/.installed-test: $(RECORDS) | $(VENV)/bin/python
	$(call install,.[test])
	@touch $(VENV)/.installed-demo

$(VENV)/.warmed: $(VENV)/.installed-demo
	$(BIN)/spica warm
	@touch $@
