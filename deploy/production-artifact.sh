#!/bin/sh
# Keeps production between the runs of CI, in the artifact `production` of this repository's main.
#
#   deploy/production-artifact.sh fetch    download the newest one and make it production here
#   deploy/production-artifact.sh pack     write models/production.tar.gz for the upload; no tweets
#
# fetch passes over the runs of pull requests, whatever their artifacts are called. If main has no
# artifact, nothing is in production. Needs gh, GH_TOKEN and GITHUB_REPOSITORY.
set -eu
cd "$(dirname "$0")/.."
archive=models/production.tar.gz

fetch() {
  id=$(gh api --paginate "repos/$GITHUB_REPOSITORY/actions/artifacts?name=production&per_page=100" \
    --jq '.artifacts[] | select(.expired | not)
    | select(.workflow_run.head_branch == "main")
    | select(.workflow_run.head_repository_id == .workflow_run.repository_id)
    | "\(.created_at) \(.id)"' | sort | tail -n 1 | cut -d ' ' -f 2)
  if [ -z "$id" ]; then
    echo "main has no production artifact: the candidate will be the first"
    return
  fi
  scratch=$(mktemp -d)
  trap 'rm -rf "$scratch"' EXIT
  gh api "repos/$GITHUB_REPOSITORY/actions/artifacts/$id/zip" >"$scratch/production.zip"
  python3 -m zipfile -e "$scratch/production.zip" "$scratch"
  mkdir -p models
  mv "$scratch/$(basename $archive)" $archive
  tar -xzf $archive
  python3 -m training.release.releases
  echo "production is that of artifact $id"
}

case ${1:-} in
fetch) fetch ;;
pack) tar --exclude=reference.parquet -czf $archive models/releases models/releases.json ;;
*) echo "error: got '${1:-}', wanted fetch or pack" >&2 && exit 2 ;;
esac
