# Everything from nothing: each target sets up what it needs in a virtual environment of its own.
#
#   make levels   the published level sweep: tables on the screen, report in results/levels
#   make test     all tests
#   make bench    speed against peers, side by side in one run; fails if a ratio got worse
#   make gpu      check and measure on a GPU, with the packages of PYTHON
#   make versions   the fast tests on other versions of Python and JAX
#   make mutants    change the library in 150 places and see the tests fail, 7 to 15 minutes
#   make release  build the source distribution and the wheel in dist, and check them
#   make docs     the documentation site, in build/docs; fails on a warning, such as a name left out

PYTHON ?= python3
VENV ?= .venv
# Versions known to work. `make PIP_CONSTRAINT= test` takes the newest of today instead.
export PIP_CONSTRAINT ?= $(CURDIR)/constraints-newest.txt
export PIP_DISABLE_PIP_VERSION_CHECK ?= 1
BIN := $(VENV)/bin
PINS := pyproject.toml constraints-newest.txt
JOBS ?= auto

.PHONY: levels test quick lint format bench gpu docs mutants release versions versions-update clean

levels: $(VENV)/.experiments
	$(BIN)/python -m experiments levels $(ARGS)

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n $(JOBS) $(ARGS)

quick: $(VENV)/.dev
	$(BIN)/python -m pytest -n $(JOBS) -m "not slow" $(ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.bench
	$(BIN)/python -m benchmarks $(ARGS)
	$(BIN)/python -m benchmarks --check

mutants: $(VENV)/.dev
	$(BIN)/python -m tests.mutants $(ARGS)

release: $(VENV)/.dev
	$(BIN)/python -m tests.release
	$(BIN)/python -m pytest -n 0 tests/test_install.py

versions: $(VENV)/.dev
	$(BIN)/python -m tests.versions $(ARGS)

versions-update: $(VENV)/.dev
	$(BIN)/python -m tests.versions --update

# With the packages of the Python that is there: machines with GPUs often have no package index.
gpu:
	PYTHONPATH=$(CURDIR) $(PYTHON) -m benchmarks.gpu $(ARGS)

docs: $(VENV)/.docs
	rm -rf build/docs
	$(BIN)/python -m sphinx --quiet --nitpicky --fail-on-warning --keep-going --jobs auto $(ARGS) docs build/docs
	@echo "Open build/docs/index.html"

$(VENV)/.experiments: $(PINS) $(VENV)/.created
	$(BIN)/pip install --quiet --editable ".[experiments]"
	touch $@

$(VENV)/.bench: $(PINS) $(VENV)/.created
	$(BIN)/pip install --quiet --editable ".[bench]"
	touch $@ $(VENV)/.experiments

$(VENV)/.docs: $(PINS) $(VENV)/.created
	$(BIN)/pip install --quiet --editable ".[docs]"
	touch $@

$(VENV)/.dev: $(PINS) $(VENV)/.created
	$(BIN)/pip install --quiet --editable ".[dev]"
	touch $@ $(VENV)/.experiments

$(VENV)/.created:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	touch $@

clean:
	rm -rf $(VENV) .cache build dist results
