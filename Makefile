# Everything runs in .venv, which the first target that needs it makes.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
EXTRAS ?= all,dev
BIN := .venv/bin
INSTALLED := .venv/.installed
BASE := .venv/.base
URL ?= http://127.0.0.1:8000
OUT ?= runs/tiny
SUPPLY := artifacts/supply
# One more than there are cores, as tests wait for servers half of their time
WORKERS ?= $(shell cores=$$(getconf _NPROCESSORS_ONLN); echo $$(( cores < 4 ? cores + 1 : 4 )))

# Freed activations stay with the process: handed back to the system, each step faults them in again. About a fifth faster.
KEEP_MEMORY := MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=20000000000 MALLOC_TOP_PAD_=1000000000

# Of pip's many lines: name, version and size of each package it gets, and where they come from left out
PROGRESS := sed -unE \
	-e 's@^ *(Downloading|Using cached|Processing) (.*/)?([^/ -]+)-([^/ -]+)[^/ ]*\.(whl|tar\.gz|zip)( \([0-9.]+ .?B\))?( .*)?$$@  \3 \4\6@p' \
	-e 's@^Installing collected.*@  installing them@p'
WARNINGS := grep -v '^WARNING: Location'

# What the default model stands on. Without a network all else works, so that it cannot be had ends nothing
FETCH_BASE := $(BIN)/autocompressor fetch-base >/dev/null && touch $(BASE) || true

# What looks at the dependencies, in an environment of its own
SUPPLY_TOOLS := cyclonedx-bom==7.5.0 pip-audit==2.10.1 pip-licenses==5.5.5 uv==0.13.9
HASHED := requirements-server.txt
VLLM_ENVIRONMENT := artifacts/vllm
NAMES = sed -nE 's/^([a-z0-9._-]+)==.*/\1/p' $(HASHED)

.PHONY: help setup serve demo test test-vllm lint check train no-data bench judges chaos docs hashes audit sbom licences

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s%s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(INSTALLED) ## Make .venv, install into it, fetch the default model's base; the other targets do so themselves
	@$(FETCH_BASE)

$(INSTALLED): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "there is no $(PYTHON); Python 3.11 or later is needed" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "$(PYTHON) is $$($(PYTHON) --version); Python 3.11 or later is needed: make PYTHON=python3.12 setup" >&2; exit 1; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv --clear .venv
	@echo "installing into .venv: a few minutes, most of them for torch"
	@# modules are compiled when they are first imported: compiling all of torch's and its companions' takes as long again
	@$(BIN)/pip install --disable-pip-version-check --no-compile -c constraints.txt -e '.[$(EXTRAS)]' \
	  2> >($(WARNINGS) >&2) | $(PROGRESS)
	@touch $@

# Tried again until it came; whether it is still there `make setup` looks
$(BASE): $(INSTALLED)
	@$(FETCH_BASE)

serve: $(BASE) ## Serve with the default model; ARGS='--model paper', or ARGS=--help
	@exec $(BIN)/autocompressor serve $(ARGS)

demo: $(INSTALLED) ## Compress, generate and score a chapter with the running server at URL
	@$(BIN)/python examples/demo.py --url $(URL)

test: $(BASE) ## Run the tests; ARGS='tests/store -k redis'
	@OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

$(VLLM_ENVIRONMENT)/.installed: pyproject.toml tests/engine/vllm_environment.sh
	@echo "making $(VLLM_ENVIRONMENT): a few minutes, 3 GB"
	@tests/engine/vllm_environment.sh $(VLLM_ENVIRONMENT)
	@touch $@

test-vllm: $(VLLM_ENVIRONMENT)/.installed ## Run what every engine keeps to against vLLM too, in an environment of its own
	@OMP_NUM_THREADS=1 $(VLLM_ENVIRONMENT)/bin/python -m pytest tests/engine/test_engine_contract.py tests/engine/test_vllm.py $(ARGS)

lint: $(INSTALLED) ## Check format, lint and types
	@$(BIN)/ruff format --check
	@$(BIN)/ruff check
	@$(BIN)/mypy

check: lint test ## All that must pass: lint, then tests

docs: $(INSTALLED) ## Write docs/api.md and docs/openapi.json from the application
	@$(BIN)/python docs/api.py

train: $(if $(DATA),,no-data) $(INSTALLED) ## Train the tiny recipe on the documents in DATA, a folder, into OUT
	@$(KEEP_MEMORY) $(BIN)/python -m training --recipe tiny --data $(DATA) --out $(OUT) $(ARGS)

bench: $(INSTALLED) ## Measure the engine beside its peers; VLLM=PYTHON of an environment with vLLM, ARGS='compression --rounds 3'
	@$(BIN)/python -m benchmarks $(if $(VLLM),--vllm $(VLLM)) $(ARGS)

judges: $(INSTALLED) ## Have others' suites and clients judge a server; ONLY='openai langchain', ARGS='--model default'
	@OMP_NUM_THREADS=1 $(BIN)/python -m tests.judges $(ONLY) $(ARGS)

chaos: $(INSTALLED) ## Do faults to a server under load; ONLY='kill-9-file redis-full', ARGS='--rounds 3', ARGS=--help
	@OMP_NUM_THREADS=1 $(BIN)/python -m tests.chaos $(ONLY) $(ARGS)

$(SUPPLY)/.installed: Makefile
	@$(PYTHON) -m venv --clear $(SUPPLY)
	@$(SUPPLY)/bin/pip install --quiet --disable-pip-version-check $(SUPPLY_TOOLS) 2> >($(WARNINGS) >&2)
	@touch $@

hashes: $(SUPPLY)/.installed ## Write what the image installs, each file by its hash, from pyproject.toml and constraints.txt
	@$(SUPPLY)/bin/uv pip compile --quiet --universal --python-version 3.11 --extra server -c constraints.txt \
	  --generate-hashes --no-annotate --custom-compile-command "make hashes" pyproject.toml -o $(HASHED)

audit: $(SUPPLY)/.installed ## Look for known vulnerabilities of what the image installs; asks PyPI, ARGS='-s osv' OSV
	@$(SUPPLY)/bin/pip-audit --strict --disable-pip --no-deps --progress-spinner off -r $(HASHED) $(ARGS)

sbom: $(SUPPLY)/.installed ## Write artifacts/sbom.json, a CycloneDX bill of what the image installs
	@$(SUPPLY)/bin/cyclonedx-py requirements $(HASHED) --pyproject pyproject.toml --mc-type application \
	  --output-reproducible -o artifacts/sbom.json

licences: $(INSTALLED) $(SUPPLY)/.installed ## Write the table of docs/licences.md, from what is installed in .venv
	@sed -i '/^| Name/,$$d' docs/licences.md
	@$(SUPPLY)/bin/pip-licenses --python $(BIN)/python --with-system --format markdown --packages $$($(NAMES)) \
	  | sed -E 's/ +\|/ |/g; s/-{4,}/---/g' >> docs/licences.md

no-data:
	@echo "make train needs documents: DATA=FOLDER, with .jsonl, .jsonl.gz or .jsonl.zst files" >&2; exit 2
