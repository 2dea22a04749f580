# shellcheck shell=bash
# Shared by the scripts beside it: where things live, how to say what happens.
# Sourced, never run.
#
# Bash reads a script while it runs it. So that one may be edited meanwhile, each of them
# ends in one line that calls a function, which has been read as a whole, and exits.

set -euo pipefail

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
# The invoking user's cache also under sudo, so that root and user share it.
CACHE="${HEARTH_DEV_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/hearth}"
# Guest kernel, initramfs and templates.
ARTEFACTS="$CACHE/artefacts"
TARGET="${CARGO_TARGET_DIR:-$ROOT/target}"
GUEST_TRIPLE="x86_64-unknown-linux-gnu"
HEARTH_BIN="${HEARTH_BIN:-$TARGET/fast/hearth}"
ENVD_BIN="$TARGET/$GUEST_TRIPLE/guest/envd"
INTERPRETER_BIN="$TARGET/$GUEST_TRIPLE/guest/code-interpreter"
MIN_RUST="1.94"

say() { printf '\033[1m==>\033[0m %s\n' "$*" >&2; }
warn() { printf 'warning: %s\n' "$*" >&2; }
die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}
have() { command -v "$1" >/dev/null 2>&1; }

# True when version $1 is at least version $2.
version_at_least() {
    [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]
}

# Runs a command as root: directly, or through sudo.
as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif have sudo; then
        sudo "$@"
    else
        die "this step needs root, and there is no sudo: run it as root: $*"
    fi
}

# The guest kernel that the tests of single crates boot; empty before scripts/prepare.
guest_kernel() {
    find "${HEARTH_CACHE_DIR:-$ARTEFACTS}" -maxdepth 2 -path '*/kernel-*/vmlinux' -printf '%T@ %p\n' 2>/dev/null |
        sort -n | tail -n 1 | cut -d' ' -f2-
}

# A short key for the content of the named files.
content_key() { cat "$@" | sha256sum | cut -c1-16; }

# Packages of Debian and Ubuntu, with no question asked. Another program may be using
# apt: that is waited for, with a bound.
apt_update() {
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=300 update ||
        warn "apt-get update failed; trying with the lists that are there"
}
apt_install() {
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends \
        -o DPkg::Lock::Timeout=300 "$@"
}

# Rust is usually installed per user and not on the PATH of a bare shell, or behind an
# older one of the distribution.
use_own_cargo() {
    local own="${CARGO_HOME:-$HOME/.cargo}/bin"
    case ":$PATH:" in
    *":$own:"*) ;;
    *) [ ! -x "$own/cargo" ] || PATH="$own:$PATH" ;;
    esac
}
use_own_cargo
# nft, mke2fs and friends live in sbin, which a user's PATH often lacks.
# Each once: scripts start scripts, and cargo runs build scripts anew when PATH changes.
for directory in /usr/local/sbin /usr/sbin /sbin; do
    case ":$PATH:" in
    *":$directory:"*) ;;
    *) PATH="$PATH:$directory" ;;
    esac
done
unset directory
export PATH
