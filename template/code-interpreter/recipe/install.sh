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

# shellcheck source=../../../crates/builder/src/recipe/host-pip.sh
. "$kit/host-pip.sh"
inside=/var/tmp/hearth-build
trap 'rm -rf "$root$inside"' EXIT
mkdir -p "$root$inside"
cp "$kit/$requirements" "$root$inside/requirements.txt"

echo "I: installing Python packages..."
host_pip "$root" install --break-system-packages --root-user-action=ignore \
    --no-warn-script-location --progress-bar off --no-deps \
    --require-hashes --only-binary :all: -r "$inside/requirements.txt"
rm -rf "$root$inside"

echo "I: installing the kernels..."
mkdir -p "$root$library" "$root$kernels"
cp -r "$kit/javascript" "$kit/python" "$root$library/"
npm ci --prefix "$root$library/javascript" --omit=dev --ignore-scripts --no-audit \
    --no-fund --no-update-notifier --loglevel=error
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
  "env": {"PYTHONPATH": "'"$library/python"'", "MATPLOTLIBRC": "'"$library/matplotlibrc"'"}
}'
kernel javascript '{
  "argv": ["/usr/local/bin/node", "'"$library/javascript/kernel.mjs"'", "{connection_file}"],
  "display_name": "JavaScript and TypeScript",
  "language": "javascript",
  "interrupt_mode": "message"
}'
kernel bash '{
  "argv": ["/usr/bin/python3", "-m", "bash_kernel", "-f", "{connection_file}"],
  "display_name": "Bash",
  "language": "bash",
  "env": {"PS1": "$"}
}'
if [ "$variant" = full ]; then
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
install -m 0644 "$kit/matplotlibrc" "$root$library/matplotlibrc"

echo "I: preparing caches..."
version=$(chroot "$root" python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')
# Emulated processors compile and look through fonts slowly; do it here.
chroot "$root" python3 -m compileall -q -j 0 "$library/python" "/usr/local/lib/python$version" || true
caches() { # <user> <home>
    chroot --userspec="$1:$1" "$root" env HOME="$2" MPLBACKEND=agg python3 -c '
import matplotlib.font_manager, IPython.core.profiledir, IPython.paths
IPython.core.profiledir.ProfileDir.create_profile_dir_by_name(IPython.paths.get_ipython_dir(), "default")
'
}
# Kernels are root's; the user's own scripts draw too.
caches root /root
caches user /home/user

# As in `base`, for what has come since.
chmod -R a+rwX "$root/usr/local"
