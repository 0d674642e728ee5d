# Everything a contributor runs.  Needs make and Python 3.10 or newer; all else goes into .venv and .cache in the
# checkout, and nothing outside it is touched.  More arguments: make test ARGS="-k dispatch -x".

PYTHON ?= python3
ARGS ?=
# Another major release of pytest than the pinned one: make clean test PYTEST=8
PYTEST ?=
UV_VERSION = 0.13.9

BIN = .venv/bin
WORKFLOWS = $(wildcard .github/workflows/*.yml examples/workflows/*.yml)
STAMP = .venv/.ready

export SUPERCHECK_CACHE = $(CURDIR)/.cache
export UV_CACHE_DIR = $(CURDIR)/.cache/uv
export PIP_CACHE_DIR = $(CURDIR)/.cache/pip
export RUFF_CACHE_DIR = $(CURDIR)/.cache/ruff
export MYPY_CACHE_DIR = $(CURDIR)/.cache/mypy
export PIP_DISABLE_PIP_VERSION_CHECK = 1

# What would point these commands at another environment, or the tests at a pool of yours.
unexport VIRTUAL_ENV PYTHONPATH PYTHONHOME PIP_USER PIP_REQUIRE_VIRTUALENV UV_SYSTEM_PYTHON UV_PYTHON PYTEST_ADDOPTS
unexport SUPERCHECK_URL SUPERCHECK_TOKEN

.PHONY: help demo test bench lint format requirements clean compiled

help:
	@echo "make demo          run the example shop's tests on embedded workers"
	@echo "make test          run the tests"
	@echo "make bench         measure against pytest-xdist and plain pytest"
	@echo "make lint          ruff, mypy, codespell, and what checks workflows"
	@echo "make format        let ruff rewrite what it can"
	@echo "make requirements  pin requirements-dev.txt anew"
	@echo "make clean         remove everything that was made"

demo: compiled
	@$(BIN)/python examples/shop/demo.py $(ARGS)

test: compiled
	$(BIN)/python -m pytest --timeout=900 $(ARGS)

bench: compiled
	$(BIN)/python -m benchmarks $(ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell
	$(BIN)/actionlint -shellcheck= -pyflakes= $(WORKFLOWS)
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows $(WORKFLOWS)
	$(BIN)/check-jsonschema --builtin-schema vendor.github-actions action.yml
	$(BIN)/zizmor --offline --quiet $(WORKFLOWS) action.yml

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

requirements: $(STAMP)
	$(BIN)/uv pip compile --quiet --universal --python-version 3.10 --no-header --no-annotate --upgrade \
		pyproject.toml --all-extras --group dev --output-file requirements-dev.txt

clean:
	rm -rf .venv .cache .supercheck .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
	rm -rf examples/shop/.supercheck examples/shop/.pytest_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Where PYTHONDONTWRITEBYTECODE is set our own modules would be compiled at every start, and nobody else's.
compiled: $(STAMP)
	@$(BIN)/python -m compileall -q pytest_supercheck server examples

$(STAMP): pyproject.toml requirements-dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
		|| { echo "Python 3.10 or newer is needed; name one: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
		|| { echo "Python's venv module is missing; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet uv==$(UV_VERSION)
	$(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode -r requirements-dev.txt -e .
	$(if $(PYTEST),$(BIN)/uv pip install --quiet --python $(BIN)/python "pytest==$(PYTEST).*")
	@touch $(STAMP)
