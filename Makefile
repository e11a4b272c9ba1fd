# make demo: the main job on embedded data; make test: the whole suite. Neither needs anything first.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test lint format tables catalogue docs docs-serve dist install clean

demo: $(STAMP)
	@# a finished run is made again; one that was stopped is resumed
	@if [ -f runs/demo/report.html ]; then rm -rf runs/demo; fi
	$(BIN)/deepcorrect run demo --out runs/demo --resume

test: $(STAMP)
	@# one worker per core, at most four; a worker that runs out of tests takes some of another's
	$(BIN)/python -m pytest -n logical --maxprocesses 4 --dist worksteal \
		--cov=deepcorrect --cov-fail-under=90 --durations=10

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --project pyproject.toml --pythonpath $(BIN)/python

tables: $(STAMP)
	$(BIN)/python -m benchmarks.evidence.tables

catalogue: $(STAMP)
	$(BIN)/python scripts/write_catalogue.py

docs: $(STAMP)
	@# runs the tutorials' notebooks whose source or package has changed, and asks nothing of the network
	$(BIN)/python -m mkdocs build --strict

docs-serve: $(STAMP)
	$(BIN)/python -m mkdocs serve --strict

dist: $(STAMP)
	rm -rf dist
	$(BIN)/python -m build --outdir dist
	$(BIN)/twine check --strict dist/*
	$(BIN)/python scripts/try_wheel.py

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; set PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) build dist site .pytest_cache .ruff_cache .hypothesis .coverage
