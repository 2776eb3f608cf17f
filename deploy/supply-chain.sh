#!/bin/sh
# Checks the packages that the image installs: known vulnerabilities (asks PyPI) and licences. Writes
# the bill of materials, CycloneDX, to reports/sbom.json. Needs `make setup`.
set -eu
cd "$(dirname "$0")/.."
bin=$PWD/.venv/bin
image=build/image

"$bin/pip-audit" --strict --disable-pip --no-deps --requirement requirements/serve.txt

# The same packages as in Dockerfile.serve.
rm -rf $image
python3 -m venv $image
grep -vE "^($(paste -sd '|' deploy/unused.txt))==" requirements/serve.txt >$image/image.txt
$image/bin/pip install --quiet --disable-pip-version-check --no-deps -r $image/image.txt
$image/bin/pip uninstall --quiet --yes setuptools pip

"$bin/pip-licenses" --python=$image/bin/python --from=mixed --with-system --format=json |
  python3 -m deploy.licences
mkdir -p reports
"$bin/cyclonedx-py" environment --output-format JSON --output-file reports/sbom.json \
  --pyproject pyproject.toml $image/bin/python
