# make demo   install, then specialize whisper-tiny.en on the sample data set: about ten minutes on two cores
# make test   install, then run every test
PYTHON ?= python3
BIN := .venv/bin
LOCK := requirements.lock
COMPILE := $(BIN)/uv pip compile -q --universal --generate-hashes --custom-compile-command "make lock" pyproject.toml

.PHONY: install demo test check lock help-pages clean

install: .venv/installed

.venv/installed: $(LOCK) pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --disable-pip-version-check uv
	$(BIN)/uv pip install -q --python $(BIN)/python --require-hashes -r $(LOCK)
	$(BIN)/uv pip install -q --python $(BIN)/python --no-deps -e .
	touch $@

demo: install
	$(BIN)/python -m asr_lightning fit --config configs/demo.yaml

test: install
	$(BIN)/python -m pytest

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell

# Resolve the exact versions anew.
lock: install
	$(COMPILE) --extra demo --extra dev -o $(LOCK)
	$(COMPILE) --extra nemo --extra demo --extra dev -o requirements-nemo.lock

# Print the options of fit, validate and test into the pages that their --help shows.
help-pages: install
	$(BIN)/python -m asr_lightning.commands.help_pages

clean:
	rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
