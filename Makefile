# Every task by name. Targets set up what they need; `make` alone lists them.
PYTHON ?= python3
PROFILE ?= full
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
# No target talks to anybody but package registries, the Hub, and servers that the user names.
export DO_NOT_TRACK := 1
export HF_HUB_DISABLE_TELEMETRY := 1
export MLFLOW_DISABLE_TELEMETRY := true

.DEFAULT_GOAL := help
.PHONY: help setup data train bundle serve promote rollback mlflow mongo test e2e clients chaos check \
	bench perspective-map format lock clean \
	gates image image-check docker-rehearsal deploy smoke-production sbom licences audit coverage \
	pack unpack production-artifact summary comment

help: ## List the tasks
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# A set is installed once; a changed lock file installs what changed. `dev` contains `train`.
.venv/.%: requirements/%.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -r $<
	touch $@

# What a larger set contains need not be asked for once that one is there.
SERVE := $(firstword $(wildcard .venv/.dev .venv/.train) .venv/.serve)
TRAIN := $(if $(wildcard .venv/.dev),.venv/.dev,.venv/.train)

setup: .venv/.dev ## Install what developing needs into .venv

data: $(TRAIN) ## Bring the sources to data/raw (DATA_DIR, ../shared/data, the Hub, or the bundled sample)
	python -m training.fetch --profile $(PROFILE)

train: data ## Run the whole pipeline; PROFILE=full (default), quick or sample
	dvc repro
	python -m training.report

bundle: ## Print the path of the bundle to serve: production, else candidate
	@for stage in production candidate; do \
		test -f models/$$stage/bundle.json && echo models/$$stage && exit 0; done; \
		echo 'no bundle yet: run `make train`' >&2; exit 1

promote: $(TRAIN) ## Put the candidate into production if every gate lets it
	python -m training.promote

gates: $(TRAIN) ## Say how the candidate stands at each gate; nothing moves
	python -m training.promote --dry-run

rollback: $(TRAIN) ## Put the previous model back into production
	python -m training.promote --rollback

HOST ?= 127.0.0.1
PORT ?= 8000
serve: ## Serve the newest bundle (production, candidate, else one of the sample); HOST, PORT
	@test -n "$$BUNDLE" || $(MAKE) -s bundle >/dev/null 2>&1 || $(MAKE) train PROFILE=sample
	@$(MAKE) -s $(SERVE)
	HOST=$(HOST) PORT=$(PORT) exec python -m serving.app

mlflow: $(TRAIN) ## Open MLflow's pages on http://127.0.0.1:5000
	mlflow server --backend-store-uri sqlite:///mlflow.db --host 127.0.0.1 --port 5000

mongo: .venv/.dev ## Run a MongoDB for local use on mongodb://127.0.0.1:27017, its data in .mongo/
	python -m tests.mongod --port 27017 --folder .mongo

test: .venv/.dev ## Run all tests but those of a browser, clients and chaos
	python -m pytest

# Of these a bundle is asked for; any will do.
BUNDLE_DIR = $(or $(BUNDLE),$(shell $(MAKE) -s bundle 2>/dev/null),$(error no bundle yet: run `make train`))

e2e: .venv/.dev ## Try the page in a headless Chromium (Debian's; installed if this is root)
	command -v chromium >/dev/null || { apt-get update -qq && apt-get install -y -qq chromium >/dev/null; }
	E2E=1 BUNDLE=$(BUNDLE_DIR) python -m pytest tests/e2e

clients: .venv/.dev ## Try the real clients of other services on this one (needs npm)
	npm ci --prefix tests/clients --silent --no-audit --no-fund
	python -m tests.clients --bundle $(BUNDLE_DIR)

chaos: .venv/.dev ## Break things under load and count what was acknowledged and kept; SHORT=1
	python -m tests.chaos --bundle $(BUNDLE_DIR) $(if $(SHORT),--short)

WHAT ?= serving
# wrk is installed if this is root; otherwise the program asks for it.
bench: .venv/.dev ## Measure WHAT: serving (default; ONLY=ours,infinity), explanations, log-cost, apis
	command -v wrk >/dev/null || test "$$(id -u)" != 0 || { apt-get update -qq && apt-get install -y -qq wrk >/dev/null; }
	python -m benchmarks.$(subst -,_,$(WHAT)) --bundle $(BUNDLE_DIR) \
		$(if $(ONLY),--only $(ONLY)) $(if $(WRITE),--write $(WRITE))

perspective-map: $(SERVE) ## Say which threshold replaces Perspective's; CSV=comments with its scores
	python -m serving.perspective_map --bundle $(BUNDLE_DIR) $(CSV)

