#!/bin/sh
# Pin the dependency groups of pyproject.toml, with hashes and without addresses.
set -eu
cd "$(dirname "$0")/.."
uv="$1/bin/uv"
command -v "$uv" >/dev/null 2>&1 || uv=uv
set -- --quiet --universal --generate-hashes --no-annotate --python-version 3.11 \
  --custom-compile-command "make lock"
"$uv" pip compile "$@" --group pyproject.toml:dev -o constraints.txt
"$uv" pip compile "$@" --group pyproject.toml:release -c constraints.txt \
  -o tools/constraints-release.txt
