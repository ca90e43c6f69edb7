PYTHON ?= python3.11
VENV ?= .venv
DEMO ?= demo
BIN = $(VENV)/bin

.PHONY: demo test lint benchmark docs tutorials clean

# a stamp, so that the second call installs nothing
$(VENV)/stamp: setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -e .
	touch $@

$(VENV)/stamp-test: $(VENV)/stamp
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[test]'
	touch $@

$(DEMO)/data: | $(VENV)/stamp
	$(BIN)/bids_qsm demo $@

demo: $(DEMO)/data
	$(BIN)/bids_qsm $(DEMO)/data $(DEMO)/out participant --work-dir $(DEMO)/work
	$(BIN)/bids_qsm $(DEMO)/data $(DEMO)/out group --work-dir $(DEMO)/work

lint: $(VENV)/stamp-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/pytest -n auto --dist loadfile --no-loadscope-reorder

# the site: docs/_build/index.html
docs: $(VENV)/stamp
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[docs]'
	$(BIN)/sphinx-build -W --keep-going -q docs docs/_build

# runs all commands and all Python of the tutorials
tutorials: $(VENV)/stamp
	$(BIN)/python docs/ext/blocks.py $(DEMO)/tutorials

benchmark: $(VENV)/stamp
	$(BIN)/python benchmarks/accuracy.py
	$(BIN)/python benchmarks/families.py
	$(BIN)/python benchmarks/speed.py
	$(BIN)/python benchmarks/document.py

clean:
	rm -rf $(VENV) $(DEMO) build docs/api docs/_build *.egg-info
