# Two commands: `make study` and `make test`. Both install into .venv first if the lock has changed since.

PYTHON ?= python3
BIN := .venv/bin

.PHONY: study plan test test-slow compare verify archive check clean

study: .venv/installed
	$(BIN)/snakemake

# What a study will cost, before it starts: make plan CONFIG=config/paper.yaml MACHINE=a100
CONFIG ?= config/mini.yaml
MACHINE ?= cpu
plan: .venv/installed
	$(BIN)/python -m study.plan --config $(CONFIG) --machine $(MACHINE)

test: .venv/installed
	$(BIN)/python -m pytest

# Whole studies that are killed, repeated and run from other sources.
test-slow: .venv/installed
	$(BIN)/python -m pytest -m slow

# Where the default study, finished or run now, leaves the intervals of the committed run.
compare: study
	$(BIN)/python -m report.compare results/mini results/reference/mini

# A finished study: are its files what they were, and one file to keep or hand on (`make verify STUDY=test`).
STUDY ?= mini

verify: .venv/installed
	$(BIN)/python -m study.verify results/$(STUDY)

archive: .venv/installed
	$(BIN)/python -m study.archive results/$(STUDY) --out $(STUDY).zip

# What continuous integration runs beside the tests.
check: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile rules
	$(BIN)/snakemake --lint
	set -e; for study in $$(grep -l "^study:" config/*.yaml); do \
	  $(BIN)/snakemake --configfile $$study --dry-run --quiet all; \
	done

.venv/installed: envs/requirements.lock pyproject.toml
	$(PYTHON) -c "import sys; sys.exit(0 if sys.version_info >= (3, 11) else 'Python 3.11 or newer is needed: make PYTHON=python3.11')"
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --requirement envs/requirements.lock
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

clean:
	rm -rf results/mini results/test .snakemake
