#!/bin/sh
# Install what the tests use beside Python. Any number of runs; needs root and apt.
set -eu
missing=""
need() { command -v "$1" >/dev/null 2>&1 || missing="$missing $2"; }
need chromium chromium
need chromedriver chromium-driver
need redis-server redis-server
need etcd etcd-server
need git git
need openssl openssl
need tmux tmux
need ip iproute2
need node nodejs
need npm npm
[ -n "$missing" ] || { echo "system: everything is there"; exit 0; }
command -v apt-get >/dev/null 2>&1 || {
  echo "system: install these yourself, this machine has no apt-get:$missing" >&2
  exit 2
}
echo "system: installing$missing"
export DEBIAN_FRONTEND=noninteractive
apt-get update -q >/dev/null
# shellcheck disable=SC2086  # a list of names
apt-get install -y -q --no-install-recommends $missing >/dev/null
