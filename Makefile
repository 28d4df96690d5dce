# make demo, make demo-nodeport and make test need Linux, python3 (3.11 or newer), python3-venv and nothing else; they make .venv themselves.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: help demo demo-nodeport test bench check format clean kube-assets
.DEFAULT_GOAL := help

help:
	@echo "make demo     see floating addresses move between two workers, on packets, on this machine"
	@echo "make demo-nodeport  see one floating IP for the NodePorts of two nodes survive what is done to them"
	@echo "make test     unit, contract and scenario tests"
	@echo "make bench    measure start-up, event-to-route latency, API calls and memory, beside a floor"
	@echo "make check    format, lint, types, layers, docs in step with the code"
	@echo "make format   mend what 'make check' says of format"
	@echo "make kube-assets  build the etcd and kube-apiserver that the tests and the lab use when they are there"
	@echo "make clean    remove .venv and what the tools left"

demo: $(VENV)/.lab
	@$(BIN)/python -m lab.demo

demo-nodeport: $(VENV)/.lab
	@$(BIN)/python -m lab.demo nodeport

# The scenarios mostly wait (for leases, for EC2's delays), so that they run beside the rest.
test: $(VENV)/.test
	@$(BIN)/python -m pytest tests/scenario >.scenarios.log 2>&1 & scenarios=$$!; \
	$(BIN)/python -m pytest tests/unit tests/contract; rest=$$?; \
	echo "waiting for the scenarios …"; wait $$scenarios; code=$$?; cat .scenarios.log; exit $$((rest || code))

bench: $(VENV)/.lab
	$(BIN)/python -m bench

check: $(VENV)/.check
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q tests/unit/test_docs.py

format: $(VENV)/.check
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) .scenarios.log build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	rm -rf vipmanager/clients/_model

# Each target installs what it needs and no more: the demo should start soon on a laptop.
$(VENV)/.lab $(VENV)/.test $(VENV)/.check: $(VENV)/.%: setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "vipmanager needs Python 3.11 or newer; try make PYTHON=python3.12")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { echo "python3 -m venv failed: apt-get install python3-venv" >&2; rm -rf $(VENV); exit 1; }
	@echo "installing into $(VENV) …"
	@$(PIP) --editable '.[$*]'
	@$(BIN)/python -m vipmanager.clients.ec2_model >/dev/null
	@touch $@

# The real Kubernetes API for the tests and the lab, from the public Go modules that lab/kube/assets/*/go.sum pins.
KUBERNETES_VERSION := v1.35.4
ETCD_VERSION := v3.6.7
KUBE_ASSETS = $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/vipmanager/kube-assets/$(KUBERNETES_VERSION)-etcd-$(ETCD_VERSION)

kube-assets:
	@lab/kube/assets/build.sh "$(KUBE_ASSETS)" $(KUBERNETES_VERSION) $(ETCD_VERSION)
