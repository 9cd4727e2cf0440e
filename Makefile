# One command each. `make help` lists them.
SHELL := /bin/bash
PYTHON ?= $(shell tools/find_python.sh)
VENV := .venv
BIN := $(VENV)/bin
# The host's pip installs into the environment, so that Debian's python3-venv is not needed.
PIP := $(PYTHON) -m pip --disable-pip-version-check --python $(BIN)/python
LOCKS := requirements/base.txt requirements/dev.txt requirements/embedded.txt

.DEFAULT_GOAL := help
.PHONY: help setup browser demo demo-stop test test-full check bench bench-quick bench-feed bench-students bench-conduct bench-learning bench-guarantee bench-templates conformance docs lock clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

setup: $(VENV)/.ready ## Make the environment in .venv and install everything, by hash

$(VENV)/.ready: $(LOCKS) pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed: apt-get install python3 python3-pip"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv --without-pip $(VENV)
	$(PIP) install --quiet --require-hashes --no-deps $(LOCKS:%=-r %)
	$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	touch $@

.PHONY: setup-torch
setup-torch: setup ## Install PyTorch's CPU build too, for training students of the upper levels (about 1 GB)
	$(PIP) install --quiet --require-hashes --no-deps -r requirements/torch.txt -r requirements/torch-cpu.txt

browser:
	@tools/browser.sh

demo: setup ## Two acts: a language model on this machine and its bill; GPT-4's calls become a model of one's own
	@$(BIN)/python examples/demo.py

demo-stop: setup ## Stop what the demo left running
	@$(BIN)/python examples/demo.py --only-stop

test: setup browser ## Run every test (under 10 minutes on 2 cores)
	$(BIN)/python -m pytest -n 3 --dist worksteal -m "not slow" $(ARGS)

test-full: setup browser ## The slower proofs too (after make setup-torch): long kill runs, conformance with OpenAI's own tests
	$(BIN)/python -m pytest -n 2 --dist worksteal $(ARGS)
	$(MAKE) conformance

check: setup ## Style, types, import contracts, generated docs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python tools/configuration_reference.py --check
	$(BIN)/python tools/generated_docs.py --check

bench: setup ## Measure the gateway beside nginx, the books beside a full scan; writes build/bench*.json
	$(BIN)/python -m benchmarks.gateway $(ARGS)
	$(BIN)/python -m benchmarks.books

bench-quick: setup ## The same in about two minutes
	$(BIN)/python -m benchmarks.gateway --quick $(ARGS)
	$(BIN)/python -m benchmarks.books --quick

bench-conduct: setup ## How often the conduct monitor errs, on ../shared/data; writes the tables of docs/conduct.md (half an hour)
	$(BIN)/python -m benchmarks.conduct --docs $(ARGS)

bench-feed: setup ## How well the feed ranks on real data, and how fast; writes build/bench-feed.json
	$(BIN)/python -m benchmarks.feed $(ARGS)

bench-students: setup ## How fast own models answer, beside scikit-learn, on ../shared/data; writes build/bench-students.json
	$(BIN)/python -m benchmarks.student_speed $(ARGS)

bench-learning: setup ## What students of recorded paid models can answer under a certificate, and how fast; writes build/bench-learning.json
	$(BIN)/python -m benchmarks.learning $(ARGS)

bench-templates: setup ## How fast a call is matched with a prompt template; writes build/bench-templates.json
	$(BIN)/python -m benchmarks.templates

bench-guarantee: setup ## Whether promises about students are kept, on ../shared/data; writes the tables of docs/guarantee.md (a quarter of an hour)
	$(BIN)/python -m benchmarks.guarantee --docs $(ARGS)

conformance: setup ## OpenAI's own client tests, directly and through the gateway; writes build/conformance.json
	$(BIN)/python conformance/run.py

docs: setup ## Write the parts of docs/ that are generated from the code
	$(BIN)/python tools/configuration_reference.py
	$(BIN)/python tools/generated_docs.py

lock: ## Write the locked requirements anew (needs uv)
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links \
		--custom-compile-command "make lock" pyproject.toml -o requirements/base.txt
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links \
		--custom-compile-command "make lock" -c requirements/base.txt requirements/dev.in -o requirements/dev.txt
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links \
		--custom-compile-command "make lock" --no-deps requirements/embedded.in -o requirements/embedded.txt
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links \
		--custom-compile-command "make lock" -c requirements/base.txt -c requirements/dev.txt --no-deps requirements/torch.in -o requirements/torch.txt
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links \
		--custom-compile-command "make lock" -c requirements/base.txt -c requirements/dev.txt requirements/ray.in -o requirements/ray.txt

clean: ## Remove what was made here, the environment included
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis upeti-data
