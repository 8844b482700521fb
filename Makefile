# Everything a newcomer needs: `make quickstart` and `make test`. Both make the environment first.
PYTHON ?= python3
VENV ?= .venv
# cpu or gpu: which vLLM to install.
DEVICE ?= $(if $(shell command -v nvidia-smi),gpu,cpu)
OUT ?= quickstart

BIN := $(VENV)/bin
READY := $(VENV)/ready-$(DEVICE)

.PHONY: install quickstart test test-slow check coverage reference bench lock sbom vulnerabilities clean

install: $(READY)

$(READY): constraints/$(DEVICE).txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	constraints/install.sh $(BIN)/python $(DEVICE)
	touch $@

quickstart: $(READY)
	$(BIN)/visage run --model "$$($(BIN)/visage demo-model)" --seed 0 --points 13 --range 0.3 --max-tokens 32 \
		--max-model-len 512 --dtype float32 --out $(OUT)

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Tests run in this many processes, each with its share of the cores; with 0 they run in pytest itself.
PROCESSES ?= 2
# Each process runs whole files, in the order of `testpaths`, so that the tests of a file share their fixtures.
PYTEST := $(BIN)/python -m pytest -n $(PROCESSES) --dist loadfile --no-loadscope-reorder

test: $(READY)
	$(PYTEST) $(TESTS)

# The tests that take minutes by their nature.
test-slow: $(READY)
	$(PYTEST) tests/slow

# How much of the code the tests run. What runs in processes of Ray's and vLLM's is not counted.
coverage: $(READY)
	$(PYTEST) --cov --cov-report=term:skip-covered $(TESTS)

# Write docs/reference from the code again.
reference: $(READY)
	$(BIN)/python docs/reference/generate.py

bench: $(READY)
	$(BIN)/visage bench engine

# Resolve the pinned sets again (needs uv). A machine with its own sources of packages sets LOCK_SOURCES.
LOCK_SOURCES ?= --torch-backend cpu
LOCK := uv pip compile pyproject.toml --universal --python-version 3.11 --extra dev --extra datasets --extra lm-eval --extra mlflow --extra postgresql --extra search \
	--no-header --no-annotate --no-emit-find-links
lock:
	$(LOCK) --extra cpu --override constraints/cpu-overrides.txt $(LOCK_SOURCES) -o constraints/cpu.txt
	$(LOCK) --extra gpu -o constraints/gpu.txt

# Of the supply chain: what is installed, as CycloneDX, and what is known of its weaknesses. The tools have an
# environment of their own, for they need other versions of some packages.
TOOLS := $(VENV)/tools/bin
$(TOOLS):
	$(PYTHON) -m venv $(@D)
	$@/pip install --quiet --disable-pip-version-check cyclonedx-bom==7.5.0 pip-audit==2.10.1
sbom: $(READY) $(TOOLS)
	$(TOOLS)/cyclonedx-py environment $(BIN)/python --pyproject pyproject.toml --output-file sbom.json
vulnerabilities: $(TOOLS)
	$(TOOLS)/pip-audit --disable-pip --no-deps --requirement constraints/$(DEVICE).txt

clean:
	rm -rf $(VENV) $(OUT) sbom.json
