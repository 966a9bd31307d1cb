# `make test` and `make demo` do everything on a fresh machine: they make .venv, install into it
# and run. A second call installs again only when pyproject.toml has changed.
#
#   make PYTHON=python3.12 test       another interpreter (3.11, 3.12 or 3.13)
#   make PYTEST_ARGS="-x -k noise" test
#   make PYTHON=python3.13 test-newest
#   make TORCH=torch test-torch       another PyTorch than the one below

PYTHON ?= python3
VENV ?= .venv
PYTEST_ARGS ?= -n 2
TORCH ?= torch==2.13.0
DEMO_ARGS ?=
ZOO ?= 300
ZOO_REPORT ?= docs/zoo.md

BIN := $(VENV)/bin
DATASET := dataset-fashion-mnist
DATASET_FOLDER := /usr/share/datasets/fashion-mnist
APT_GET := env DEBIAN_FRONTEND=noninteractive apt-get -qq -y -o Acquire::http::Timeout=20

export KERAS_BACKEND := jax
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help lint test test-oldest test-newest test-contract test-torch test-tensorflow
.PHONY: venv-torch venv-tensorflow test-sources test-zoo demo data format clean
.DELETE_ON_ERROR:

help:
	@echo "make test    install, lint, type-check and test (coverage of at least 95 %); on PyTorch and"
	@echo "             TensorFlow the contract suite, in a virtual environment each"
	@echo "make lint    install, lint and type-check"
	@echo "make test-torch, make test-tensorflow"
	@echo "             every test that applies on that backend"
	@echo "make test-oldest, make test-newest"
	@echo "             the same with the oldest or the newest JAX, in a virtual environment each"
	@echo "make test-sources"
	@echo "             data of PyTorch, TensorFlow and KerasHub, which it installs"
	@echo "make test-zoo"
	@echo "             $(ZOO) random Keras models and the backbones of KerasCV and KerasHub; slow"
	@echo "make demo    install and train a private Fashion-MNIST classifier"
	@echo "make format  install and let ruff format and fix the code"
	@echo "make clean   remove .venv and all that was built"

# The environments of the other backends are installed beside the linters, which use one core each.
test: $(VENV)/.made
	@$(MAKE) --no-print-directory -j 3 lint venv-torch venv-tensorflow
	$(BIN)/python -m pytest --cov --cov-report=term-missing:skip-covered $(PYTEST_ARGS)
	@$(MAKE) test-contract

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Keras' other backends, in a virtual environment each.
# The last line moves a model's file from one to the next.
test-contract: $(VENV)/.installed-test
	@$(MAKE) --no-print-directory -j 2 venv-torch venv-tensorflow
	KERAS_BACKEND=torch $(VENV)-torch/bin/python -m pytest $(PYTEST_ARGS) tests/contract
	KERAS_BACKEND=tensorflow $(VENV)-tensorflow/bin/python -m pytest $(PYTEST_ARGS) tests/contract
	KERAS_DP_TORCH_PYTHON=$(VENV)-torch/bin/python \
	KERAS_DP_TENSORFLOW_PYTHON=$(VENV)-tensorflow/bin/python \
	$(BIN)/python -m pytest tests/contract/test_moving.py

test-torch: venv-torch
	KERAS_BACKEND=torch $(VENV)-torch/bin/python -m pytest $(PYTEST_ARGS)

test-tensorflow: venv-tensorflow
	KERAS_BACKEND=tensorflow $(VENV)-tensorflow/bin/python -m pytest $(PYTEST_ARGS)

venv-torch:
	@$(MAKE) --no-print-directory VENV=$(VENV)-torch $(VENV)-torch/.made
	@$(VENV)-torch/bin/python -m pip install --quiet "$(TORCH)"
	@$(MAKE) --no-print-directory VENV=$(VENV)-torch "$(VENV)-torch/.installed-torch,contract"

venv-tensorflow:
	@$(MAKE) --no-print-directory VENV=$(VENV)-tensorflow \
	"$(VENV)-tensorflow/.installed-tensorflow,contract"

# Both ends of the JAX releases that pyproject.toml allows; the newest needs Python 3.12 or 3.13.
test-oldest:
	@$(MAKE) VENV=$(VENV)-oldest $(VENV)-oldest/.installed-test
	$(VENV)-oldest/bin/python -m pip install --quiet \
	"jax==$$(sed -n 's/^ *"jax>=\([0-9.]*\)",/\1/p' pyproject.toml)"
	$(VENV)-oldest/bin/python -m pytest $(PYTEST_ARGS)

test-newest:
	@$(MAKE) VENV=$(VENV)-newest $(VENV)-newest/.installed-test
	$(VENV)-newest/bin/python -m pip install --quiet --upgrade jax
	$(VENV)-newest/bin/python -m pytest $(PYTEST_ARGS)

test-sources: $(VENV)/.installed-sources
	KERAS_DP_SOURCES=1 TF_CPP_MIN_LOG_LEVEL=3 $(BIN)/python -m pytest $(PYTEST_ARGS) tests/sources

test-zoo: $(VENV)/.installed-zoo
	KERAS_DP_ZOO=$(ZOO) KERAS_DP_ZOO_REPORT=$(ZOO_REPORT) \
	$(BIN)/python -m pytest $(PYTEST_ARGS) tests/zoo

demo: $(VENV)/.installed-demo data
	$(BIN)/python examples/fashion_mnist.py $(DEMO_ARGS)

format: $(VENV)/.installed-test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Debian packages Fashion-MNIST. This never fails: without it the demo downloads the images or
# takes smaller ones.
data:
	@if [ -n "$$KERAS_DP_DATA" ] || [ -d $(DATASET_FOLDER) ]; then exit 0; fi; \
	command -v apt-get >/dev/null || exit 0; \
	if [ "$$(id -u)" = 0 ]; then root=""; \
	elif sudo -n true 2>/dev/null; then root="sudo -n"; \
	else exit 0; fi; \
	echo "Installing Debian's $(DATASET) (30 MB)"; \
	$$root $(APT_GET) install $(DATASET) >/dev/null 2>&1 \
	|| { $$root $(APT_GET) update && $$root $(APT_GET) install $(DATASET); } >/dev/null 2>&1 \
	|| echo "It could not be installed; the demo will look for other images."

$(VENV)/.installed-%: pyproject.toml $(VENV)/.made
	@echo "Installing keras-dp[$*] into $(VENV)"
	@$(BIN)/python -m pip install --quiet -e ".[$*]"
	@touch $@

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null \
	|| { echo "keras_dp needs Python 3.11, 3.12 or 3.13, but '$(PYTHON)' is:" \
	     "$$($(PYTHON) --version 2>&1 | head -n 1)." \
	     "Name another one: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@echo "Making $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV) \
	|| { echo "'$(PYTHON) -m venv' failed. On Debian and Ubuntu it needs: apt-get install" \
	     "python3-venv" >&2; exit 1; }
	@touch $@

clean:
	@for venv in $(VENV) $(VENV)-oldest $(VENV)-newest $(VENV)-torch $(VENV)-tensorflow; do \
	if [ -f $$venv/pyvenv.cfg ]; then rm -rf $$venv; fi; done
	rm -rf build dist .coverage .coverage.* htmlcov
	rm -rf .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find keras_dp tests examples conftest.py -name __pycache__ -prune -exec rm -rf {} +
