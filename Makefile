# Every task by name. Each target installs what it needs; `make` alone lists them.
PYTHON ?= python3
PROFILE ?= full
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
# No target contacts anything but package registries, the Hub, and servers that the user names.
export DO_NOT_TRACK := 1
export HF_HUB_DISABLE_TELEMETRY := 1
export MLFLOW_DISABLE_TELEMETRY := true

.DEFAULT_GOAL := help
.PHONY: help setup clean train bundle gates promote rollback release mlflow serve drift mongo check test e2e clients \
	chaos replicas-test learning-test observability-test kubernetes-check scale-test bench bulk-bench explain-bench docs screenshots image deploy

help:
	@awk '/^##@/ {printf "\n%s\n", substr($$0, 5)} \
		/^[a-z0-9-]+:.*## / {split($$0, part, ":.*## "); printf "  make %-17s %s\n", part[1], part[2]}' \
		$(MAKEFILE_LIST)

# A lock file is installed once, and again when it changes. `dev` contains `train`.
.venv/.%: requirements/%.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -r $<
	touch $@

# A larger set that is installed contains the smaller ones.
SERVE := $(firstword $(wildcard .venv/.dev .venv/.train) .venv/.serve)
TRAIN := $(if $(wildcard .venv/.dev),.venv/.dev,.venv/.train)

# `tweet-tagger` in .venv/bin runs this checkout's code.
.venv/.tool: pyproject.toml | $(SERVE)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

# The bundle that a target uses: BUNDLE, else the one that `make serve` would serve.
BUNDLE_DIR = $(or $(BUNDLE),$(shell $(MAKE) -s bundle 2>/dev/null),$(error no bundle: models/release is missing))

##@ Set-up

setup: .venv/.dev .venv/.tool ## Install everything for development into .venv

clean: ## Remove what the pipeline made; .venv, MLflow's store and production stay
	@$(PYTHON) -m training.pipeline --clean

##@ Model

train: $(TRAIN) .venv/.tool ## Run the whole pipeline; PROFILE=full (default), quick or sample
	python -m training.pipeline --profile $(or $(PROFILE),full)

bundle: ## Print the path of the bundle to serve: production, else candidate, else release
	@for stage in production candidate release; do \
		test -f models/$$stage/bundle.json && echo models/$$stage && exit 0; done; \
		echo 'no bundle: models/release is missing' >&2; exit 1

gates: $(TRAIN) ## Print the result of every promotion gate for the candidate
	python -m training.release.promote --dry-run

promote: $(TRAIN) ## Put the candidate into production if it passes every gate
	python -m training.release.promote

rollback: $(TRAIN) ## Put the previous model back into production
	python -m training.release.promote --rollback

release: gates ## Make the candidate the shipped model, models/release, if it passes every gate
	cd models/candidate && install -D -m 644 -t ../release \
		model.onnx tokenizer.json metrics.json MODEL_CARD.md drift_reference.json bundle.json

mlflow: $(TRAIN) ## Open MLflow on http://127.0.0.1:5000
	mlflow server --backend-store-uri sqlite:///mlflow.db --host 127.0.0.1 --port 5000

##@ Service

serve: $(SERVE) .venv/.tool ## Serve the bundle that `make bundle` prints; BUNDLE, PORT, HOST and TAGGER_ settings
	exec env $(if $(BUNDLE),TAGGER_BUNDLE=$(BUNDLE)) tweet-tagger serve

drift: $(TRAIN) .venv/.tool ## Compare the log of the last DAYS=7 with the bundle's reference; estimate its quality
	tweet-tagger drift --days $(or $(DAYS),7) $(if $(BUNDLE),--bundle $(BUNDLE))

mongo: .venv/.dev ## Run a MongoDB for local use on mongodb://127.0.0.1:27017; its data is in .mongo/
	python -m tests.support.mongodb --port 27017 --folder .mongo

##@ Checks

