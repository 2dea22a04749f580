"""The OCI image as it is given away: made twice, unpacked by another program, and run."""

import json
import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
UMOCI = os.environ.get("HEARTH_E2E_UMOCI", "umoci")
# Debian's packages are downloaded the first time.
pytestmark = pytest.mark.timeout(1800)


def image(file: Path) -> str:
    done = subprocess.run([ROOT / "scripts/oci-image", file], stdout=subprocess.PIPE, text=True)
    assert done.returncode == 0
    return done.stdout.strip()


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    """The root file system, and how a container of it is to run. umoci checks every digest."""
    work = tmp_path_factory.mktemp("image")
    file = work / "hearth.oci.tar"
    digest = image(file)
    layout = work / "layout"
    layout.mkdir()
    subprocess.run(["tar", "-xf", file, "-C", layout], check=True)
    [entry] = json.loads((layout / "index.json").read_text())["manifests"]
    assert entry["digest"] == digest
    tag = entry["annotations"]["org.opencontainers.image.ref.name"]
    bundle = work / "bundle"
    subprocess.run([UMOCI, "unpack", "--image", f"{layout}:{tag}", bundle], check=True)
    yield bundle / "rootfs", json.loads((bundle / "config.json").read_text())
    subprocess.run(["rm", "-rf", "--one-file-system", bundle, layout, file], check=True)


def inside(root: Path, *command: str) -> subprocess.CompletedProcess:
    """Runs a command with the image as its root, as an engine mounts it: in namespaces of its
    own, with the kernel's file systems."""
    mounts = " && ".join([
        f"mount --bind {root} {root}",
        f"mount -t proc proc {root}/proc",
        f"mount --rbind /sys {root}/sys",
        f"mount --rbind /dev {root}/dev",
        f"mount -t tmpfs tmpfs {root}/run",
        f'exec chroot {root} "$@"',
    ])  # fmt: skip
    isolated = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "bash", "-c", mounts, "--"]
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"}
    return subprocess.run([*isolated, *command], env=environment, capture_output=True, text=True, timeout=300)


def test_the_program_runs_in_it(unpacked):
    root, config = unpacked
    assert config["process"]["args"] == ["/usr/bin/hearth", "up"]
    done = inside(root, "/usr/bin/hearth", "--version")
    assert (done.returncode, done.stdout.split()[0]) == (0, "hearth"), done.stderr
    checked = inside(root, "/usr/bin/hearth", "config", "check", "/etc/hearth/hearth.toml")
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_it_has_what_hearth_starts(unpacked):
    root, _ = unpacked
    done = inside(root, "/usr/bin/hearth", "doctor", "--json")
    found = json.loads(done.stdout)
    checks = found["checks"] if isinstance(found, dict) else found
    assert len(checks) > 5
    # Not one program is missing; what else is wrong is this machine's.
    assert "apt-get install" not in done.stdout, done.stdout
    for program in ("qemu-system-x86_64", "nft", "ip", "mmdebstrap", "mke2fs", "zstd", "xz", "modprobe"):
        assert inside(root, "sh", "-c", f"command -v {program}").returncode == 0, program


def test_nothing_of_this_machine_is_in_it(unpacked):
    root, _ = unpacked
    assert (root / "etc/hostname").read_text() == "hearth\n"
    assert not (root / "etc/resolv.conf").exists()
    identity = root / "etc/machine-id"
    assert not identity.exists() or identity.read_text() in ("", "uninitialized\n")
    assert not (root / "etc/apt/apt.conf.d/99mmdebstrap").exists()
    assert list((root / "var/lib/hearth").iterdir()) == []
    sources = "".join(path.read_text() for path in (root / "etc/apt").glob("sources.list*") if path.is_file())
    assert {line.split()[1] for line in sources.splitlines() if line.startswith("deb ")} == {
        "http://deb.debian.org/debian",
        "http://deb.debian.org/debian-security",
    }


def test_the_same_input_gives_the_same_digest(tmp_path):
    assert image(tmp_path / "one.tar") == image(tmp_path / "two.tar")
