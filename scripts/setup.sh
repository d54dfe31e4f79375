#!/bin/sh
# Makes .venv ready and says nothing when it is: `sh scripts/setup.sh run` for ditq itself, `... test` for its tests too.
# Needs Python 3.10 or newer (another one than python3: PYTHON=/path/to/python), or uv, which is used when it is there.
set -eu
cd "$(dirname "$0")/.."
what=${1:-run}
venv=.venv
python=$venv/bin/python
torch=torch==2.13.0
diffusionkit=diffusionkit==0.5.2
now=$(cat pyproject.toml scripts/setup.sh | cksum)

say() { printf '%s\n' "$*" >&2; }

have() { command -v "$1" >/dev/null 2>&1; }

is_root_with_apt() { [ "$(id -u)" = 0 ] && have apt-get; }

apt_install() {
    apt-get update -qq >/dev/null </dev/null &&
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$@" >/dev/null </dev/null
}

# True when the last set-up was of these very files, and what it installed is still there.
is_ready() {
    [ "$(cat "$venv/.ditq-$what" 2>/dev/null)" = "$now" ] || return 1
    [ "$what" = test ] && modules="mlx diffusionkit torch pytest" || modules="mlx diffusionkit"
    # shellcheck disable=SC2086
    "$python" -c 'import sys; from importlib.util import find_spec; sys.exit(not all(map(find_spec, sys.argv[1:])))' $modules
}

# Prints the first interpreter that is new enough.
find_python() {
    # shellcheck disable=SC2086
    for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11 python3.10 python}; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1; then
            echo "$candidate"
            return
        fi
    done
    return 1
}

make_venv() {
    found=$(find_python) || found=
    if have uv && [ -z "${PYTHON:-}" ]; then
        uv venv --quiet --seed --clear --python "${found:->=3.10}" $venv
    elif [ -z "$found" ]; then
        say "ditq needs Python 3.10 or newer; ${PYTHON:-python3} is not. Install it from https://www.python.org/downloads/, or name it: PYTHON=/path/to/python3.12"
        exit 1
    elif ! "$found" -m venv --clear $venv; then
        # Debian and Ubuntu keep the module that fills a new environment in a package of its own.
        package=$("$found" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
        if is_root_with_apt && apt_install "$package"; then
            "$found" -m venv --clear $venv
        else
            say "$found cannot create an environment. On Debian and Ubuntu: sudo apt-get install $package"
            exit 1
        fi
    fi
}

pip() { "$python" -m pip --disable-pip-version-check "$@"; }

install() {
    if have uv; then
        uv pip install --quiet --python $python "$@"
    else
        pip install --quiet --no-warn-conflicts "$@"
    fi
}

# By pip even where uv is: pip's settings (PIP_EXTRA_INDEX_URL, PIP_FIND_LINKS) may know of a small build for the CPU.
install_torch() {
    pip --version >/dev/null 2>&1 || "$python" -m ensurepip >/dev/null
    pip install --quiet --no-warn-conflicts $torch
}

# MLX's Linux wheels have a slow BLAS; ditq runs without a fast one, and says so.
install_openblas() {
    [ "$(uname)" = Linux ] || return 0
    "$python" -c 'import ctypes; ctypes.CDLL("libopenblas.so.0")' 2>/dev/null && return 0
    is_root_with_apt && apt_install libopenblas0-pthread && return 0
    say "For matrix products about 35 times faster: sudo apt-get install libopenblas0-pthread"
}

case $what in run | test) ;; *) say "usage: sh scripts/setup.sh run|test" && exit 2 ;; esac
[ -x $python ] && is_ready && exit 0
say "Setting up $venv (the first time takes minutes) ..."
"$python" -c '' 2>/dev/null || make_venv
if [ "$what" = test ]; then
    install_torch
    install --editable '.[test]'
else
    install --editable .
fi
install --no-deps $diffusionkit
install_openblas
[ "$what" = test ] && echo "$now" >$venv/.ditq-run
echo "$now" >"$venv/.ditq-$what"
