#!/bin/sh
# Turns a freshly installed distribution tree into the root of the `base`
# template. Runs on the host, as root, with the tree's path as its argument;
# everything it calls inside the tree goes through chroot.
set -eu
root=$1
# What follows deletes by path: never the host's own.
case $root in
/?*) [ -x "$root/usr/bin/dpkg" ] && [ ! "$root" -ef / ] ;;
*) false ;;
esac || {
    echo "not a distribution tree: $root" >&2
    exit 1
}

# The user that sandboxes run as: uid 1000, a home from skel, sudo without a
# password.
if ! grep -q '^user:' "$root/etc/passwd"; then
    chroot "$root" groupadd --gid 1000 user
    chroot "$root" useradd --uid 1000 --gid 1000 --create-home --shell /bin/bash user
fi
printf 'user ALL=(ALL:ALL) NOPASSWD:ALL\n' >"$root/etc/sudoers.d/user"
chmod 0440 "$root/etc/sudoers.d/user"

# A login shell must not fork just to learn who it is: bash knows EUID. Other
# shells go on asking id.
sed -i 's/"\$(id -u)"/"${EUID:-$(id -u)}"/' "$root/etc/profile"
# mesg is for terminals; without one it only costs a process.
sed -i 's/^mesg n .*$/if [ -t 0 ]; then mesg n 2>\/dev\/null || true; fi/' "$root/root/.profile"

printf 'hearth\n' >"$root/etc/hostname"
cat >"$root/etc/hosts" <<'EOF'
127.0.0.1	localhost
127.0.1.1	hearth
::1		localhost ip6-localhost ip6-loopback
EOF
mkdir -p "$root/etc/default"
printf 'LANG=C.UTF-8\n' >"$root/etc/default/locale"

# A sandbox is the isolation: pip may install beside the system's packages. The
# file holds on when an upgrade brings the marker back.
rm -f "$root"/usr/lib/python3*/EXTERNALLY-MANAGED
printf '[global]\nbreak-system-packages = true\n' >"$root/etc/pip.conf"

# Emulated processors compile slowly; do it here.
chroot "$root" python3 -m compileall -q -j 0 /usr/lib/python3 /usr/lib/python3.[0-9]* || true

# Every sandbox gets its own.
: >"$root/etc/machine-id"
rm -f "$root/var/lib/dbus/machine-id" "$root"/etc/ssh/ssh_host_*

# Nothing here is worth its space; apt fetches its lists again. The tree's /tmp
# stays: mmdebstrap keeps the settings there that bind apt to the tree.
rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/* "$root"/var/log/* \
    "$root"/var/cache/debconf/*-old "$root"/var/lib/dpkg/*-old
mkdir -p "$root/var/lib/apt/lists/partial" "$root/var/cache/apt/archives/partial" \
    "$root/var/log/apt"
