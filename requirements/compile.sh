#!/bin/sh
# Pins what pyproject.toml asks for in requirements/*.txt; --upgrade takes the newest versions.
# Wanted: `make setup` before it. serve.txt and train.txt hold subsets of dev.txt.
set -eu
cd "$(dirname "$0")/.."
compile() {
  .venv/bin/pip-compile --quiet --strip-extras --no-annotate --no-header --no-emit-index-url \
    --no-emit-find-links --no-emit-trusted-host --no-emit-options "$@" pyproject.toml
}
compile "$@" --extra train --extra dev --extra otel --extra redis --extra registry -o requirements/dev.txt
compile --extra train -c requirements/dev.txt -o requirements/train.txt
# The image can use what its operator asks for.
compile --extra otel --extra redis --extra registry -c requirements/dev.txt -o requirements/serve.txt
# The public index has torch without a local version; an index of CPU builds offers +cpu anyway.
sed -i 's/+cpu$//' requirements/dev.txt requirements/train.txt
