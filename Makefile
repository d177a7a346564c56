.DEFAULT_GOAL := help
SHELL := /bin/bash
VENV ?= .venv
UV_VERSION := 0.13.9
BIN := $(VENV)/bin
TEST_WEIGHTS := u2net u2netp efficientnet_lite0 minilm minilm-tokenizer
RUN_PYTHON := NO_ALBUMENTATIONS_UPDATE=1 $(BIN)/python

.PHONY: help build-shards review train-filters train-demo train-study evaluate test test-fast test-faults bench fuzz audit docs docs-serve lint format coverage \
	setup setup-dev lock clean

help: ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  \033[1m%-14s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build-shards: $(VENV)/.runtime ## build shards; CONFIG= METADATA= OUT= ARGS= (none: the sample photographs, on this machine)
	@$(RUN_PYTHON) -m pipelines.build_shards $(if $(CONFIG),--config $(CONFIG)) $(if $(METADATA),--metadata '$(METADATA)') \
		$(if $(OUT),--out '$(OUT)') $(ARGS)

test: $(VENV)/.dev ## run all tests
	@$(BIN)/l2i weights pull $(TEST_WEIGHTS) >/dev/null || echo "tests that need these weights will be skipped" >&2
	@$(RUN_PYTHON) -m pytest $(ARGS)

test-fast: $(VENV)/.dev ## run the tests that take seconds
	@$(RUN_PYTHON) -m pytest -m "not slow" $(ARGS)

test-faults: $(VENV)/.dev ## disturb runs on a two-node Ray cluster and compare bytes; ROUNDS= SEED=
	@$(RUN_PYTHON) tests/faults/matrix.py --rounds $(or $(ROUNDS),50) --seed $(or $(SEED),0)

bench: $(VENV)/.dev ## measure speed against limits and peers, one after another (leave the machine alone); ARGS='--only NAME'
	@[ -e runs/sample/index.json ] || $(MAKE) build-shards
	@$(RUN_PYTHON) -m benchmarks --out $(or $(OUT),runs/bench) $(ARGS)

audit: $(VENV)/.dev ## look the locked packages up among known vulnerabilities (needs pypi.org)
	@if $(BIN)/python -c "import urllib.request as u; u.urlopen('https://pypi.org/pypi/pip/25.0/json', timeout=20)" 2>/dev/null; \
	then $(BIN)/uv tool run pip-audit --strict --disable-pip --require-hashes -r requirements/lock.txt; \
	else echo "audit skipped: pypi.org's list of vulnerabilities does not answer from here" >&2; fi

fuzz: $(VENV)/.dev ## fuzz what strangers' bytes reach; TARGET= SECONDS= (targets: tests/fuzz/targets.py)
	@$(RUN_PYTHON) tests/fuzz/fuzz.py $(or $(TARGET),http_answer) -max_total_time=$(or $(SECONDS),60)

docs: $(VENV)/.dev ## build the documentation site into site/ (open site/index.html; needs no network)
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

docs-serve: $(VENV)/.dev ## serve the documentation site while writing it
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve

coverage: $(VENV)/.dev ## run all tests and print the coverage of each file
	@$(RUN_PYTHON) -m pytest --cov --cov-report=term-missing:skip-covered $(ARGS)

lint: $(VENV)/.dev ## check style (ruff) and types (mypy)
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

format: $(VENV)/.dev ## format the code
	@$(BIN)/ruff check --fix-only -q . && $(BIN)/ruff format .

train-filters: $(VENV)/.runtime ## make labels and train the judges' heads; ARGS='--labels OUT --tag v3'
	@$(RUN_PYTHON) -m l2i_builder.cli train-filters $(ARGS)

train-demo: $(VENV)/.runtime ## train toy models on toy scenes on this machine's CPU, with curves and pictures; OUT=
	@$(RUN_PYTHON) -m model.demo --out $(or $(OUT),runs/demo) $(ARGS)

train-study: $(VENV)/.runtime ## compare models and filtered with unfiltered masks on toy scenes, three seeds; OUT= ARGS=
	@$(RUN_PYTHON) -m model.study --out $(or $(OUT),runs/study) $(ARGS)

review: $(VENV)/.runtime ## judge samples of a run in the browser; OUT=
	@$(BIN)/l2i review $(or $(OUT),runs/sample) $(ARGS)

evaluate: $(VENV)/.runtime ## measure a model as the paper's tables do; MODEL= REFERENCE= OUT= ARGS=
	@$(BIN)/l2i evaluate --model "model=$(MODEL)" --reference "LL2I-E=$(REFERENCE)" \
		--out '$(or $(OUT),runs/evaluation)' $(ARGS)

setup: $(VENV)/.runtime ## install what a run needs into .venv (Python 3.11 or 3.12)

setup-dev: $(VENV)/.dev ## install what tests and checks need as well

lock: $(VENV)/.dev ## choose the newest versions that fit and write requirements/
	@$(BIN)/uv pip compile -q pyproject.toml --universal --python-version 3.11 --generate-hashes --no-header \
		--upgrade -o requirements/lock.txt
	@$(BIN)/uv pip compile -q pyproject.toml --extra dev -c requirements/lock.txt --universal --python-version 3.11 \
		--generate-hashes --no-header --upgrade -o requirements/dev.txt
	@$(BIN)/uv pip compile -q pyproject.toml --extra cluster -c requirements/lock.txt --universal --python-version 3.11 \
		--generate-hashes --no-header --upgrade -o requirements/cluster.txt

clean: ## remove .venv and caches (runs/ and downloaded weights stay)
	@rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache *.egg-info

$(BIN)/uv:
	@python=$$(for p in $(PYTHON) python3 python3.12 python3.11; do \
		"$$p" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' 2>/dev/null && echo "$$p" && break; done); \
	if [ -z "$$python" ]; then echo "Python 3.11 or 3.12 is needed; point PYTHON= at one." >&2; exit 1; fi; \
	echo "setting up $(VENV) with $$("$$python" --version)"; \
	"$$python" -m venv $(VENV) && $(BIN)/python -m pip install -q --disable-pip-version-check uv==$(UV_VERSION)

$(VENV)/.runtime: requirements/lock.txt pyproject.toml | $(BIN)/uv
	@echo "installing the locked packages (several GB the first time)"
	@[ -e $(VENV)/.dev ] || $(BIN)/uv pip sync -q --compile-bytecode --python $(BIN)/python requirements/lock.txt
	@$(BIN)/uv pip install -q --python $(BIN)/python --no-deps -e .
	@touch $@

$(VENV)/.dev: requirements/dev.txt pyproject.toml | $(BIN)/uv
	@echo "installing the locked packages and what tests need"
	@$(BIN)/uv pip sync -q --compile-bytecode --python $(BIN)/python requirements/dev.txt
	@$(BIN)/uv pip install -q --python $(BIN)/python --no-deps -e .
	@touch $@ $(VENV)/.runtime
