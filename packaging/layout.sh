# Where llamad's files go; shared by build-deb and install (sourced, POSIX sh).

# copy_package CHECKOUT DIRECTORY: the Python package, without what the tests left in it.
copy_package() {
    mkdir -p "$2"
    (cd "$1" && find llamad -type f \( -name '*.py' -o -name py.typed \) -print) | LC_ALL=C sort | while read -r file; do
        install -D -m 644 "$1/$file" "$2/$file"
    done
}

# copy_systemd CHECKOUT UNITS SYSUSERS TMPFILES LLAMAD: unit files that call the program LLAMAD (an absolute path).
copy_systemd() {
    install -d "$2" "$3" "$4"
    sed "s|/usr/bin/llamad|$5|" "$1/systemd/llamad.service" >"$2/llamad.service"
    cp "$1/systemd/llamad.socket" "$2/llamad.socket"
    cp "$1/systemd/llamad.sysusers" "$3/llamad.conf"
    cp "$1/systemd/llamad.tmpfiles" "$4/llamad.conf"
    chmod 644 "$2/llamad.service" "$2/llamad.socket" "$3/llamad.conf" "$4/llamad.conf"
}

# copy_manual CHECKOUT SHARE: man pages, completions and examples below a share directory (/usr/share, /usr/local/share).
copy_manual() {
    install -d "$2/man/man8" "$2/man/man5" "$2/doc/llamad/examples"
    gzip -9nc "$1/packaging/man/llamad.8" >"$2/man/man8/llamad.8.gz"
    gzip -9nc "$1/packaging/man/llamad.yaml.5" >"$2/man/man5/llamad.yaml.5.gz"
    install -D -m 644 "$1/packaging/completions/llamad.bash" "$2/bash-completion/completions/llamad"
    install -D -m 644 "$1/packaging/completions/_llamad" "$2/$ZSH_FUNCTIONS/_llamad"
    install -D -m 644 "$1/packaging/completions/llamad.fish" "$2/fish/vendor_completions.d/llamad.fish"
    install -m 644 "$1"/systemd/examples/*.conf "$2/doc/llamad/examples/"
}
ZSH_FUNCTIONS=zsh/vendor-completions  # Debian's name; elsewhere zsh/site-functions
