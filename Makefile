# `make` lists the targets. All of them work from a fresh clone: what they need is installed into .venv on the way, verified by hash.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest
# What takes long comes first, so that nobody is left alone with it at the end.
TESTS := tests/integration tests/properties tests/simulation tests/contract tests/chaos tests/unit
# Three processes of pytest-xdist for two cores: two that have a Kafka each, for the tests that need servers, and mostly wait; one that computes,
# for which more than one thread a process is no gain.
PARALLEL := -n 3 --dist loadgroup --durations 25
ONE_THREAD := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help airflow demo demo-retail test test-long tests compiled chaos bench lint format coverage fuzz requirements clean

help:  ## list the targets
	@awk 'BEGIN { FS = ":.*## " } /^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.run  ## real servers, simulated customers, two workers, one of them killed, the truth
	@$(BIN)/streamer demo

demo-retail: $(VENV)/.run  ## the same on a shop's real orders
	@$(BIN)/streamer demo-retail

test: $(VENV)/.dev  ## what must pass before a change is merged
	@$(MAKE) --no-print-directory --jobs 2 lint compiled
	@$(MAKE) --no-print-directory tests

tests: compiled  ## the tests alone
	$(ONE_THREAD) $(PYTEST) $(PARALLEL) $(TESTS)

test-long: coverage compiled  ## every branch of the core counted, and the tests that take minutes
	$(ONE_THREAD) HYPOTHESIS_PROFILE=long $(PYTEST) $(PARALLEL) -m long --timeout 3600 $(TESTS) tests/airflow

# Once for all: else each process of pytest does it for itself, all at the same time, and so does each worker that they start.
compiled: $(VENV)/.dev
	@$(BIN)/python -c 'from streamer.app import config, wiring; wiring.compile_all(config.load(None, {}))'

coverage: $(VENV)/.dev  ## every branch of streamer/core, counted uncompiled
	NUMBA_DISABLE_JIT=1 HYPOTHESIS_PROFILE=uncompiled $(PYTEST) -n 2 -m "uncompiled and not long and not compiled" \
	  --cov --cov-branch --cov-report term-missing:skip-covered --cov-fail-under 100 tests/unit tests/properties

# `make chaos CHAOS="--seeds 7"` runs one seed; `--help` tells what else there is. A seed takes four or five minutes.
chaos: $(VENV)/.dev  ## workers on real servers, killed, frozen and robbed of Redis: the whole campaign
	$(BIN)/python -m tests.chaos $(CHAOS)

airflow: $(VENV)/.airflow  ## the DAGs of deploy/airflow, parsed and run by a real Airflow
	$(PYTEST) -m long --timeout 3600 tests/airflow

# Any options of libFuzzer: `make fuzz FUZZ=-max_total_time=60`. What it finds is in .fuzz; docs/dead-letters.md says how to keep it.
fuzz: $(VENV)/.fuzz  ## hostile records, led by the coverage of the uncompiled decoder, for ten minutes
	$(BIN)/python -m tests.fuzz.fuzz_intake $(FUZZ)

# `make bench BENCH=--quick` goes through all of them in a few minutes, to see that they run.
bench: $(VENV)/.bench $(VENV)/.quix  ## the benchmarks, one after the other
	@set -e; for script in tests/bench/bench_*.py; do \
	  echo "== $$script"; $(BIN)/python "$$script" $(BENCH); done; \
	  echo "== tests/bench/bench_latency.py --transactions off"; $(BIN)/python tests/bench/bench_latency.py --transactions off $(BENCH)

