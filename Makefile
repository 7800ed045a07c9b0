# Every target creates the environment first (.venv) if it is not there. `make` alone lists them.
PYTHON ?= $(shell for p in python3.12 python3.11 python3.13 python3; do command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null && { echo $$p; break; }; done)
PYTHON := $(or $(PYTHON),python3)
RUN := .venv/bin/python
UV := .venv/bin/uv
COMPILE := $(UV) pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-header
export PYTHONUNBUFFERED := 1
export PYTHONPATH := $(CURDIR)

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-unit test-cluster test-broker check kafka samples golden bench-streaming lock clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | awk -F'\t' '{printf "  make %-16s %s\n", $$1, $$2}'

setup:  ## create .venv from the pinned requirements (needs only Python 3.11-3.13)
	@$(PYTHON) bootstrap.py

demo: setup  ## a real Kafka, a trained mixture, Ray Serve, scored Parquet: the whole path on this machine
	@$(RUN) -m ray_jobs.demo

test: setup check test-unit test-broker test-cluster  ## everything: checks, unit, Kafka and Ray tests

test-unit: setup  ## the unit tests (no Ray, no network)
	@$(RUN) -m pytest tests/unit

test-cluster: setup  ## the tests on a real Ray
	@$(RUN) -m pytest tests/cluster

test-broker: setup  ## the tests on a real Kafka
	@$(RUN) -m pytest tests/broker

check: setup  ## ruff, mypy (strict), import-linter, codespell
	@$(RUN) -m ruff check .
	@$(RUN) -m ruff format --check .
	@$(RUN) -m mypy
	@.venv/bin/lint-imports --no-cache
	@.venv/bin/codespell

kafka: setup  ## start one real Kafka broker and print its address (Ctrl-C stops it)
	@exec $(RUN) -m streaming.local_broker

samples: setup  ## write examples/train.csv and posts.jsonl again from the frames
	@$(RUN) examples/make_samples.py

golden: setup  ## rewrite the golden files (say why in the commit)
	@$(RUN) -m pytest tests/unit -k golden --update-golden

bench-streaming: setup  ## rows/s from Kafka to Parquet with a null scorer (one JSON object)
	@$(RUN) -m benchmarks.bench_ingest

lock: setup  ## pin the dependencies again, with hashes
	$(COMPILE) pyproject.toml --all-extras -o requirements/all.txt
	$(COMPILE) pyproject.toml --extra train --extra serve --extra stream -c requirements/all.txt -o requirements/cluster.txt
	$(COMPILE) pyproject.toml --extra stream -c requirements/all.txt -o requirements/consumer.txt

clean:  ## remove the environment and everything the demo made
	rm -rf .venv out
