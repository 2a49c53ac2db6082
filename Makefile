# Tierflow. `make` lists the targets. Everything is installed into .venv of this folder; nothing else is touched.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
CI ?=
# Parallel test processes; the heavy brokers are shared between them.
WORKERS ?= 2

.DEFAULT_GOAL := help
.PHONY: help run test check chaos bench clean install

help: ## List the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(STAMP): pyproject.toml constraints.txt client/pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Tierflow needs Python 3.11 or newer, %s is %s: make PYTHON=/path/to/python3.11" % (sys.executable, sys.version.split()[0]))'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt uv
	@$(BIN)/uv pip install --quiet --python $(BIN)/python -c constraints.txt -e './client' -e '.[embedded,local,solver,train,otlp,dev]'
	@touch $@

install: $(STAMP) ## Set up .venv with all extras

run: $(STAMP) ## Do the main job on this machine: real models, real requests, their results and stories
	@$(BIN)/tierflow demo $(ARGS)

test: $(STAMP) ## Run all tests (WORKERS=n processes)
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup $(ARGS)

check: $(STAMP) ## Static checks: ruff, mypy --strict, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

chaos: $(STAMP) ## Random faults for a while (MINUTES=30 SEED=7 NODES=1 or 3); a failing seed repeats
	$(BIN)/python -m tests.faults.chaos --minutes $(or $(MINUTES),5) $(if $(SEED),--seed $(SEED)) --nodes $(or $(NODES),1)

bench: $(STAMP) ## Run the benchmarks and print their tables
	$(BIN)/python -m bench $(ARGS)

clean: ## Remove the environment, caches and run data of this folder
	rm -rf $(VENV) .tierflow .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache build dist *.egg-info client/*.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
