PYTHON ?= python3.11
VENV ?= .venv
DEMO ?= demo
BIN = $(VENV)/bin

.PHONY: demo test lint benchmark clean

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

benchmark: $(VENV)/stamp
	$(BIN)/python benchmarks/accuracy.py
	$(BIN)/python benchmarks/families.py
	$(BIN)/python benchmarks/speed.py
	$(BIN)/python benchmarks/document.py

clean:
	rm -rf $(VENV) $(DEMO) build *.egg-info
