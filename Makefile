# Two commands: `make run` and `make test`. Everything else is for those who work on the project.
.DEFAULT_GOAL := help
.PHONY: help setup setup-dev run test test-all unit check format compile lock docs images e2e clean

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV_VERSION := 0.13.9
# uv reads settings of its own; what pip is told (an index, a folder of wheels) holds for it too.
UV := UV_FIND_LINKS="$(PIP_FIND_LINKS)" $(if $(PIP_INDEX_URL),UV_DEFAULT_INDEX="$(PIP_INDEX_URL)") \
	UV_LINK_MODE=copy $(BIN)/uv pip install --python $(BIN)/python --quiet

SOURCES := mistere components pipelines mistere_launcher.py tests docs/hooks

# Three workers, because tests on two cores wait for servers and processes a seventh of their time; tests/conftest.py gives each one
# thread. The tests start hundreds of processes,
# each of which would compile the whole project where the environment forbids to keep the bytecode.
PYTEST := env -u PYTHONDONTWRITEBYTECODE $(BIN)/pytest -n 3 --dist loadscope

help: ## what can be made
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: setup ## train, judge, release and serve a model on the sample dataset
	$(BIN)/mistere run --profile sample $(ARGS)

test: setup-dev ## all tests but the long ones (minutes)
	$(PYTEST) -m "not long" $(ARGS)

test-all: setup-dev ## all tests, including the long ones
	$(PYTEST) $(ARGS)

unit: setup-dev ## the quick tests, without models, servers and clusters
	$(PYTEST) -m "unit and not long" $(addprefix tests/,hostile unit) --ignore=tests/unit/model $(ARGS)

check: setup-dev ## lint, types, import rules, compiled pipeline, known vulnerabilities
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python -m pipelines.images --check
	$(BIN)/python -m pipelines.audit

format: setup-dev ## format the code
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)

compile: setup ## write images.lock.yaml and the compiled pipelines
	$(BIN)/python -m pipelines.images
	$(BIN)/mistere compile

lock: setup ## resolve the lock files from pyproject.toml
	UV_FIND_LINKS="$(PIP_FIND_LINKS)" $(BIN)/uv pip compile pyproject.toml --python-version 3.11 --upgrade \
		--no-header --no-annotate --quiet | sed 's/+cpu$$//' > requirements.lock
	for image in pipeline train predictor; do UV_FIND_LINKS="$(PIP_FIND_LINKS)" $(BIN)/uv pip compile \
		--group pyproject.toml:$$image --constraints requirements.lock --python-version 3.11 --no-header --no-annotate \
		--quiet | sed 's/+cpu$$//' > docker/$$image.lock; done
	$(BIN)/uv pip compile docker/tools.in --python-version 3.11 --no-header --no-annotate --quiet > docker/tools.lock

docs: setup-dev ## build the documentation into site/; a dead link fails
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "open site/index.html (its search needs a web server: python3 -m http.server -d site)"

images: setup ## build the container images (podman or Docker)
	PYTHON=$(BIN)/python docker/build.sh $(ARGS)

e2e: setup-dev ## the pipeline and the predictor in containers, against S3, MLflow and PostgreSQL (root)
	$(BIN)/python -m tests.e2e.run

clean: ## remove the environment and everything made by runs
	rm -rf $(VENV) output site

setup: $(VENV)/.ready ## make the environment
setup-dev: $(VENV)/.ready-dev

$(VENV)/bin/uv:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' \
		|| { echo "mistere needs Python 3.11 or 3.12 (found: $$($(PYTHON) --version 2>&1)); name one with PYTHON=..."; exit 2; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null \
		|| { echo "this Python lacks its venv module; on Debian: apt-get install python3-venv"; exit 2; }
	@echo "making the environment in $(VENV)/"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

$(VENV)/.ready: requirements.lock requirements-encoders.lock pyproject.toml | $(VENV)/bin/uv
	@echo "installing what requirements.lock pins (2.5 GB on disk, a few minutes)"
	@$(UV) --compile-bytecode -r requirements.lock
	@$(UV) --no-deps -r requirements-encoders.lock
	@$(UV) --no-deps --editable .
	@touch $@

$(VENV)/.ready-dev: $(VENV)/.ready requirements-dev.lock
	@$(UV) -r requirements-dev.lock
	@touch $@
