"""Where the machine or the team has no room left."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from e2b import CommandExitException, RateLimitException, Sandbox
from e2b.exceptions import ServiceBusyException

from support.daemon import running
from support.waiting import until

MIB = 1024 * 1024


def test_too_many_sandboxes_of_a_team():
    with running(config={"limits": {"concurrent_sandboxes": 2}}) as hearth:
        first, _ = Sandbox.create(), Sandbox.create()
        with hearth.client() as api:
            refused = api.post("/v2/sandboxes", json={"templateID": "base"})
        assert refused.status_code == 429
        body = refused.json()
        assert body["code"] == 429
        assert body["message"].startswith(
            "you have reached the maximum number of concurrent E2B sandboxes (2)."
        )
        with pytest.raises(RateLimitException):
            Sandbox.create()
        assert len(hearth.listed()) == 2
        first.kill()
        assert Sandbox.create().commands.run("echo room").stdout == "room\n"


def test_slots_exhausted():
    with running(config={"network": {"pool_size": 1, "max_slots": 2}}) as hearth:
        first, second = Sandbox.create(), Sandbox.create()
        with hearth.client() as api:
            refused = api.post("/v2/sandboxes", json={"templateID": "base"})
        assert refused.status_code == 503
        body = refused.json()
        assert body["code"] == 503
        assert body["error_code"] == "sandbox_capacity_unavailable"
        assert body["message"].startswith("Failed to place sandbox")
        with pytest.raises(ServiceBusyException):
            Sandbox.create()
        # The refusals took nothing away.
        assert hearth.listed() == {first.sandbox_id, second.sandbox_id}
        assert second.commands.run("echo fine").stdout == "fine\n"
        first.kill()
        third = until(lambda: create_or_none(), "a slot to be free again")
        assert third.commands.run("echo room").stdout == "room\n"


def create_or_none():
    try:
        return Sandbox.create()
    except ServiceBusyException:
        return None


@pytest.fixture
def small_disk():
    """A file system of its own for the state, of six gigabytes."""
    home = Path(tempfile.mkdtemp(prefix="hearth-e2e-disk-", dir="/tmp"))
    image, mount = home / "disk.img", home / "mount"
    mount.mkdir()
    with open(image, "wb") as file:
        file.truncate(6 * 1024 * MIB)
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-m", "0", str(image)], check=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(mount)], check=True)
    yield mount
    subprocess.run(["umount", str(mount)], check=True)
    shutil.rmtree(home)


def free_bytes(path: Path) -> int:
    stat = os.statvfs(path)
    return stat.f_bavail * stat.f_frsize


def fill(mount: Path, leave: int) -> Path:
    """Takes the space away, but for `leave` bytes."""
    ballast = mount / "ballast"
    with open(ballast, "wb") as file:
        os.posix_fallocate(file.fileno(), 0, free_bytes(mount) - leave)
    return ballast


def test_disk_full(small_disk):
    state = small_disk / "state"
    config = {"node": {"disk_reserve_mib": 64}}
    with running(config=config, state_dir=state) as hearth:
        survivor = Sandbox.create(timeout=600)
        survivor.files.write("/home/user/before", "written before")
        ballast = fill(small_disk, leave=16 * MIB)

        # A new sandbox is refused in words, and leaves nothing.
        with hearth.client() as api:
            refused = api.post("/v2/sandboxes", json={"templateID": "base"})
        assert refused.status_code == 503, refused.text
        body = refused.json()
        assert body["code"] == 503
        assert body["error_code"] == "sandbox_capacity_unavailable"
        assert hearth.listed() == {survivor.sandbox_id}

        # A running one sees a failing disk, not a wrong one, and the daemon goes on.
        with pytest.raises(CommandExitException) as flooded:
            survivor.commands.run("dd if=/dev/zero of=/home/user/flood bs=1M count=100 conv=fsync")
        assert "Input/output error" in flooded.value.stderr
        assert hearth.process.poll() is None
        assert survivor.sandbox_id in hearth.listed()
        with hearth.client() as api:
            assert api.get("/v2/sandboxes").status_code == 200

        # With room again everything works, also after a new start.
        ballast.unlink()
        fresh = Sandbox.create(timeout=600)
        fresh.files.write("/home/user/after", "written after")
        hearth.kill()
        hearth.start()
        again = Sandbox.connect(fresh.sandbox_id)
        assert again.files.read("/home/user/after") == "written after"
        assert Sandbox.create().commands.run("python3 -c 'print(42)'").stdout == "42\n"