lint: $(VENV)/.dev  ## ruff, mypy and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.dev  ## put the code in form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# All are made for the oldest Python; hashes cover every file of a release, so newer ones and other machines install the same releases.
requirements: $(VENV)/.python  ## choose the newest releases that fit, and write their hashes
	$(PYTHON) -m venv $(VENV)/pip-tools
	$(VENV)/pip-tools/bin/pip install --quiet --disable-pip-version-check pip-tools
	env -u PIP_FIND_LINKS CUSTOM_COMPILE_COMMAND="make requirements" $(VENV)/pip-tools/bin/pip-compile $(COMPILE) --upgrade \
	  --extra servers --extra report --extra dask --extra dev --output-file requirements/dev.txt pyproject.toml
	env -u PIP_FIND_LINKS CUSTOM_COMPILE_COMMAND="make requirements" $(VENV)/pip-tools/bin/pip-compile $(COMPILE) --upgrade \
	  --constraint requirements/dev.txt --extra report --output-file requirements/bench.txt pyproject.toml
	env -u PIP_FIND_LINKS CUSTOM_COMPILE_COMMAND="make requirements" $(VENV)/pip-tools/bin/pip-compile $(COMPILE) --upgrade \
	  --constraint requirements/dev.txt --extra servers --extra report --output-file requirements/run.txt pyproject.toml
	env -u PIP_FIND_LINKS CUSTOM_COMPILE_COMMAND="make requirements" $(VENV)/pip-tools/bin/pip-compile $(COMPILE) --upgrade \
	  --constraint requirements/run.txt --output-file requirements/image.txt pyproject.toml
	env -u PIP_FIND_LINKS CUSTOM_COMPILE_COMMAND="make requirements" $(VENV)/pip-tools/bin/pip-compile $(HASHED) --upgrade \
	  --output-file requirements/quix.txt requirements/quix.in
	env -u PIP_FIND_LINKS CUSTOM_COMPILE_COMMAND="make requirements" $(VENV)/pip-tools/bin/pip-compile $(HASHED) --upgrade \
	  --output-file requirements/fuzz.txt requirements/fuzz.in
	env -u PIP_FIND_LINKS CUSTOM_COMPILE_COMMAND="make requirements" $(VENV)/pip-tools/bin/pip-compile $(HASHED) --upgrade \
	  --output-file requirements/airflow.txt requirements/airflow.in

HASHED := --quiet --generate-hashes --allow-unsafe --strip-extras --no-annotate \
  --no-emit-index-url --no-emit-find-links --no-emit-trusted-host --no-emit-options
COMPILE := $(HASHED) --build-deps-for editable --extra registry

clean:  ## remove what the targets above made, servers' files aside
	rm -rf $(VENV) demo-report demo-retail-report .coverage* .fuzz .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache build dist ./*.egg-info

# Set-up. A stamp is written last, so an installation that was interrupted is taken up again. The lists name every release, so pip need not look
# for what they depend on; where it does, it takes a later release for one that is asked for with an extra, and refuses it for want of a hash.
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or later is needed, and $(PYTHON) is not: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "$(PYTHON) has no venv: install it (on Debian, the package python3-venv)" >&2; exit 1; }
	@touch $@

$(VENV)/.run: requirements/run.txt pyproject.toml | $(VENV)/.python
	@echo "installing into $(VENV), a minute or two the first time"
	@$(INSTALL) --require-hashes --no-deps --requirement requirements/run.txt
	@$(INSTALL) --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.dev: requirements/dev.txt $(VENV)/.run
	@echo "installing the tools of development"
	@$(INSTALL) --require-hashes --no-deps --requirement requirements/dev.txt
	@touch $@

$(VENV)/.bench: requirements/bench.txt $(VENV)/.dev
	@echo "installing what draws the benchmarks' plots"
	@$(INSTALL) --require-hashes --no-deps --requirement requirements/bench.txt
	@touch $@

# An environment of its own: Quix Streams needs an older release of the Kafka client than we do.
$(VENV)/.fuzz: requirements/fuzz.txt $(VENV)/.dev
	@$(INSTALL) --require-hashes --no-deps --only-binary :all: --requirement requirements/fuzz.txt \
	  || { echo "the fuzzer has wheels for Linux on x86-64 and Python 3.11 to 3.13 alone" >&2; exit 1; }
	@touch $@

$(VENV)/.airflow: requirements/airflow.txt $(VENV)/.dev
	@echo "installing Airflow, a minute or two"
	@$(PYTHON) -m venv $(VENV)/airflow
	@$(VENV)/airflow/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps --requirement requirements/airflow.txt
	@touch $@

$(VENV)/.quix: requirements/quix.txt | $(VENV)/.python
	@echo "installing Quix Streams, which a benchmark compares with"
	@$(PYTHON) -m venv $(VENV)/quix
	@$(VENV)/quix/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps --requirement requirements/quix.txt
	@touch $@
