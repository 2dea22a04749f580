# shellcheck shell=sh
# Sourced by the recipes. Runs pip inside a tree with the settings, credentials and
# certificates that pip on the host has, and leaves none of them behind:
#   host_pip TREE ARGUMENTS...
host_pip() {
    pip_root=$1
    shift
    pip_inside=/var/tmp/hearth-pip
    pip_dir=$pip_root$pip_inside
    rm -rf "$pip_dir"
    mkdir -p "$pip_dir/global/pip" "$pip_dir/home/.pip" "$pip_dir/user/pip"
    pip_home=${HOME:-/root}
    pip_copy /etc/pip.conf "$pip_dir/global/pip/pip.conf"
    pip_copy "$pip_home/.pip/pip.conf" "$pip_dir/home/.pip/pip.conf"
    pip_copy "${XDG_CONFIG_HOME:-$pip_home/.config}/pip/pip.conf" "$pip_dir/user/pip/pip.conf"
    pip_copy "$pip_home/.netrc" "$pip_dir/home/.netrc"
    pip_extra=
    if [ -n "${PIP_CONFIG_FILE:-}" ] && [ -f "$PIP_CONFIG_FILE" ]; then
        cp "$PIP_CONFIG_FILE" "$pip_dir/pip.conf"
        pip_extra="PIP_CONFIG_FILE=$pip_inside/pip.conf"
    fi
    pip_copy "${PIP_CERT:-/etc/ssl/certs/ca-certificates.crt}" "$pip_dir/ca.pem"
    pip_status=0
    chroot "$pip_root" env $pip_extra \
        HOME="$pip_inside/home" XDG_CONFIG_DIRS="$pip_inside/global" \
        XDG_CONFIG_HOME="$pip_inside/user" \
        PIP_CERT="$pip_inside/ca.pem" REQUESTS_CA_BUNDLE="$pip_inside/ca.pem" \
        SSL_CERT_FILE="$pip_inside/ca.pem" CURL_CA_BUNDLE="$pip_inside/ca.pem" \
        python3 -m pip --no-cache-dir --disable-pip-version-check "$@" || pip_status=$?
    rm -rf "$pip_dir"
    return "$pip_status"
}

pip_copy() { [ ! -f "$1" ] || cp "$1" "$2"; }