image: ## Build the service's image with the bundle that `make bundle` names (needs Docker)
	docker build -f Dockerfile.serve -t tweet-tagger \
		--build-arg BUNDLE=$$(realpath --relative-to=. $(BUNDLE_DIR)) .

image-check: ## Start that image and ask it (needs Docker)
	docker run --detach --rm --name tweet-tagger --publish 127.0.0.1:7860:7860 tweet-tagger
	python3 -m deploy.smoke http://127.0.0.1:7860 --wait 60; ended=$$?; \
		docker logs tweet-tagger; docker stop tweet-tagger; exit $$ended

docker-rehearsal: .venv/.dev ## Run Dockerfile.serve's lines in a clean Debian, and serve from it (root)
	command -v debootstrap >/dev/null || \
		{ apt-get update -qq && apt-get install -y -qq debootstrap >/dev/null; }
	python -m deploy.rehearsal $(BUNDLE_DIR)

deploy: $(TRAIN) ## Bring production to the Space HF_SPACE; DRY_RUN=1 lists what would go
	@python -m deploy.push

smoke-production: ## Ask the service at URL whether it serves what is in production; WAIT seconds
	python3 -m deploy.smoke "$(URL)" --wait $(or $(WAIT),30) --version "$$(python3 -c \
		'import json; print(json.load(open("models/releases.json"))["production"])')"

# Exactly what the image installs.
build/image: requirements/serve.txt deploy/unused.txt
	rm -rf $@
	$(PYTHON) -m venv $@
	grep -vE "^($$(paste -sd '|' deploy/unused.txt))==" requirements/serve.txt > $@/image.txt
	$@/bin/pip install --quiet --disable-pip-version-check --no-deps -r $@/image.txt
	$@/bin/pip uninstall --quiet --yes setuptools pip

sbom: .venv/.dev build/image ## Write reports/sbom.json (CycloneDX): what the image ships
	mkdir -p reports
	cyclonedx-py environment --output-format JSON --output-file reports/sbom.json \
		--pyproject pyproject.toml build/image/bin/python

licences: .venv/.dev build/image ## Refuse licences that limit commerce or bind our users' code
	pip-licenses --python=build/image/bin/python --from=mixed --with-system --format=json \
		| python -m deploy.licences

audit: .venv/.dev ## Known vulnerabilities of what the image ships (asks PyPI)
	pip-audit --strict --disable-pip --no-deps --requirement requirements/serve.txt

coverage: .venv/.dev ## Run all tests and say which lines none of them reached
	python -m pytest --cov=serving --cov=training --cov=deploy \
		--cov-report=term-missing:skip-covered --cov-report=xml:reports/coverage.xml

# Between CI's runs production is an artifact of main's; texts do not go with it.
PACK := models/production.tar.gz
pack:
	tar --exclude=reference.parquet -czf $(PACK) models/releases models/releases.json
unpack: $(TRAIN)
	if test -f $(PACK); then tar -xzf $(PACK) && python -m training.releases; fi
production-artifact:
	sh deploy/production-artifact.sh $(PACK)
summary:
	cat reports/gates.md >> "$${GITHUB_STEP_SUMMARY:-/dev/stdout}"
comment:
	gh pr comment "$(PR)" --body-file reports/gates.md

check: .venv/.dev ## Lint, formatting, types, Dockerfiles, workflows
	ruff check .
	ruff format --check .
	mypy
	hadolint Dockerfile.serve Dockerfile.train
	check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	zizmor --offline --quiet .github/workflows

format: .venv/.dev ## Format the code and mend what ruff can
	ruff check --fix .
	ruff format .

# torch's local version (+cpu) is cut off: the public index has none, a CPU index offers it anyway.
COMPILE := pip-compile --quiet --strip-extras --no-annotate --no-header --no-emit-index-url \
	--no-emit-find-links --no-emit-trusted-host --no-emit-options
lock: .venv/.dev ## Pin anew what pyproject.toml asks for
	$(COMPILE) --upgrade --extra train --extra dev -o requirements/dev.txt pyproject.toml
	sed -i 's/+cpu$$//' requirements/dev.txt
	$(COMPILE) --extra train -c requirements/dev.txt -o requirements/train.txt pyproject.toml
	sed -i 's/+cpu$$//' requirements/train.txt
	$(COMPILE) -c requirements/dev.txt -o requirements/serve.txt pyproject.toml

clean: ## Remove what the pipeline made; .venv, MLflow's store and production stay
	rm -rf data/raw data/processed data/profile.yaml reports .dvc/cache build
	rm -rf models/candidate models/finetuned models/checkpoints models/fp32.onnx
