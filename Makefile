# The only entry points a newcomer needs. `make` alone lists them.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# Build results lie outside the checkout, so that a clone stays small and clones share them.
export CARGO_TARGET_DIR ?= $(HOME)/.cache/rbee-target
# What the tests need besides: a Python environment and two real models.
TEST_CACHE ?= $(HOME)/.cache/rbee-tests

PYTHON ?= python3
PROGRAMS := queen-rbee rbee-hive worker-rbee rbee-keeper
PACKAGES := $(PROGRAMS:%=--package %)
DEBUG := $(CARGO_TARGET_DIR)/debug
RELEASE := $(CARGO_TARGET_DIR)/release

REQUIREMENTS := compat-tests/python/requirements.txt
# A changed list of requirements makes a new environment beside the old one.
VENV := $(TEST_CACHE)/venv-$(shell sha256sum $(REQUIREMENTS) | cut -c 1-12)
NODE_PACKAGES := compat-tests/node/package-lock.json
NODE_CACHE := $(TEST_CACHE)/node-$(shell sha256sum $(NODE_PACKAGES) | cut -c 1-12)
MODELS := $(TEST_CACHE)/models
MINILM := $(MODELS)/all-minilm-l6-v2/model.safetensors
MODEL_FILES := $(MODELS)/smollm2-135m-instruct.gguf $(MODELS)/gemma-3-270m.gguf $(MINILM)

# What the tests read from their environment.
TEST_ENVIRONMENT = RBEE_TEST_MODELS=$(MODELS) RBEE_BIN_DIR=$(DEBUG)

.PHONY: help run test test-rust test-python test-node check fmt-check clippy openapi openapi-check bench fuzz fuzz-api programs models

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | while IFS=$$'\t' read -r name text; do printf '  make %-14s %s\n' "$$name" "$$text"; done

# A GPU backend is compiled in by name: make run FEATURES=cuda ARGS="--backend cuda"
FEATURE_FLAGS = $(if $(FEATURES),--features worker-rbee/$(FEATURES))

run: ## Build in release and start everything in the foreground; ARGS="--port 0" passes flags on
	cargo build --release $(PACKAGES) $(FEATURE_FLAGS)
	@exec $(RELEASE)/rbee-keeper up $(ARGS)

test: test-rust test-python test-node ## Run all tests; fetches what they need first

test-rust: programs $(MODEL_FILES) ## Run the Rust tests, among them those with async-openai, beside a PostgreSQL server of their own
	$(TEST_ENVIRONMENT) compat-tests/postgres.sh cargo test --workspace

test-python: programs $(MODEL_FILES) $(VENV)/.complete ## Run the official Python SDKs against the real programs
	cd compat-tests/python && $(TEST_ENVIRONMENT) $(VENV)/bin/python -m pytest $(ARGS)

test-node: programs $(MODEL_FILES) $(NODE_CACHE)/.complete ## Run the official Node.js SDKs against the real programs
	ln -sfn $(NODE_CACHE)/node_modules compat-tests/node/node_modules
	cd compat-tests/node && $(TEST_ENVIRONMENT) node run.js $(ARGS)

check: fmt-check clippy openapi-check ## Check format, lints and the checked-in OpenAPI documents

fmt-check:
	cargo fmt --all --check

clippy:
	cargo clippy --workspace --all-targets -- -D warnings

openapi: programs ## Write the OpenAPI documents anew
	@mkdir -p openapi
	$(DEBUG)/queen-rbee openapi > openapi/gateway.json
	$(DEBUG)/rbee-hive openapi > openapi/hive-agent.json
	$(DEBUG)/worker-rbee openapi > openapi/worker.json

openapi-check: programs
	@fail() { echo "$$1 differs from what the program says: run \`make openapi\` and commit the result" >&2; exit 1; }; \
	diff <($(DEBUG)/queen-rbee openapi) openapi/gateway.json || fail openapi/gateway.json; \
	diff <($(DEBUG)/rbee-hive openapi) openapi/hive-agent.json || fail openapi/hive-agent.json; \
	diff <($(DEBUG)/worker-rbee openapi) openapi/worker.json || fail openapi/worker.json

