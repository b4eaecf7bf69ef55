# make demo   install, then specialize whisper-tiny.en on the sample data set: a few minutes
# make test   install, then run every test, in the main environment and in the one with NeMo
# make test-quick   the tests that most changes break, in under three minutes
PYTHON ?= python3
BIN := .venv/bin
NEMO := .venv-nemo/bin
LOCK := requirements.lock
SAMPLE := examples/german_accent/clips
COMPILE := $(BIN)/uv pip compile -q --universal --generate-hashes --custom-compile-command "make lock" pyproject.toml
# Locks of what a rented machine installs: the same versions, only for its platform and Python.
RENTED := asr_lightning/cloud/locks
COMPILE_RENTED := $(BIN)/uv pip compile -q --python-platform x86_64-unknown-linux-gnu --python-version 3.11 \
	--generate-hashes --no-annotate --custom-compile-command "make lock" pyproject.toml

.PHONY: install install-nemo install-skypilot demo test test-quick test-main test-nemo test-jobs test-http check lock help-pages clean

install: .venv/installed

# NeMo 3.0.0 requires lightning 2.4.0, so it has a separate environment.
install-nemo: .venv-nemo/installed

# SkyPilot and transformers require versions that exclude each other, so the client has a separate environment without torch.
install-skypilot: .venv-skypilot/installed

.venv/installed: $(LOCK) pyproject.toml
.venv-nemo/installed: requirements-nemo.lock pyproject.toml
.venv-skypilot/installed: requirements-skypilot.lock pyproject.toml

.venv/installed .venv-nemo/installed .venv-skypilot/installed:
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install -q --disable-pip-version-check uv
	$(@D)/bin/uv pip install -q --compile-bytecode --python $(@D)/bin/python --require-hashes -r $<
	$(@D)/bin/uv pip install -q --python $(@D)/bin/python --no-deps -e .
	touch $@

# One model, three epochs and fewer candidates: about 210 s on two cores, up to twice that on slower ones.
demo: install
	$(BIN)/python -m asr_lightning specialize $(SAMPLE) --model whisper-tiny.en --run_dir runs/demo \
		--folds off --trainer.max_epochs 3 --selection.average 1 --selection.alphas [0.5]

# Two parts at a time with one thread each: with two threads each, they would wait for one another on two cores.
test: install install-nemo
	OMP_NUM_THREADS=1 $(MAKE) -j2 test-main test-nemo test-jobs test-http

# The tests that most changes break, in under three minutes.
test-quick: install
	$(BIN)/python -m pytest -m "not once" tests/architecture tests/cases tests/configs tests/docs tests/unit/cli \
		tests/unit/data tests/unit/datamodules tests/unit/reports tests/unit/run tests/unit/test_*.py

test-main: install
	$(BIN)/python -m pytest --ignore tests/server --ignore tests/cloud

test-nemo: install-nemo
	$(NEMO)/python -m pytest

# The tests of server and cloud in two halves of about the same length.
JOBS := tests/cloud tests/server/jobs tests/server/client tests/server/test_history.py

test-jobs: install
	$(BIN)/python -m pytest $(JOBS)

test-http: install
	$(BIN)/python -m pytest tests/server $(JOBS:%=--ignore %)

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell

# Resolve the exact versions of all dependencies again.
lock: install
	$(COMPILE) --extra demo --extra weights --extra dev -o $(LOCK)
	$(COMPILE) --extra nemo --extra demo --extra weights --extra dev -o requirements-nemo.lock
	$(COMPILE) --extra server --extra demo --extra weights --extra lora --group build --constraint $(LOCK) \
		-o deploy/requirements.lock
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --custom-compile-command "make lock" \
		--group skypilot -o requirements-skypilot.lock
	$(COMPILE_RENTED) --extra rented --constraint $(LOCK) -o $(RENTED)/main.lock
	$(COMPILE_RENTED) --extra rented --extra nemo --constraint requirements-nemo.lock -o $(RENTED)/nemo.lock

# Write the options of fit, validate and test to the pages that their --help shows.
help-pages: install
	$(BIN)/python -m asr_lightning.cli.help_pages

clean:
	rm -rf .venv .venv-nemo build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
