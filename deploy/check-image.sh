#!/bin/sh
# Starts the image `tweet-tagger` as a container and checks it; exit 1 at the first failed check.
#
#   deploy/check-image.sh     after `make image`; DOCKER=podman takes another engine, PORT another port
set -eu
cd "$(dirname "$0")/.."
docker=${DOCKER:-docker}
port=${PORT:-7860}
limit_mb=450 # installed, without the bundle

fail() { echo "error: $1" >&2; exit 1; }

container=$($docker run --detach --env PORT="$port" --publish "127.0.0.1:$port:$port" tweet-tagger)
trap '$docker logs "$container"; $docker rm --force "$container" >/dev/null' EXIT
python3 -m deploy.smoke "http://127.0.0.1:$port" --wait 60
# On a terminal, the table comes from rich, without the packages that deploy/unused.txt names.
$docker exec --tty "$container" python -m serving predict 'have a lovely day' ||
  fail 'the command line fails'
test "$($docker exec "$container" id -u)" = 1000 || fail 'runs as another user, wanted 1000'

health=$($docker inspect --format '{{json .Config.Healthcheck.Test}}' "$container" |
  python3 -c 'import json, shlex, sys; print(shlex.join(json.load(sys.stdin)[1:]))')
eval "$docker exec $container $health" || fail 'the health check fails while the service answers'
eval "$docker exec --env PORT=1 $container $health" 2>/dev/null &&
  fail 'the health check passes where no service listens'

mb() { $docker exec --user 0 "$container" du -sxb "$1" | awk '{printf "%.0f", $1 / 1e6}'; }
bundle=$(mb /app/models/production)
installed=$(($(mb /) - bundle))
echo "installed: $installed MB without the bundle, the packages $(mb /opt/venv) MB; the bundle $bundle MB"
test "$installed" -le $limit_mb || fail "got $installed MB installed, wanted at most $limit_mb"

$docker stop "$container" >/dev/null
code=$($docker inspect --format '{{.State.ExitCode}}' "$container")
test "$code" = 0 || fail "SIGTERM: got exit code $code, wanted 0"