# What is measured: the gateway, the queue, a script in bench/ with a list of requirements of its own, or all of them. The engine's is measured
# beside llama.cpp, which is built here for this very machine: where -march=native promises what the machine then refuses
# (AMX on some virtual ones), name the instructions instead, as in LLAMA_CMAKE_ARGS="-DGGML_NATIVE=OFF -DGGML_AVX2=ON".
TARGET ?= spine
BENCHES := $(patsubst bench/requirements-%.txt,%,$(wildcard bench/requirements-*.txt)) gateway queue
LLAMA_CMAKE_ARGS ?= -DGGML_NATIVE=ON
bench_venv = $(TEST_CACHE)/venv-$(1)-$(shell (cat bench/requirements-$(1).txt; echo "$(LLAMA_CMAKE_ARGS)") | sha256sum | cut -c 1-12)

bench: $(addprefix bench-,$(if $(filter all,$(TARGET)),$(BENCHES),$(TARGET))) ## Measure a release build; TARGET=engine, gateway, another script or all

bench-%: bench/requirements-%.txt $(MODEL_FILES)
	@$(MAKE) --no-print-directory $(call bench_venv,$*)/.complete REQUIREMENTS=$< VENV=$(call bench_venv,$*)
	cargo build --release $(PACKAGES)
	RBEE_TEST_MODELS=$(MODELS) RBEE_BIN_DIR=$(RELEASE) $(call bench_venv,$*)/bin/python bench/$*.py $(ARGS)

# A mock worker answers, so that no model is needed; nginx, which the queen is compared with, is the system's.
bench-gateway:
	cargo build --release --package queen-rbee --package rbee-bench-load
	RBEE_BIN_DIR=$(RELEASE) $(PYTHON) bench/gateway.py $(ARGS)

# A fleet that is made up, and both databases; PostgreSQL is the system's, and syncs as it does in earnest.
bench-queue:
	cargo build --release --package queen-rbee --examples
	RBEE_BIN_DIR=$(RELEASE) POSTGRES_OPTIONS="-c fsync=on" compat-tests/postgres.sh $(PYTHON) bench/queue.py $(ARGS)

# Arithmetic is checked here, which costs speed elsewhere.
CHECKED := --config profile.dev.package.worker-rbee.overflow-checks=true --config profile.dev.package.worker-rbee.debug-assertions=true
SECONDS ?= 60

fuzz: $(MODEL_FILES) ## Throw hostile model files at their readers; SECONDS=600 is the time for each reader
	RBEE_TEST_MODELS=$(MODELS) RBEE_FUZZ_SECONDS=$(SECONDS) \
		cargo test $(CHECKED) --package worker-rbee --test fuzz -- --nocapture --test-threads 1

fuzz-api: ## Throw requests of all kinds at a running server; SECONDS=600 is the time for it
	RBEE_FUZZ_API_SECONDS=$(SECONDS) $(MAKE) --no-print-directory test-python ARGS="test_openapi.py"

programs: ## Build all programs in the dev profile
	cargo build --workspace --exclude rbee-bench-load --bins

models: $(MODEL_FILES) ## Fetch the models that the tests use

$(VENV)/.complete: $(REQUIREMENTS)
	$(PYTHON) -m venv $(VENV)
	CMAKE_ARGS="$(LLAMA_CMAKE_ARGS)" $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-cache-dir \
		--no-binary llama-cpp-python --requirement $(REQUIREMENTS)
	touch $@

$(NODE_CACHE)/.complete: $(NODE_PACKAGES)
	mkdir -p $(@D)
	cp $(addprefix compat-tests/node/,package.json package-lock.json .npmrc) $(@D)
	npm ci --prefix $(@D)
	touch $@

# The hive fetches and verifies them, as it does for a user; the links give the tests one folder with plain names.
$(MODELS)/%.gguf: | programs
	$(DEBUG)/rbee-hive model download --ref $* --data-dir $(TEST_CACHE)/data
	mkdir -p $(MODELS)
	grep ' $*.gguf$$' compat-tests/models.sha256 | (cd $(TEST_CACHE)/data/models/$* && sha256sum --check --quiet)
	ln -f $(TEST_CACHE)/data/models/$*/$*.gguf $@

# An encoder is a folder; the hive has verified each of its files.
$(MINILM): | programs
	$(DEBUG)/rbee-hive model download --ref all-minilm-l6-v2 --data-dir $(TEST_CACHE)/data
	mkdir -p $(MODELS)
	rm -rf $(@D)
	cp -al $(TEST_CACHE)/data/models/all-minilm-l6-v2 $(@D)
