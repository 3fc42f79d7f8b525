# make demo: see it learn; make test: check it; both install what they need into .venv first. make test-oldest: check it
# with the oldest versions, which come with 6 GB of CUDA libraries where there is no build for CPUs.

PYTHON ?= python3
BIN := .venv/bin

# PyPI's PyTorch for Linux brings gigabytes of CUDA libraries. A machine without an NVIDIA GPU takes the build for CPUs,
# where the index that has it can be reached.
CPU_INDEX ?= https://download.pytorch.org/whl/cpu
WANTS_CPU_BUILD = [ "$$(uname -s)" = Linux ] && [ ! -e /dev/nvidia0 ] && [ ! -e /dev/dxg ] && ! command -v nvidia-smi >/dev/null && \
	$(@D)/bin/python -c 'import urllib.request as web; web.urlopen("$(CPU_INDEX)/torch/", timeout=5)' 2>/dev/null

.PHONY: demo test test-oldest test-long lint format clean

demo: .venv/installed
	$(BIN)/python -m tools.demo

test: .venv/installed-tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal

test-oldest: .venv-oldest/installed-tests
	OMP_NUM_THREADS=1 .venv-oldest/bin/python -m pytest -n auto

test-long: .venv/installed-tests
	FUZZ_CASES=10000 $(BIN)/python -m pytest tests/test_fuzz*.py
	$(BIN)/python -m pytest -m long

lint: .venv/installed-tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

format: .venv/installed-tests
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv .venv-oldest data/demo .pytest_cache .ruff_cache .hypothesis

.venv/bin/python .venv-oldest/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(@:/bin/python=) || { rm -rf $(@:/bin/python=); exit 1; }

.venv/installed: .venv/bin/python requirements.txt constraints.txt
	if $(WANTS_CPU_BUILD); then \
		$(BIN)/python -m pip install --quiet --no-deps --index-url $(CPU_INDEX) "$$(grep ^torch== constraints.txt)" || true; \
	fi
	$(BIN)/python -m pip install --quiet -r requirements.txt -c constraints.txt
	touch $@

.venv/installed-tests: .venv/installed tests/requirements.txt tests/constraints.txt
	$(BIN)/python -m pip install --quiet -r tests/requirements.txt -c constraints.txt
	touch $@

.venv-oldest/installed-tests: .venv-oldest/bin/python requirements.txt tests/requirements.txt tests/constraints-oldest.txt
	if $(WANTS_CPU_BUILD); then \
		$(@D)/bin/python -m pip install --quiet --no-deps --index-url $(CPU_INDEX) "$$(grep ^torch== tests/constraints-oldest.txt)" || true; \
	fi
	.venv-oldest/bin/python -m pip install --quiet -r tests/requirements.txt -c tests/constraints-oldest.txt
	touch $@
