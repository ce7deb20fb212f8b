#!/bin/sh
# Makes .venv with everything VINE needs, from requirements.lock; a second run returns at once.
#
#   sh tools/bootstrap.sh               # or: make bootstrap
#   PYTHON=/path/to/python sh tools/bootstrap.sh
#   sh tools/bootstrap.sh --find-python # only say which Python would be used
#
# Needs any Python 3.12 or 3.13 that really runs. An environment that was left half made is made again;
# one that this script did not make is used as it is. Packages come from wherever pip or uv are set up
# to look. VINE_NO_UV=1 installs with pip.
set -eu
cd "$(dirname "$0")/.."
ROOT=$(pwd -P)
VENV="$ROOT/.venv"
STAMP="$VENV/.vine-stamp"       # written last: what this environment was made from
BUILDING="$VENV/.vine-building" # written first: this script is (or was) at work here

say() { printf 'bootstrap: %s\n' "$*" >&2; }
die() { say "error: $*"; exit 2; }

# --- is there anything to do? ------------------------------------------------------------------------
# The stamp has two lines: where the environment was made (its scripts carry that path) and from what.
wanted() {
    printf '%s\n' "$ROOT"
    cat requirements*.lock pyproject.toml tools/bootstrap.sh plugins/*/pyproject.toml 2>/dev/null | cksum
}
ready() { [ -f "$STAMP" ] && [ "$(cat "$STAMP")" = "$(wanted)" ] && "$VENV/bin/python" -c '' 2>/dev/null; }
moved() { [ -f "$STAMP" ] && IFS= read -r place <"$STAMP" && [ "$place" != "$ROOT" ]; }

# --- a Python that really runs -----------------------------------------------------------------------
# Prints "major.minor path" of the interpreter itself if it runs and can make environments, else fails.
probe() {
    "$1" -c '
import sys
import venv
if sys.version_info < (3, 12): sys.exit(1)
print("%d.%d %s" % (sys.version_info[0], sys.version_info[1], sys.executable))' 2>/dev/null </dev/null
}
has_pip() { "$1" -c 'import ensurepip' 2>/dev/null </dev/null; }

# Names are looked up on PATH; the rest are the places where Pythons are kept out of it.
candidates() {
    for minor in 12 13; do
        echo "python3.$minor"
        ls -d "${PYENV_ROOT:-$HOME/.pyenv}/versions/3.$minor"*/bin/python \
            "$HOME/.local/share/uv/python/"*"-3.$minor"*/bin/python3 \
            /usr/bin/python3.$minor /usr/local/bin/python3.$minor "/opt/python/3.$minor"*/bin/python3 \
            /opt/homebrew/bin/python3.$minor 2>/dev/null || :
    done
    echo python3
    echo python
    ls -d /opt/conda/bin/python "$HOME"/*conda3/bin/python 2>/dev/null || :
}

find_python() { # sets PY and VERSION
    if [ -n "${PYTHON:-}" ]; then
        found=$(probe "$PYTHON") || die "PYTHON=$PYTHON does not run, is older than 3.12 or lacks venv: name another one"
        VERSION=${found%% *} PY=${found#* }
        case $VERSION in 3.12 | 3.13) ;; *) say "warning: the locked packages are built for Python 3.12 and 3.13, not $VERSION" ;; esac
        return
    fi
    newer="" bare=""
    list=$(candidates)
    while IFS= read -r candidate; do
        found=$(probe "$candidate") || continue
        VERSION=${found%% *} PY=${found#* }
        case $VERSION in
        3.12 | 3.13) if has_pip "$PY" || [ -n "$UV" ]; then return; else bare="$PY"; fi ;;
        *) newer="$VERSION" ;;
        esac
    done <<LIST
$list
LIST
    if [ -n "$bare" ]; then
        die "$bare has no ensurepip: install it (Debian, Ubuntu: apt-get install python3-venv), or uv"
    fi
    if [ -n "$newer" ]; then
        die "only Python $newer found, for which the locked packages are not built: install Python 3.12 or 3.13, or set PYTHON=..."
    fi
    die "no working Python 3.12 or 3.13 found: install one (apt-get install python3.12 python3.12-venv, pyenv install 3.12, or uv python install 3.12), or set PYTHON=/path/to/python"
}

find_uv() { # sets UV, empty if there is none that runs
    UV=""
    [ -z "${VINE_NO_UV:-}" ] || return 0
    for candidate in uv "$HOME/.local/bin/uv" "$HOME/.cargo/bin/uv" "${PYENV_ROOT:-$HOME/.pyenv}/versions/"*/bin/uv; do
        if "$candidate" --version >/dev/null 2>&1 </dev/null; then UV=$candidate; return 0; fi
    done
}

