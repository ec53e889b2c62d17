# Needs Python 3.11 or newer and make; everything else is installed into .venv.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: run example test check docs languages languages-lock bench profile startup soak hosts fuzz openapi mutants lock dist sbom clean

run: .venv/run.stamp  ## throwaway keys, the real server, one request and its response
	@$(BIN)/verifier dev

example: .venv/test.stamp  ## a game with a login, a permission dialog and an escs button, in a browser
	@$(BIN)/python examples/run.py

test: .venv/test.stamp  ## the whole suite
	$(BIN)/python -m pytest

check: .venv/test.stamp  ## style, types, and the suite with branch coverage
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest -q
	$(BIN)/coverage combine -q
	$(BIN)/coverage report

languages: .venv/test.stamp  ## build the programs of docs/issuing for their tests; downloads their libraries
	$(BIN)/python -m tests.languages.build

languages-lock: .venv/test.stamp  ## lock the libraries of docs/issuing again, after a version in a manifest was changed
	$(BIN)/python -m tests.languages.lock

docs: docs/.venv/stamp .venv/test.stamp  ## the documentation as a site in docs/.site: broken links and outdated reference pages fail
	$(BIN)/python docs/reference.py --check
	docs/.venv/bin/zensical build --clean --strict

docs/.venv/stamp: docs/requirements.lock
	$(PYTHON) -m venv docs/.venv
	docs/$(PIP) install --require-hashes -r docs/requirements.lock
	@touch $@

bench: bench/.venv/stamp  ## compared with other implementations and lower bounds: make bench BENCH="--quick ES256 RS256"
	bench/.venv/bin/python -m bench $(BENCH)

inputs: bench/.venv/stamp  ## processor time of each kind of input, in valid sign-ins: make inputs INPUTS="header --alg RS256"
	bench/.venv/bin/python -m bench.inputs $(INPUTS)

profile: bench/.venv/stamp  ## where the time of one request goes: make profile PROFILE="--alg RS256"
	bench/.venv/bin/python -m bench.where $(PROFILE)

startup: bench/.venv/stamp  ## imports and the first response
	bench/.venv/bin/python -m bench.startup

soak: bench/.venv/stamp  ## an hour at half of capacity, compared part by part: make soak SOAK="--minutes 60"
	bench/.venv/bin/python -m bench.soak $(SOAK)

hosts: bench/.venv/stamp  ## three hosts behind HAProxy: failed sign-ins while hosts fail and keys rotate; needs root
	bench/.venv/bin/python -m bench.hosts

bench/.venv/stamp: requirements.lock bench/requirements.lock bench/peers/package-lock.json pyproject.toml
	$(PYTHON) -m venv bench/.venv
	bench/$(PIP) install --require-hashes -r requirements.lock -r bench/requirements.lock
	bench/$(PIP) install --no-deps --editable .
	cd bench/peers && npm ci --silent || echo "not installed: Fastify and Bun"
	@touch $@

FUZZ := tests/fuzz/.venv/bin/python
SECONDS := 2400
fuzz: tests/fuzz/.venv/stamp  ## coverage-guided fuzzing: a million streams of bytes for the connection, and the parsers: make fuzz SECONDS=60
	$(FUZZ) -m tests.fuzz.run $(SECONDS)

openapi: tests/fuzz/.venv/stamp  ## requests made from the OpenAPI document, against a live server
	$(FUZZ) -m tests.fuzz.openapi

mutants: .venv/test.stamp  ## mutation testing of a sample of every module, in a copy: make mutants MUTANTS="--per-module 8"
	$(BIN)/python -m tests.fuzz.mutants $(MUTANTS)

