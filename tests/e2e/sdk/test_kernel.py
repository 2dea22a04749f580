"""What a sandbox's kernel can do: modules that nothing has loaded are there when they
are wanted, by the kernel's own doing or by `modprobe`."""

import os
from pathlib import Path

import pytest

FUSE = Path(__file__).resolve().parents[1] / "support" / "fuse.py"


def run(sandbox, script, **options):
    return sandbox.commands.run(script, user="root", timeout=120, **options).stdout.strip()


def test_nothing_is_loaded_that_nobody_uses(sandbox):
    loaded = run(sandbox, "cut -d' ' -f1 /proc/modules").splitlines()
    assert "virtio_blk" in loaded
    assert not {"fuse", "bridge", "nf_tables", "tun", "xfs"} & set(loaded)


@pytest.mark.parametrize(
    "names",
    [
        "bridge br_netfilter veth vxlan macvlan dummy wireguard",
        "nf_tables nft_compat nft_chain_nat ip_tables iptable_nat xt_MASQUERADE xt_conntrack",
        "fuse xfs squashfs btrfs isofs nfs nfsd cifs overlay",
        "binfmt_misc vsock vmw_vsock_virtio_transport dm_mod nbd",
    ],
)
def test_modules_load(sandbox, names):
    run(sandbox, f"modprobe -a {names}")


def test_a_network_of_bridges_and_translation(sandbox):
    script = """
set -e
ip link add name br9 type bridge && ip link set br9 up && ip addr add 10.99.0.1/24 dev br9
ip netns add inner
ip link add v0 type veth peer name v1 netns inner
ip link set v0 master br9 up
ip -n inner addr add 10.99.0.2/24 dev v1 && ip -n inner link set v1 up
ip -n inner route add default via 10.99.0.1
iptables -t nat -A POSTROUTING -s 10.99.0.0/24 ! -o br9 -j MASQUERADE
iptables -A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
nft list ruleset | grep -c masquerade
ip netns exec inner ping -c 1 -W 10 10.99.0.1 | grep -c "1 received"
"""
    try:
        assert run(sandbox, script) == "1\n1"
    finally:
        run(sandbox, "ip netns del inner; ip link del br9; nft flush ruleset; true")


def test_a_tun_device(sandbox):
    made = "ip tuntap add mode tun name tun9 && ip -br link show tun9 && ip link del tun9"
    assert run(sandbox, made).startswith("tun9")
    assert run(sandbox, "stat -c '%a %F' /dev/net/tun") == "666 character special file"


def test_a_loop_mount(sandbox):
    script = """
set -e
truncate -s 16M /tmp/disk.img && mkfs.ext4 -q /tmp/disk.img && mkdir -p /mnt/loop
mount -o loop /tmp/disk.img /mnt/loop
echo hello > /mnt/loop/file && umount /mnt/loop
mount -o loop,ro /tmp/disk.img /mnt/loop
cat /mnt/loop/file && umount /mnt/loop
"""
    assert run(sandbox, script) == "hello"


def test_a_file_system_in_user_space(sandbox):
    assert run(sandbox, "stat -c '%a %F' /dev/fuse") == "666 character special file"
    sandbox.files.write("/tmp/fuse.py", FUSE.read_text())
    assert run(sandbox, "mkdir -p /mnt/fuse && python3 /tmp/fuse.py /mnt/fuse") == "0o40751"


def test_binary_formats(sandbox):
    """A kernel that knows of no format of ours, until it is told."""
    script = """
set -e
mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc
echo ':ours:E::ours::/bin/cat:' > /proc/sys/fs/binfmt_misc/register
printf hello > /tmp/program.ours && chmod +x /tmp/program.ours && /tmp/program.ours
echo -1 > /proc/sys/fs/binfmt_misc/ours && umount /proc/sys/fs/binfmt_misc
"""
    assert run(sandbox, script) == "hello"


@pytest.mark.skipif(
    not os.environ.get("HEARTH_E2E_DOCKER"),
    reason="installs Docker from the archive in an emulated guest, minutes; set HEARTH_E2E_DOCKER",
)
@pytest.mark.timeout(1500)
def test_docker(hearth):
    from e2b import Sandbox

    dockerfile = "FROM own\nRUN echo built > /made\n"
    compose = "services:\n  one:\n    image: built\n    command: cat /made\n"
    with Sandbox.create(timeout=3000) as box:
        def root(script, seconds=900):
            return box.commands.run(script, user="root", timeout=seconds).stdout

        root("apt-get -q update && DEBIAN_FRONTEND=noninteractive apt-get -q install -y "
             "--no-install-recommends docker.io busybox-static")
        root("DEBIAN_FRONTEND=noninteractive apt-get -q install -y --no-install-recommends "
             "docker-compose || DEBIAN_FRONTEND=noninteractive apt-get -q install -y docker-compose-v2")
        box.commands.run("exec dockerd > /tmp/dockerd.log 2>&1", user="root", background=True, timeout=0)
        root("for n in $(seq 300); do docker info >/dev/null 2>&1 && exit; sleep 1; done; "
             "tail -n 40 /tmp/dockerd.log >&2; exit 1")
        assert "overlay2" in root("docker info --format '{{.Driver}}'")
        root("mkdir -p /srv/root/bin && cp /bin/busybox /srv/root/bin/ && cd /srv/root/bin && "
             "for name in sh cat echo ls wget; do ln -sf busybox $name; done && "
             "tar -C /srv/root -c . | docker import - own")
        assert root("docker run --rm own echo hello") == "hello\n"
        # A network of its own, with a port that is published on the sandbox's.
        root("docker run -d --name web -p 8080:80 own "
             "busybox httpd -f -p 80 -h /bin")
        assert root("curl -sf -o /dev/null -w '%{http_code}' http://localhost:8080/cat") == "200"
        box.files.write("/tmp/build/Dockerfile", dockerfile)
        root("docker build -t built /tmp/build")
        box.files.write("/tmp/compose/docker-compose.yml", compose)
        said = root("cd /tmp/compose && (docker-compose up || docker compose up) 2>&1")
        assert "built" in said, said
