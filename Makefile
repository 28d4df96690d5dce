# make demo, make demo-nodeport and make test need Linux, python3 (3.11 or newer), python3-venv and nothing else; they make .venv themselves.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: help demo demo-nodeport test bench bench-scale chaos soak check format clean kube-assets kustomize cfn image lock sbom e2e
.DEFAULT_GOAL := help

help:
	@echo "make demo     see floating addresses move between two workers, on packets, on this machine"
	@echo "make demo-nodeport  see one floating IP for the NodePorts of two nodes survive what is done to them"
	@echo "make test     unit, contract and scenario tests"
	@echo "make bench    measure start-up, event-to-route latency, API calls and memory, beside a floor"
	@echo "make bench-scale  let a whole Availability Zone fail against EC2's throttle, in simulated time"
	@echo "make chaos    seeded faults in the lab, judged: make chaos SEED=1 N=500; make chaos SEED=17 N=1 repeats one"
	@echo "make soak     one sidecar, an address change each second: does it grow? make soak MINUTES=30"
	@echo "make check    format, lint, types, layers, docs in step with the code"
	@echo "make format   mend what 'make check' says of format"
	@echo "make kube-assets  build the etcd and kube-apiserver that the tests and the lab use when they are there"
	@echo "make image    build the image of the Dockerfile (root, podman; see docs/image.md)"
	@echo "make e2e      run the manifests with the real image, CNI plugins and podman in the lab (root)"
	@echo "make lock     pin and hash what the image is made from: image/*.lock"
	@echo "make sbom     write the image's bill of materials: sbom.cdx.json"
	@echo "make cfn      embed cfn/lambda/*.py into the templates"
	@echo "make kustomize  build kustomize for the tests, where kubectl is missing"
	@echo "make clean    remove .venv and what the tools left"

demo: $(VENV)/.lab
	@$(BIN)/python -m lab.demo

demo-nodeport: $(VENV)/.lab
	@$(BIN)/python -m lab.demo nodeport

# The scenarios mostly wait (for leases, for EC2's delays), so that they run beside the rest, in three parts.
NODES := $(wildcard tests/scenario/test_*nodeport*.py tests/scenario/test_chaos.py tests/scenario/test_faults.py tests/scenario/test_failover.py)
PODS := $(filter-out $(NODES),$(wildcard tests/scenario/test_*.py))
FIRST := $(filter $(wildcard tests/scenario/test_[a-e]*.py),$(PODS))
PARTS := nodes first rest
nodes := $(NODES)
first := $(FIRST)
rest := $(filter-out $(FIRST),$(PODS))
test: $(VENV)/.test
	@$(foreach part,$(PARTS),$(BIN)/python -m pytest $($(part)) >.scenarios-$(part).log 2>&1 & $(part)=$$!;) \
	$(BIN)/python -m pytest tests/unit tests/contract; code=$$?; \
	echo "waiting for the scenarios …"; \
	$(foreach part,$(PARTS),wait $$$(part) || code=1; cat .scenarios-$(part).log;) exit $$code

bench: $(VENV)/.lab
	$(BIN)/python -m bench

bench-scale: $(VENV)/.test
	$(BIN)/python -m bench.scale

SEED ?= 1
N ?= 30
chaos: $(VENV)/.lab
	$(BIN)/python -m lab.chaos --seed $(SEED) --schedules $(N)

MINUTES ?= 30
soak: $(VENV)/.lab
	$(BIN)/python -m lab.chaos.soak --minutes $(MINUTES)

check: $(VENV)/.check
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q tests/unit/test_docs.py

# The functions' code is embedded in the templates, so that two edits are all that a user makes.
cfn: $(VENV)/.check
	@$(BIN)/python cfn/embed.py

format: $(VENV)/.check
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) .scenarios-*.log .chaos build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
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

# kustomize for the tests of samples/components, where neither it nor kubectl is there.
KUSTOMIZE_VERSION := v5.8.1
KUSTOMIZE = $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/vipmanager/kustomize/$(KUSTOMIZE_VERSION)

kustomize:
	@test -x "$(KUSTOMIZE)/kustomize" || GOBIN="$(KUSTOMIZE)" go install sigs.k8s.io/kustomize/kustomize/v5@$(KUSTOMIZE_VERSION)
	@mkdir -p $(VENV)/bin && ln -sf "$(KUSTOMIZE)/kustomize" $(VENV)/bin/kustomize

# The image, and the manifests run with it. Debian 12: apt-get install podman runc catatonit containernetworking-plugins debootstrap
image: $(VENV)/.lab
	@$(BIN)/python -m tests.e2e --build

sbom: $(VENV)/.lab
	@$(BIN)/python -m tests.e2e --sbom sbom.cdx.json

e2e: $(VENV)/.lab
	@$(BIN)/python -m tests.e2e

# For every Python and system that vipmanager supports; the installer checks the hashes.
UV_VERSION := 0.13.8
LOCK := $(BIN)/uv pip compile --quiet --no-config --universal --python-version 3.11 --generate-hashes --custom-compile-command "make lock"

lock: $(VENV)/.lab
	@$(PIP) uv==$(UV_VERSION)
	$(LOCK) --extra nodeport --output-file image/requirements.lock setup.cfg
	$(LOCK) --output-file image/build.lock image/build.in