lock: .venv/python.stamp  ## update the hashed locks, for every platform, without the names of registries
	$(PIP) install uv
	$(BIN)/uv pip compile -q $(LOCK) --extra server pyproject.toml -o requirements.lock
	$(BIN)/uv pip compile -q $(LOCK) --extra server pyproject.toml --group dev -c requirements.lock -o requirements-dev.lock
	$(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")' | \
	  $(BIN)/uv pip compile -q $(LOCK) - -o requirements-build.lock
	$(BIN)/uv pip compile -q $(LOCK) tests/signers/requirements.in -c requirements.lock -o tests/signers/requirements.lock
	$(BIN)/uv pip compile -q $(LOCK) --extra server pyproject.toml tests/fuzz/requirements.in -c requirements.lock -c requirements-dev.lock -o tests/fuzz/requirements.lock
	$(BIN)/uv pip compile -q $(LOCK) --extra server pyproject.toml tests/servers/requirements.in -c requirements.lock -o tests/servers/requirements.lock
	$(BIN)/uv pip compile -q $(LOCK) bench/requirements.in -c requirements.lock -o bench/requirements.lock
	$(BIN)/uv pip compile -q $(LOCK) tests/languages/python/requirements.in -c requirements.lock -o tests/languages/python/requirements.lock
	$(BIN)/uv pip compile -q $(LOCK) --no-deps tests/languages/dotnet/requirements.in -o tests/languages/dotnet/requirements.lock
	$(BIN)/uv pip compile -q $(LOCK) tests/deploy/requirements.in -o tests/deploy/requirements.lock
	$(BIN)/uv pip compile -q $(LOCK) docs/requirements.in -o docs/requirements.lock
LOCK := --upgrade --universal --python-version 3.11 --generate-hashes --no-annotate --no-header --no-emit-index-url

dist: .venv/test.stamp tests/deploy/.venv  ## build the wheel and the sdist, check them for a package index, and run tests from the sdist
	rm -rf dist
	tests/deploy/.venv/bin/python -m build --outdir dist . >/dev/null
	tests/deploy/.venv/bin/twine check --strict dist/*
	cd dist && tar xf *.tar.gz
	cd dist/escs_verifier-*/ && ../../$(BIN)/python -m pytest -q $(SDIST_TESTS)
SDIST_TESTS := tests/core tests/system/test_architecture.py tests/system/test_deploy.py

sbom: tests/deploy/.venv  ## a software bill of materials (CycloneDX): sbom.json
	tests/deploy/.venv/bin/cyclonedx-py requirements --pyproject pyproject.toml --mc-type application \
	  --output-reproducible --of JSON -o sbom.json requirements.lock

tests/deploy/.venv: tests/deploy/requirements.lock
tests/signers/.venv: requirements.lock tests/signers/requirements.lock
tests/servers/.venv: tests/servers/requirements.lock
tests/deploy/.venv tests/servers/.venv tests/signers/.venv:
	$(PYTHON) -m venv $@
	$@/bin/python -m pip --disable-pip-version-check --quiet install --require-hashes $(addprefix -r ,$^)
	@touch $@

clean:
	rm -rf .venv dist tests/*/.venv tests/languages/.build docs/.venv docs/.site .cache bench/.venv bench/.build bench/peers/node_modules .mutants sbom.json .verifier-dev .verifier-example .coverage* .hypothesis .mypy_cache .pytest_cache .ruff_cache .import_linter_cache

.venv/python.stamp:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; name one: make PYTHON=python3.13"; exit 1; }
	@echo "Installing into .venv; this takes a minute."
	@$(PYTHON) -m venv .venv
	@touch $@

.venv/run.stamp: .venv/python.stamp requirements.lock pyproject.toml
	@$(PIP) install --require-hashes -r requirements.lock
	@$(PIP) install --no-deps --editable .
	@touch $@

.venv/test.stamp: .venv/run.stamp requirements-dev.lock
	@echo "Installing what tests and examples need; this takes a minute."
	@$(PIP) install --require-hashes -r requirements-dev.lock
	@touch $@

tests/fuzz/.venv/stamp: tests/fuzz/requirements.lock .venv/python.stamp
	$(BIN)/python -m venv tests/fuzz/.venv
	tests/fuzz/.venv/bin/python -m pip --disable-pip-version-check --quiet install --require-hashes -r tests/fuzz/requirements.lock
	@touch $@
