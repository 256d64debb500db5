# Everything a new machine needs: Python 3.11, make, gcc. `make demo` runs the main job, `make test` passes the tests.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LOCK ?= cpu
READY := $(VENV)/.ready-$(LOCK)
# Test files at a time: each may start engines, and take 3 GB and a core or two.
JOBS ?= 2
# Where pip may look for torch's CPU build when its own configuration names no place that has one.
TORCH_INDEX ?=
# No tool started from here talks to anyone.
export DO_NOT_TRACK := 1
export HF_HUB_OFFLINE := 1
export HF_HUB_DISABLE_TELEMETRY := 1
export VLLM_NO_USAGE_STATS := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help setup demo test fast lint types bench docs lock clean

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1	/p' Makefile | expand -t 10

setup: $(READY) ## make .venv from the lock (LOCK=cpu or LOCK=gpu)

$(READY): locks/$(LOCK).txt locks/torch-cpu.txt locks/duckdb-1.5.txt locks/inspect-examples.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
	  echo "Python 3.11 or later is needed; $(PYTHON) is $$($(PYTHON) -V). Name another: make PYTHON=/path/to/python3.11"; exit 2; }
	test -x $(BIN)/python || { echo "==> making $(VENV) with $$($(PYTHON) -V)"; $(PYTHON) -m venv $(VENV); }
	if [ "$(LOCK)" = cpu ]; then
	  echo "==> torch, CPU build (200 MB)"
	  $(BIN)/pip install -qq --no-deps $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) -r locks/torch-cpu.txt || {
	    echo "pip found no CPU build of torch. Either put the wheel where pip's find-links points,"
	    echo "or name PyTorch's CPU wheel index: make TORCH_INDEX=<address> $(MAKECMDGOALS)"; exit 2; }
	fi
	echo "==> $$(grep -c '^[a-z].*==' locks/$(LOCK).txt) locked packages, each checked by hash (about 3 minutes)"
	$(BIN)/pip install -qq --no-deps --require-hashes -r locks/$(LOCK).txt
	echo "==> duckdb 1.5, beside the environment: the tests read our storage with it"
	$(BIN)/pip install -qq --no-deps --require-hashes --upgrade --target $(VENV)/duckdb-1.5 -r locks/duckdb-1.5.txt
	echo "==> inspect-ai's examples (36 MB), which the tests run as they stand"
	rm -rf $(VENV)/peers && mkdir $(VENV)/peers
	$(BIN)/pip download -qq --no-deps --no-binary inspect-ai --require-hashes -r locks/inspect-examples.txt -d $(VENV)/peers
	tar -xzf $(VENV)/peers/inspect_ai-*.tar.gz -C $(VENV)/peers --wildcards '*/examples/*'
	rm $(VENV)/peers/inspect_ai-*.tar.gz
	echo "==> hallmark itself"
	$(BIN)/pip install -qq --no-deps --no-build-isolation --no-index -e .
	touch $@

demo: $(READY) ## train, refuse, certify, promote, serve: the main job on this machine's own Python library
	@$(BIN)/python -P examples/quickstart/run.py --workspace .demo

test: $(READY) ## all tests, JOBS=2 files at a time
	@$(BIN)/python -m pytest -q -n $(JOBS)

fast: $(READY) ## the tests that take seconds
	@$(BIN)/python -m pytest -q -n $(JOBS) -m "not slow and not vllm"

lint: $(READY) ## ruff, import contracts, dependencies
	@$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/deptry .

types: $(READY) ## mypy --strict
	@$(BIN)/mypy

bench: $(READY) ## every benchmark beside its reference; results under benchmarks/results
	@for file in $(filter-out benchmarks/measure.py,$(wildcard benchmarks/*.py)); do echo "==> $$file"; $(BIN)/python $$file; done

docs: $(READY) ## JSON Schemas and the command reference, written from the code
	@$(BIN)/python -P -m governance.reference docs

lock: ## write locks/*.txt anew from pyproject.toml's floors (needs uv)
	@bash locks/compile.sh

clean: ## remove the environment and the demo's workspace
	@rm -rf $(VENV) .demo
