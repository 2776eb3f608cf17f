#!/bin/sh
# Builds and checks the image on a machine without Docker and without a registry of images. podman
# is the engine, and a Debian that debootstrap makes stands in for the base image.
#
#   deploy/rehearse.sh [BUNDLE]     as root; a bundle in models/, by default the shipped one
#
# Storage is build/podman: about 1 GB during the run, 0.2 GB after it. podman may print errors about
# systemd, which it would use for the timer of the health check; they are harmless.
set -eu
cd "$(dirname "$0")/.."
bundle=$(realpath --relative-to=. "${1:-models/release}")
base=docker.io/library/$(sed -n 's/^ARG PYTHON=//p' Dockerfile.serve)
folder=$PWD/build/podman
command -v podman debootstrap runc >/dev/null ||
  { apt-get update -qq && apt-get install -y -qq --no-install-recommends podman debootstrap runc; }

# Without systemd and without the capability to raise limits; vfs works on every file system.
mkdir -p "$folder"
cat >"$folder/containers.conf" <<EOF
[containers]
default_ulimits = ["nofile=1024:4096", "nproc=1024:1024"]
log_driver = "k8s-file"
netns = "host"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "runc"
EOF
cat >"$folder/storage.conf" <<EOF
[storage]
driver = "vfs"
graphroot = "$folder/images"
runroot = "$folder/run"
EOF
export CONTAINERS_CONF="$folder/containers.conf" CONTAINERS_STORAGE_CONF="$folder/storage.conf"

if ! podman image exists "$base"; then
  root=$(mktemp -d -p "$folder")
  trap 'rm -rf "$root"' EXIT
  debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates bookworm "$root" >/dev/null
  # Debian's slim images leave these out, too.
  rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/usr/share/doc \
    "$root"/usr/share/info "$root"/usr/share/locale "$root"/usr/share/man
  chmod 755 "$root"
  touch "$root/etc/pip.conf"
  tar -C "$root" -c . | podman import --quiet --change \
    'ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' - "$base" >/dev/null
  rm -rf "$root"
fi

# pip uses this machine's index and certificates during the build; the image keeps neither.
{
  printf '[global]\ncert = /etc/ssl/certs/ca-certificates.crt\ntimeout = 180\n'
  python3 -m pip config get global.index-url 2>/dev/null | sed 's/^/index-url = /'
} >"$folder/pip.conf"

trap 'podman rmi --force tweet-tagger >/dev/null; podman image prune --force >/dev/null' EXIT
podman build --quiet --isolation chroot --pull=never --format docker --layers=false \
  --volume /etc/ssl/certs:/etc/ssl/certs:ro --volume "$folder/pip.conf:/etc/pip.conf:ro" \
  --file Dockerfile.serve --tag tweet-tagger --build-arg BUNDLE="$bundle" . >/dev/null
DOCKER=podman deploy/check-image.sh
