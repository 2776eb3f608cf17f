#!/bin/sh
# Fetches the newest artifact `production` that a run on this repository's main left, to the file $1.
# A pull request's runs are passed over, whatever they call their artifacts. None yet: no file.
# Wanted: gh, GH_TOKEN, GITHUB_REPOSITORY.
set -eu
target=$1
id=$(gh api --paginate "repos/$GITHUB_REPOSITORY/actions/artifacts?name=production&per_page=100" --jq '
  .artifacts[] | select(.expired | not)
  | select(.workflow_run.head_branch == "main")
  | select(.workflow_run.head_repository_id == .workflow_run.repository_id)
  | "\(.created_at) \(.id)"' | sort | tail -n 1 | cut -d ' ' -f 2)
if [ -z "$id" ]; then
  echo "no production artifact of main: the candidate would be the first"
  exit 0
fi
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
gh api "repos/$GITHUB_REPOSITORY/actions/artifacts/$id/zip" > "$scratch/production.zip"
python3 -m zipfile -e "$scratch/production.zip" "$scratch"
mkdir -p "$(dirname "$target")"
mv "$scratch/$(basename "$target")" "$target"
echo "production of artifact $id"
