#!/bin/sh
# Writes requirements.lock: the exact versions for the ranges of pyproject.toml, names and versions only.
# Versions already locked stay unless `--upgrade` or `--upgrade-package NAME` is given.
set -eu
cd "$(dirname "$0")/.."
new=requirements.lock.new
trap 'rm -f "$new"' EXIT
if [ -f requirements.lock ]; then cp requirements.lock "$new"; fi
# mujoco 3.3.0 is what the Meta-World extra needs; the gates were measured with it.
echo 'mujoco==3.3.0' | uv pip compile pyproject.toml --extra dev --extra serving --extra docs --universal --python-version 3.12 \
    --quiet --no-annotate --no-header --no-emit-index-url --no-emit-find-links --constraint - --output-file "$new" "$@"
{
    echo '# The tested environment: names and versions, no addresses. Made by tools/lock.sh, installed by'
    echo '# tools/bootstrap.sh.'
    grep -v '^#' "$new"
} >"$new.2"
mv "$new.2" requirements.lock
