# Two commands: `make study` and `make test`. Both install into .venv first if the lock has changed.

PYTHON ?= python3
BIN := .venv/bin

.PHONY: study plan test test-slow compare board verify archive docs check clean

study: .venv/installed
	$(BIN)/snakemake

# The cost of a study before it starts: make plan CONFIG=config/paper.yaml MACHINE=a100
# On the machine at hand, measured once: make plan MEASURE=1. Compared with a finished run: make plan AGAINST=results/mini.
CONFIG ?= config/mini.yaml
plan: .venv/installed
	$(BIN)/python -m study.plan --config $(CONFIG) $(if $(MACHINE),--machine $(MACHINE)) $(if $(MEASURE),--measure) \
	  $(if $(AGAINST),--against $(AGAINST))

test: .venv/installed
	$(BIN)/python -m pytest

# Tests that run whole studies: killed and resumed ones, repetitions, other sources of data.
test-slow: .venv/installed
	$(BIN)/python -m pytest -m slow

# List the scores of the default study that lie outside the intervals of the committed run; runs the study if needed.
compare: study
	$(BIN)/python -m report.compare results/mini results/reference/mini

# One page of all finished studies, or of some: make board STUDIES="results/mini results/reference/small".
board: .venv/installed
	$(BIN)/python -m report.board $(STUDIES) --out results/board.html

# Check the files of a finished study, or pack it into one file (`make verify STUDY=test`).
STUDY ?= mini

verify: .venv/installed
	$(BIN)/python -m study.verify results/$(STUDY)

archive: .venv/installed
	$(BIN)/python -m study.archive results/$(STUDY) --out $(STUDY).zip

# Build the documentation as a site in build/docs. A broken link or heading is an error.
docs: .venv/docs-installed
	$(BIN)/python -m sphinx --fresh-env --fail-on-warning --keep-going --quiet --conf-dir docs . build/docs

# What continuous integration runs in addition to the tests.
check: .venv/installed docs
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

# Packages that only the documentation needs, in addition to those of the suite.
.venv/docs-installed: envs/docs.lock .venv/installed
	$(BIN)/pip install --quiet --no-deps --requirement envs/docs.lock
	touch $@

clean:
	rm -rf results/mini results/test .snakemake build/docs docs/api
