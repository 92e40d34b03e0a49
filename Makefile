# Everything a newcomer needs is `make run` and `make test`; both install what they need into .venv.
PYTHON ?= python3
BIN := .venv/bin
INSTALL := .venv/.installed
INSTALL_DEV := .venv/.installed-dev

# Most tests wait for a node or a database. A file stays with one process, so that its tests share theirs.
SIDE_BY_SIDE := -n 2 --dist loadfile

.PHONY: help install run regtest test soak lint types bench mutants requirements clean
.DELETE_ON_ERROR:

help: ## print this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

install: $(INSTALL) ## install paywatch with its embedded database into .venv

run: install ## everything on regtest by one command: node, database, watcher, api, notifier; Ctrl-C ends it
	$(BIN)/paywatch regtest up

regtest: $(INSTALL_DEV) ## install, then the integration tests on real bitcoind and PostgreSQL
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) -m 'regtest and not soak' tests/browser tests/chain tests/e2e tests/watcher

test: $(INSTALL_DEV) lint types ## install, then linters, types, import rules and every test
	$(BIN)/python -m pytest $(SIDE_BY_SIDE)

soak: $(INSTALL_DEV) ## the long forms of the tests
	$(BIN)/python -m pytest -m soak --timeout 3600

lint: $(INSTALL_DEV) ## ruff, and who may import whom
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(INSTALL_DEV) ## mypy --strict
	$(BIN)/mypy

bench: $(INSTALL_DEV) ## speed, as ratios in one run: full blocks, latency, invoices and deliveries per second
	$(BIN)/python -m tests.bench

mutants: $(INSTALL_DEV) ## plant faults in the rules and see the tests catch each of them
	$(BIN)/python -m tests.mutants

requirements: $(INSTALL_DEV) ## pin all requirements anew, with hashes
	$(BIN)/uv pip compile -q --upgrade --universal --generate-hashes --no-header --no-annotate \
	  --extra embedded pyproject.toml -o requirements.txt
	$(BIN)/uv pip compile -q --upgrade --universal --generate-hashes --no-header --no-annotate \
	  --extra embedded --extra dev pyproject.toml -o requirements-dev.txt

clean: ## remove what was installed and made here
	rm -rf .venv .paywatch .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/bin/uv: requirements-uv.txt | .venv/bin/python
	$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements-uv.txt

$(INSTALL): requirements.txt pyproject.toml | .venv/bin/uv
	test -e $(INSTALL_DEV) || $(BIN)/uv pip install -q --python $(BIN)/python --require-hashes -r requirements.txt
	$(BIN)/uv pip install -q --python $(BIN)/python --no-deps -e .
	touch $@

$(INSTALL_DEV): requirements-dev.txt pyproject.toml | .venv/bin/uv
	$(BIN)/uv pip install -q --python $(BIN)/python --require-hashes -r requirements-dev.txt
	$(BIN)/uv pip install -q --python $(BIN)/python --no-deps -e .
	touch $@ $(INSTALL)