# --- installing --------------------------------------------------------------------------------------
make_venv() {
    if [ -n "$UV" ]; then
        "$PY" -m venv --without-pip "$VENV"
        return
    fi
    "$PY" -m venv "$VENV"
    if [ -z "${VINE_NO_UV:-}" ]; then
        "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check uv >/dev/null 2>&1 || say "no uv to be had, using pip"
        if "$VENV/bin/uv" --version >/dev/null 2>&1; then UV="$VENV/bin/uv"; fi
    fi
}

# install ARGS: what `pip install ARGS` does, bytecode included: without it every process compiles what it imports.
# uv is several times faster, but may be set up otherwise than
# pip (a mirror, a proxy): when it fails, pip has a try.
install() {
    if [ -n "$UV" ]; then
        if "$UV" pip install --quiet --compile-bytecode --python "$VENV/bin/python" "$@"; then return; fi
        say "uv failed, trying pip"
        UV=""
    fi
    "$VENV/bin/python" -m pip --version >/dev/null 2>&1 || "$VENV/bin/python" -m ensurepip >/dev/null 2>&1 ||
        die "no pip in $VENV: install it (Debian, Ubuntu: apt-get install python3-venv) and start again"
    "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check "$@"
}

build() {
    find_uv
    if [ -e "$BUILDING" ]; then
        say "the environment was left half made, making it again"
        rm -rf "$VENV"
    elif [ -e "$VENV" ] && ! probe "$VENV/bin/python" >/dev/null; then
        say "the Python of .venv does not run any more, making it again"
        rm -rf "$VENV"
    elif moved; then
        say "the environment was made in another place, making it again"
        rm -rf "$VENV"
    fi
    if [ -e "$VENV" ]; then
        say "bringing .venv up to date"
        # Killed from here on, it is made again. A failure or Ctrl-C leaves it to the next run to bring up
        # to date, since without a network it could not be made again.
        if [ -e "$STAMP" ]; then mv "$STAMP" "$BUILDING"; fi
        trap 'rm -f "$BUILDING"' EXIT
        trap 'exit 130' INT
        trap 'exit 143' TERM
    else
        find_python
        free=$(df -Pk . | awk 'NR == 2 {print int($4 / 1000000)}')
        [ "${free:-99}" -ge 8 ] || say "warning: $free GB of disk are free here, the packages take about 6 GB"
        say "making .venv with Python $VERSION ($PY)"
        mkdir -p "$VENV"
        : >"$BUILDING"
        make_venv
    fi
    say "installing the packages of requirements.lock (about 6 GB, minutes at first)"
    install -r requirements.lock || die "the packages could not be installed (see above): check the network and start again; make clean-env starts from nothing"
    if [ -f requirements-no-deps.lock ]; then
        install --no-deps -r requirements-no-deps.lock || die "the packages of requirements-no-deps.lock could not be installed (see above)"
    fi
    # --no-build-isolation: setuptools is in the lock, so nothing more is fetched.
    install --no-deps --no-build-isolation -e . || die "the project itself could not be installed (see above)"
    for plugin in plugins/*/; do
        if [ -f "$plugin/pyproject.toml" ]; then
            install --no-deps --no-build-isolation -e "$plugin" || die "$plugin could not be installed (see above)"
        fi
    done
    wanted >"$STAMP.new"
    mv "$STAMP.new" "$STAMP"
    rm -f "$BUILDING"
    "$VENV/bin/python" -c 'import ctypes; ctypes.CDLL("libEGL.so.1")' 2>/dev/null ||
        say "warning: no libEGL.so.1, which drawing the simulation needs: apt-get install -y --no-install-recommends libegl1 libgl1-mesa-dri"
    say "ready"
}

if [ "${1:-}" = "--find-python" ]; then
    find_uv
    find_python
    printf '%s %s\n' "$VERSION" "$PY"
    exit 0
fi
ready && exit 0
# One at a time, e.g. under `make -j`; the lock goes with the process, however it ends.
if command -v flock >/dev/null 2>&1; then
    exec 9<"$ROOT/tools/bootstrap.sh"
    flock 9
    ready && exit 0
fi
build
