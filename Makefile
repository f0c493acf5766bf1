# Each target does all the set-up that it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
export HF_HUB_OFFLINE = 1

.PHONY: sample catalogue test test-slow test-all lint bench

# Makes the embedded sample and runs the five stages on it.
sample: $(INSTALLED)
	$(BIN)/python -m kddcup.sample --out data/sample
	SIZE=small TOKENIZER=lexicon bash main.sh data/sample

# Draws a catalogue of products and goes from its pictures through the five stages to a box to search it with.
catalogue: $(INSTALLED)
	$(BIN)/python -m kddcup.catalogue --out data/catalogue
	$(BIN)/python -m kddcup.extract --images data/catalogue/pictures --pairs data/catalogue/pairs.csv \
	    --out data/catalogue
	SIZE=small TOKENIZER=lexicon bash main.sh data/catalogue
	$(BIN)/python -m kddcup.search index --data_dir data/catalogue --out data/catalogue.index --force
	@echo "search it with: $(BIN)/python -m kddcup.search serve --index data/catalogue.index"

# Each process of the tests has one core.
TESTS := $(BIN)/python -m pytest -n logical --dist worksteal

test: $(INSTALLED)
	$(TESTS)

# Those that take long: kills at many places, whole runs, two hosts.
test-slow: $(INSTALLED)
	$(TESTS) -m slow

test-all: test test-slow

# What the project costs, beside a plain reference and the machine's limit: seven minutes on 2 idle cores.
bench: $(INSTALLED)
	THP_MEM_ALLOC_ENABLE=1 $(BIN)/python -m benchmarks

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

$(INSTALLED): requirements.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --requirement requirements.txt
	touch $@
