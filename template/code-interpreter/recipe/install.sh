#!/bin/sh
# Turns the tree of `base` into the code interpreter's. Runs on the host, as root:
#   install.sh TREE KIT VARIANT
# KIT holds the server, the kernels and the lists of packages. pip runs in the
# tree with the host's settings, npm on the host; both leave their settings behind
# nowhere in the tree.
set -eu
root=$1 kit=$2 variant=$3
case $root in
/?*) [ -x "$root/usr/bin/dpkg" ] && [ ! "$root" -ef / ] ;;
*) false ;;
esac || {
    echo "not a distribution tree: $root" >&2
    exit 1
}
library=/usr/local/lib/hearth/code-interpreter
kernels=/usr/local/share/jupyter/kernels
requirements=requirements.txt
[ "$variant" = full ] || requirements=requirements-small.txt

# What pip on the host would read, and the certificates that the host trusts.
inside=/var/tmp/hearth-build
build=$root$inside
trap 'rm -rf "$build"' EXIT
mkdir -p "$build/global/pip" "$build/home/.pip" "$build/user/pip" "$build/kit"
cp "$kit"/requirements*.txt "$build/kit/"
host_home=${HOME:-/root}
settings() { [ ! -f "$1" ] || cp "$1" "$2"; }
settings /etc/pip.conf "$build/global/pip/pip.conf"
settings "$host_home/.pip/pip.conf" "$build/home/.pip/pip.conf"
settings "${XDG_CONFIG_HOME:-$host_home/.config}/pip/pip.conf" "$build/user/pip/pip.conf"
settings "$host_home/.netrc" "$build/home/.netrc"
extra=
if [ -n "${PIP_CONFIG_FILE:-}" ] && [ -f "$PIP_CONFIG_FILE" ]; then
    cp "$PIP_CONFIG_FILE" "$build/pip.conf"
    extra="PIP_CONFIG_FILE=$inside/pip.conf"
fi
certificates=${PIP_CERT:-/etc/ssl/certs/ca-certificates.crt}
settings "$certificates" "$build/ca.pem"

echo "I: installing Python packages..."
chroot "$root" env $extra \
    HOME="$inside/home" XDG_CONFIG_DIRS="$inside/global" XDG_CONFIG_HOME="$inside/user" \
    PIP_CERT="$inside/ca.pem" REQUESTS_CA_BUNDLE="$inside/ca.pem" \
    SSL_CERT_FILE="$inside/ca.pem" CURL_CA_BUNDLE="$inside/ca.pem" \
    python3 -m pip install --no-cache-dir --break-system-packages --root-user-action=ignore \
    --disable-pip-version-check --no-warn-script-location --prefer-binary --progress-bar off \
    -r "$inside/kit/$requirements"
rm -rf "$build"

echo "I: installing the kernels..."
mkdir -p "$root$library" "$root$kernels"
cp -r "$kit/javascript" "$kit/python" "$root$library/"
npm install --prefix "$root$library/javascript" --omit=dev --ignore-scripts --no-audit \
    --no-fund --no-package-lock --no-update-notifier --loglevel=error
# One platform's binaries of many.
zeromq=$root$library/javascript/node_modules/zeromq
rm -rf "$zeromq/build/darwin" "$zeromq/build/win32" "$zeromq/src" "$zeromq/script" \
    "$root$library/javascript/node_modules/node-addon-api"
find "$zeromq/build" -type d -name '*musl*' -prune -exec rm -rf {} +
find "$zeromq/build/linux" -mindepth 1 -maxdepth 1 ! -name x64 -exec rm -rf {} +

kernel() { # <name> <json>
    mkdir -p "$root$kernels/$1"
    printf '%s\n' "$2" >"$root$kernels/$1/kernel.json"
}
kernel python3 '{
  "argv": ["/usr/bin/python3", "-m", "ipykernel_launcher", "-f", "{connection_file}", "--ext=hearth_kernel",
    "--HistoryManager.enabled=False"],
  "display_name": "Python 3",
  "language": "python",
  "metadata": {"hearth": {"takes_environment": true}},
  "env": {"PYTHONPATH": "'"$library/python"'"}
}'
kernel javascript '{
  "argv": ["/usr/bin/node", "'"$library/javascript/kernel.mjs"'", "{connection_file}"],
  "display_name": "JavaScript and TypeScript",
  "language": "javascript",
  "interrupt_mode": "message"
}'
if [ "$variant" = full ]; then
    kernel bash '{
  "argv": ["/usr/bin/python3", "-m", "bash_kernel", "-f", "{connection_file}"],
  "display_name": "Bash",
  "language": "bash",
  "env": {"PS1": "$"}
}'
    kernel ir '{
  "argv": ["/usr/bin/R", "--slave", "-e", "IRkernel::main()", "--args", "{connection_file}"],
  "display_name": "R",
  "language": "R"
}'
fi

echo "I: installing the server..."
install -m 0755 "$kit/server" "$root/usr/local/bin/hearth-code-interpreter"
install -m 0755 "$kit/start.sh" "$root$library/start"
install -m 0755 "$kit/wait.sh" "$root$library/wait"
mkdir -p "$root/etc/hearth"
install -m 0755 "$kit/rehearse.sh" "$root/etc/hearth/rehearse"
install -o 1000 -g 1000 -m 0644 /dev/null "$root/var/log/code-interpreter.log"

echo "I: preparing the user's caches..."
# Packages that the user installs are found by kernels that run already only when
# this directory was there at their start.
version=$(chroot "$root" python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')
mkdir -p "$root/home/user/.local/lib/python$version/site-packages"
chroot "$root" chown -R user:user /home/user/.local
# Emulated processors compile and look through fonts slowly; do it here.
chroot "$root" python3 -m compileall -q -j 0 "$library/python" "/usr/local/lib/python$version" || true
chroot --userspec=user:user "$root" env HOME=/home/user MPLBACKEND=agg python3 -c '
import matplotlib.font_manager, IPython.core.profiledir, IPython.paths
IPython.core.profiledir.ProfileDir.create_profile_dir_by_name(IPython.paths.get_ipython_dir(), "default")
'