check: .venv/.dev ## Check style, types, import directions, Dockerfiles and workflows
	ruff check .
	ruff format --check .
	mypy
	lint-imports --no-logo --no-cache
	hadolint Dockerfile.serve Dockerfile.train
	check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	check-jsonschema --builtin-schema vendor.github-issue-forms .github/ISSUE_TEMPLATE/*.yml
	check-jsonschema --builtin-schema vendor.compose-spec compose.yaml
	zizmor --offline --quiet --persona auditor .github/workflows

test: .venv/.dev .venv/.tool ## Run the unit and integration tests
	python -m pytest

e2e: .venv/.dev ## Test the page in headless Chromium (Debian's; root installs it)
	command -v chromium >/dev/null || { apt-get update -qq && apt-get install -y -qq chromium >/dev/null; }
	E2E=1 BUNDLE=$(BUNDLE_DIR) python -m pytest tests/e2e

clients: .venv/.dev ## Test the real clients of other services (needs npm)
	npm ci --prefix tests/clients --silent --no-audit --no-fund
	python -m tests.clients --bundle $(BUNDLE_DIR)

chaos: .venv/.dev ## Break things under load; count acknowledged and stored predictions; SHORT=1
	python -m tests.chaos --bundle $(BUNDLE_DIR) $(if $(SHORT),--short)

kubernetes-check: .venv/.dev ## Check the Kubernetes manifests against schemas, and against the service
	set -e; for folder in deploy/kubernetes/base deploy/kubernetes/overlays/*; do echo "== $$folder"; \
		built=$$(kubectl kustomize $$folder); \
		echo "$$built" | kubernetes-validate --strict --quiet --no-warn -; done
	python -m pytest -q tests/unit/test_kubernetes.py

replicas-test: .venv/.dev ## Restart and kill replicas behind HAProxy under load (Debian's; root installs it); SHORT=1
	{ command -v haproxy && command -v redis-server; } >/dev/null || test "$$(id -u)" != 0 || \
		{ apt-get update -qq && apt-get install -y -qq haproxy redis-server >/dev/null; }
	python -m tests.replicas --bundle $(BUNDLE_DIR) $(if $(SHORT),--short)

learning-test: .venv/.dev ## Teach a served model a coined insult: log, review, train, gates, promote; poisoners too
	python -m tests.learning

scale-test: .venv/.dev ## Score files on two Ray nodes, one killed in the middle; SHORT=1
	SCALE=1 ROWS=$(if $(SHORT),2000,20000) python -m pytest -s tests/scale

observability-test: .venv/.dev ## Run Prometheus with the rules and dashboards against the service (Debian's; root installs it)
	command -v prometheus >/dev/null || test "$$(id -u)" != 0 || \
		{ apt-get update -qq && apt-get install -y -qq prometheus >/dev/null; }
	OBSERVABILITY=1 python -m pytest tests/observability

WHAT ?= serving
bench: .venv/.dev ## Benchmark; WHAT=serving (default; ONLY=ours,mlflow), explanations, log-cost, apis or capacity
	command -v wrk >/dev/null || test "$$(id -u)" != 0 || { apt-get update -qq && apt-get install -y -qq wrk >/dev/null; }
	python -m benchmarks.$(subst -,_,$(WHAT)) --bundle $(BUNDLE_DIR) \
		$(if $(ONLY),--only $(ONLY)) $(if $(WRITE),--write $(WRITE))

explain-bench: WHAT = explanations
explain-bench: bench

bulk-bench: .venv/.dev ## Benchmark `tweet-tagger score`: default, Ray, bare loop; SHORT=1
	python -m benchmarks.bulk --bundle $(BUNDLE_DIR) $(if $(SHORT),--short) $(if $(WRITE),--write $(WRITE))

##@ Documentation

docs: .venv/.dev ## Build the documentation into site/; a dead link fails
	NO_MKDOCS_2_WARNING=1 mkdocs build --strict

screenshots: .venv/.dev ## Take the README's screenshot of the page in headless Chromium
	command -v chromium >/dev/null || { apt-get update -qq && apt-get install -y -qq chromium >/dev/null; }
	python -m docs.tools.screenshots --bundle $(BUNDLE_DIR)

##@ Release

image: ## Build the service's image with models/release, or BUNDLE; without Docker: deploy/rehearse.sh
	docker build -f Dockerfile.serve -t tweet-tagger \
		--build-arg BUNDLE=$$(realpath --relative-to=. $(or $(BUNDLE),models/release)) .

deploy: $(TRAIN) ## Upload models/release, or BUNDLE=models/production, to the Space HF_SPACE; DRY_RUN=1
	@python -m deploy.push
