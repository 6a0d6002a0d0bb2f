.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PEERS := .venv-peers
UV_INSTALL := $(BIN)/uv pip install --quiet --compile-bytecode
STAMP := $(VENV)/.installed

SEED ?= 1
TWO := -n 2 --dist worksteal

.PHONY: help install evaluation run test test-unit test-integration test-campaign chaos soak fuzz lint format bench builtin clean

help:
	@echo "make install | evaluation | run | test | test-unit | test-integration | test-campaign | chaos | soak | fuzz | lint | format | bench | builtin | clean"

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt Makefile
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet uv
	$(UV_INSTALL) --python $(BIN)/python --constraint constraints.txt --editable '.[calendars]'
	@touch $@

# What `kronos-stream evaluate` needs beside.
evaluation: $(STAMP)
	$(UV_INSTALL) --python $(BIN)/python --constraint constraints.txt --editable '.[calendars,evaluation]'

$(VENV)/.installed-dev: $(STAMP)
	$(UV_INSTALL) --python $(BIN)/python --constraint constraints.txt --editable '.[calendars,evaluation,dev]'
	$(UV_INSTALL) --python $(BIN)/python --constraint constraints.txt --no-deps kronos-model-arch
	@touch $@

run: install
	$(BIN)/kronos-stream run --symbols BTCUSDT,ETHUSDT

test: test-unit test-integration test-campaign

.NOTPARALLEL:

# Most tests compute on one thread: two at a time, and whoever is done takes over.
test-unit: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m "not integration and not campaign" $(TWO)

# Each of the two starts a broker and a store, unless KRONOS_TEST_KAFKA and KRONOS_TEST_REDIS do.
test-integration: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m integration $(TWO)

# By itself: it starts, kills and measures a dozen processes.
test-campaign: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m campaign

# make chaos SEED=2; make chaos BREAK=no-guard must report what is broken.
chaos: $(VENV)/.installed-dev
	$(BIN)/python -m tests.faults --seed $(SEED) $(if $(BREAK),--break $(BREAK))

soak: $(VENV)/.installed-dev
	$(BIN)/python -m tests.faults.soak --minutes 60 --plot docs/soak.svg

fuzz: $(VENV)/.installed-dev
	$(BIN)/python -m tests.faults.fuzzer --count 1000000 --seed $(SEED)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The peers of the ticks case in an environment of their own: quixstreams wants another
# confluent-kafka than ours.
$(PEERS)/.installed: $(STAMP)
	$(PYTHON) -m venv $(PEERS)
	sed 's/^confluent-kafka==.*/confluent-kafka==2.12.2/' constraints.txt > $(PEERS)/constraints.txt
	$(UV_INSTALL) --python $(PEERS)/bin/python --constraint $(PEERS)/constraints.txt --editable '.[peers]'
	@touch $@

bench: $(VENV)/.installed-dev $(PEERS)/.installed
	$(BIN)/python -m benchmarks $(CASE)

# Both stages of the built-in model, some two hours on 2 cores: make builtin BARS=FOLDER. To try it:
# MORE="--steps 20 --cache FOLDER --out FOLDER"
builtin: install
	$(BIN)/python deploy/builtin.py $(BARS) $(MORE)

clean:
	rm -rf $(VENV) $(PEERS) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
