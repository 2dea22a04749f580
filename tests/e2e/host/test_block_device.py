"""A build's disk as a block device, where the kernel has such devices: in a microVM, with
the module that belongs to its kernel, as many hosts' kernels lack it."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from e2b import CommandExitException, Sandbox

from support.daemon import binary
from support.waiting import until

BUILD = "6f3f1d1e-6d0a-4d52-9f0c-0f7a8f1f2b11"
DISK_MIB = 16
LOAD = """
import ctypes, os
module = os.open("/root/nbd.ko", os.O_RDONLY)
libc = ctypes.CDLL(None, use_errno=True)
finit_module = 313
if libc.syscall(finit_module, module, b"", 0):
    raise OSError(ctypes.get_errno(), "finit_module")
"""


def disk(tmp_path) -> bytes:
    """A file system with the smallest blocks, and one file."""
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "marker").write_text("from the build\n")
    image = tmp_path / "disk.ext4"
    subprocess.run(
        ["mke2fs", "-q", "-t", "ext4", "-b", "1024", "-d", tree, image, f"{DISK_MIB}M"], check=True
    )
    return image.read_bytes()


def manifest(hearth) -> str:
    """The base template's, cut down to a small disk."""
    base = json.loads(hearth.run("template", "show", "base").stdout)
    template = json.loads(hearth.run("snapshot", "show", base["buildID"]).stdout)
    shape = {**template["shape"], "disk_mib": DISK_MIB}
    rootfs = next(file for file in template["files"] if file["role"] == "rootfs")
    files = [{**rootfs, "size_bytes": DISK_MIB << 20}]
    layers = {"format": 2, "build_id": BUILD, "shape": shape, "files": files}
    return json.dumps({**template, **layers})


def test_a_builds_disk_is_mounted_from_a_block_device(module_hearth, tmp_path):
    hearth = module_hearth
    image = disk(tmp_path)
    with Sandbox.create(timeout=600) as sandbox:
        def root(command: str, **options):
            return sandbox.commands.run(command, user="root", **options)

        place = f"/var/lib/hearth/builds/{BUILD}"
        module = Path(os.environ["HEARTH_E2E_NBD_MODULE"])
        sandbox.files.write("/root/nbd.ko", module.read_bytes(), user="root")
        sandbox.files.write("/usr/local/bin/hearth", binary().read_bytes(), user="root")
        sandbox.files.write(f"{place}/rootfs.ext4", image, user="root")
        sandbox.files.write(f"{place}/manifest.json", manifest(hearth), user="root")
        sandbox.files.write("/root/load.py", LOAD, user="root")
        root("chmod 755 /usr/local/bin/hearth")

        serve = f"hearth snapshot serve {BUILD} --device"
        with pytest.raises(CommandExitException) as refused:
            root(serve)
        assert "modprobe nbd" in refused.value.stderr

        root("python3 /root/load.py")
        served = root(serve, background=True)
        until(lambda: root("cat /sys/block/nbd0/size").stdout.strip() != "0", "the device")
        with pytest.raises(CommandExitException) as busy:
            root(f"{serve} /dev/nbd0")
        assert "in use" in busy.value.stderr, busy.value.stderr
        root(f"cmp /dev/nbd0 {place}/rootfs.ext4")
        root("mount -o ro,noload /dev/nbd0 /mnt")
        assert root("cat /mnt/marker").stdout == "from the build\n"
        with pytest.raises(CommandExitException):
            root("dd if=/dev/zero of=/dev/nbd0 bs=4096 count=1 conv=fsync")
        root(f"cmp /dev/nbd0 {place}/rootfs.ext4")

        # It is given back when nobody has it mounted any more, not before.
        root(f"kill -INT {served.pid}")
        assert root("sleep 1; cat /mnt/marker").stdout == "from the build\n"
        root("umount /mnt")
        assert served.wait().exit_code == 0
        assert root("cat /sys/block/nbd0/size").stdout.strip() == "0"

        # Whoever serves may die: the device goes with it, and is there for the next.
        served = root(serve, background=True)
        until(lambda: root("cat /sys/block/nbd0/size").stdout.strip() != "0", "the device again")
        root(f"kill -KILL {served.pid}")
        until(lambda: root("cat /sys/block/nbd0/size").stdout.strip() == "0", "the device to go")
        served = root(serve, background=True)
        until(lambda: root("cat /sys/block/nbd0/size").stdout.strip() != "0", "the next")
        root(f"cmp /dev/nbd0 {place}/rootfs.ext4")


def test_a_builds_disk_is_read_by_nbd_clients(module_hearth, tmp_path):
    hearth = module_hearth
    with Sandbox.create(timeout=600) as sandbox:
        sandbox.files.write("/home/user/file", "in a layer")
        sandbox.commands.run("sync", user="root")
        build = sandbox.create_snapshot("served").snapshot_id.split(":")[0]
        build = json.loads(hearth.run("template", "show", build).stdout)["buildID"]
    socket = tmp_path / "disk.sock"
    uri = f"nbd+unix:///disk?socket={socket}"
    command = hearth.command("snapshot", "serve", build, "--socket", str(socket))

    for signal in ("KILL", "INT"):
        # The second finds the socket that the first left when it was killed.
        served = subprocess.Popen(command, env=hearth.environment, stdout=subprocess.PIPE)
        try:
            assert uri in served.stdout.readline().decode()
            copy = tmp_path / f"{signal}.img"
            subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "raw", uri, copy], check=True)
            read = ["debugfs", "-R", "cat /home/user/file", copy]
            assert subprocess.run(read, check=True, capture_output=True).stdout == b"in a layer"
            again = hearth.run("snapshot", "serve", build, "--socket", str(socket), check=False)
            assert again.returncode != 0 and "exists already" in again.stderr
        finally:
            subprocess.run(["kill", f"-{signal}", str(served.pid)], check=True)
            status = served.wait(30)
        assert socket.exists() is (signal == "KILL")
    assert status == 0

    mine = tmp_path / "mine"
    mine.write_text("mine")
    for arguments, said in [
        ((build,), "required"),
        ((build, "--socket", str(mine)), "exists already"),
        (("00000000-0000-4000-8000-000000000000", "--socket", str(socket)), "00000000"),
    ]:
        done = hearth.run("snapshot", "serve", *arguments, check=False)
        assert done.returncode != 0 and said in done.stderr, done
    assert mine.read_text() == "mine"
