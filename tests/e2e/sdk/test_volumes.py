"""Volumes through the published SDK: their content from outside, and in sandboxes.

An SDK that has no volumes skips all of it, and the count of skipped tests says so.
"""

import asyncio
import io
import json
import os
import uuid

import pytest

e2b = pytest.importorskip("e2b")
if not hasattr(e2b, "Volume"):
    pytest.skip("this SDK has no volumes", allow_module_level=True)

from e2b import AsyncSandbox, AsyncVolume, Sandbox, SandboxException, Volume  # noqa: E402
from e2b.exceptions import (  # noqa: E402
    AuthenticationException,
    VolumeException,
    VolumeNotFoundException,
    VolumePathNotFoundException,
)

from support.waiting import until  # noqa: E402


@pytest.fixture
def volume(hearth):
    made = Volume.create(f"v-{uuid.uuid4().hex}")
    yield made
    Volume.destroy(made.volume_id)


def kind(entry):
    return str(getattr(entry.type, "value", entry.type))


def test_volumes_are_made_found_listed_and_destroyed(hearth):
    name = f"v-{uuid.uuid4().hex}"
    made = Volume.create(name)
    assert (made.name, len(made.volume_id)) == (name, 36)
    assert made.token.count(".") == 2
    with pytest.raises(VolumeException, match=f"'{name}' already exists"):
        Volume.create(name)
    with pytest.raises(VolumeException, match="Invalid volume name"):
        Volume.create("no such name")
    assert made.volume_id in {found.volume_id for found in Volume.list()}
    found = Volume.connect(made.volume_id)
    assert found.name == name
    found.write_file("/file", "by the fresh token")
    assert made.read_file("/file") == "by the fresh token"

    assert Volume.destroy(made.volume_id) is True
    assert Volume.destroy(made.volume_id) is False
    with pytest.raises(VolumeNotFoundException):
        Volume.get_info(made.volume_id)
    with pytest.raises(VolumePathNotFoundException):
        made.read_file("/file")
    data = hearth.state_dir / "volumes" / made.volume_id
    until(lambda: not data.exists(), "the data is deleted")


def test_files_are_written_read_and_removed(volume):
    entry = volume.write_file("/hello.txt", "hello", mode=0o640, uid=1000, gid=1001)
    assert (entry.name, kind(entry), entry.path) == ("hello.txt", "file", "/hello.txt")
    assert (entry.size, entry.mode, entry.uid, entry.gid) == (5, 0o640, 1000, 1001)
    assert volume.read_file("/hello.txt") == "hello"
    assert volume.read_file("/hello.txt", format="bytes") == b"hello"
    assert volume.exists("/hello.txt") and not volume.exists("/none")
    with pytest.raises(VolumeException, match="exists"):
        volume.write_file("/hello.txt", "again")
    volume.write_file("/hello.txt", "again", force=True)
    assert volume.read_file("/hello.txt") == "again"
    with pytest.raises(VolumePathNotFoundException):
        volume.write_file("/some/dir/file", "x")
    deep = volume.write_file("/some/dir/file", "x", force=True)
    assert (deep.uid, deep.mode) == (9090, 0o666)
    changed = volume.update_metadata("/some/dir/file", uid=5, mode=0o600)
    assert (changed.uid, changed.gid, changed.mode) == (5, 9090, 0o600)
    volume.remove("/some")
    with pytest.raises(VolumePathNotFoundException):
        volume.read_file("/some/dir/file")
    with pytest.raises(VolumePathNotFoundException):
        volume.remove("/some")


def test_directories_are_made_and_listed(volume):
    made = volume.make_dir("/a")
    assert (kind(made), made.mode, made.path) == ("directory", 0o777, "/a")
    with pytest.raises(VolumeException, match="exists"):
        volume.make_dir("/a")
    volume.make_dir("/a/b/c", force=True)
    volume.write_file("/a/file", b"\x00\xff")
    assert [entry.path for entry in volume.list("/")] == ["/a"]
    deep = [entry.path for entry in volume.list("/", depth=3)]
    assert deep == ["/a", "/a/b", "/a/b/c", "/a/file"]
    with pytest.raises(VolumePathNotFoundException):
        volume.list("/none")
    with pytest.raises(VolumeException, match="depth"):
        volume.list("/", depth=11)


def test_large_files_are_streamed(volume):
    data = os.urandom(1 << 20) * 24
    entry = volume.write_file("/large", io.BytesIO(data))
    assert entry.size == len(data)
    assert b"".join(volume.read_file("/large", format="stream")) == data
    assert volume.write_file("/empty", b"").size == 0
    assert volume.read_file("/empty", format="bytes") == b""


def test_a_token_opens_no_other_volume(volume):
    other = Volume.create(f"v-{uuid.uuid4().hex}")
    try:
        wrong = Volume(volume.volume_id, volume.name, token=other.token, domain=volume._domain)
        with pytest.raises((AuthenticationException, VolumeException)):
            wrong.write_file("/file", "x")
        assert volume.list("/") == []
    finally:
        Volume.destroy(other.volume_id)


async def test_the_asynchronous_half(hearth):
    made = await AsyncVolume.create(f"v-{uuid.uuid4().hex}")
    try:
        names = [f"/dir/{index}" for index in range(20)]
        await asyncio.gather(
            *(made.write_file(name, name * 1000, force=True) for name in names)
        )
        read = await asyncio.gather(*(made.read_file(name) for name in names))
        assert read == [name * 1000 for name in names]
        assert len(await made.list("/dir")) == 20
        stream = await made.read_file("/dir/7", format="stream")
        assert b"".join([chunk async for chunk in stream]) == b"/dir/7" * 1000
        await made.remove("/dir")
        assert not await made.exists("/dir")
        assert made.volume_id in {found.volume_id for found in await AsyncVolume.list()}
    finally:
        assert await AsyncVolume.destroy(made.volume_id)
    assert not await AsyncVolume.destroy(made.volume_id)


def test_sandboxes_share_a_volume_with_whoever_holds_it(volume, create):
    """Written from outside, read and changed in one sandbox, seen in the next."""
    volume.write_file("/from-outside", "one", mode=0o666)
    first = create(timeout=600, volume_mounts={"/mnt/data": volume})
    assert first.commands.run("cat /mnt/data/from-outside").stdout == "one"
    first.commands.run("mkdir /mnt/data/dir && echo two >/mnt/data/dir/from-guest && sync")
    assert volume.read_file("/dir/from-guest") == "two\n"
    # By its name, and elsewhere.
    second = create(timeout=600, volume_mounts={"/srv/v": volume.name})
    assert second.commands.run("cat /srv/v/dir/from-guest").stdout == "two\n"
    info = second.get_info()
    assert [(mount["name"], mount["path"]) for mount in info.volume_mounts] == [
        (volume.name, "/srv/v")
    ]
    # What a guest leaves there is never opened or followed.
    second.commands.run(
        "cd /srv/v && ln -s /etc/passwd link && ln -s ../../../../../.. up && mkfifo fifo"
    )
    assert kind(volume.get_info("/link")) == "symlink"
    assert kind(volume.get_info("/fifo")) == "unknown"
    for path in ["/link", "/fifo", "/up/etc/passwd"]:
        with pytest.raises(VolumeException):
            volume.read_file(path)


def test_a_sandbox_mounts_its_volumes_again_when_it_is_resumed(volume, create):
    sandbox = create(timeout=600, volume_mounts={"/mnt/data": volume})
    sandbox.commands.run("echo kept >/mnt/data/file && sync")
    sandbox.pause()
    volume.write_file("/meanwhile", "new", mode=0o666)
    sandbox = Sandbox.connect(sandbox.sandbox_id, timeout=600)
    out = sandbox.commands.run("cat /mnt/data/file /mnt/data/meanwhile").stdout
    assert out == "kept\nnew"


def test_a_wrong_mount_is_refused_with_what_is_wrong(volume, hearth):
    with pytest.raises(SandboxException) as raised:
        Sandbox.create(volume_mounts={"relative": volume, "/a/../b": volume, "/c": "none"})
    text = str(raised.value)
    assert "invalid mounts:" in text
    for reason in [
        "volume mount #0: path must be absolute",
        "volume mount #1: path must not contain any '.' or '..' components",
        "volume mount #2: volume 'none' not found",
    ]:
        assert reason in text


async def test_an_asynchronous_sandbox_mounts_a_volume(volume):
    sandbox = await AsyncSandbox.create(timeout=600, volume_mounts={"/mnt/data": volume.name})
    try:
        await sandbox.commands.run("echo async >/mnt/data/file && sync")
        assert volume.read_file("/file") == "async\n"
    finally:
        await sandbox.kill()


def test_the_command_line_makes_copies_counts_and_removes(hearth):
    name = f"v-{uuid.uuid4().hex}"
    made = hearth.run("volume", "create", name).stdout.strip()
    Volume.connect(made).write_file("/file", b"x" * 100_000)
    copy = hearth.run("volume", "cp", name, f"{name}-copy").stdout.strip()
    assert Volume.connect(copy).read_file("/file", format="bytes") == b"x" * 100_000
    listed = hearth.run("volume", "ls").stdout
    assert name in listed and f"{name}-copy" in listed
    [held] = json.loads(hearth.run("volume", "du", copy, "--json").stdout)
    assert (held["name"], held["entries"]) == (f"{name}-copy", 1)
    assert held["bytes"] >= 100_000
    again = hearth.run("volume", "create", name, check=False)
    assert again.returncode != 0 and "already exists" in again.stderr
    assert hearth.run("volume", "rm", made, f"{name}-copy").returncode == 0
    gone = hearth.run("volume", "rm", name, check=False)
    assert gone.returncode != 0 and "there is no volume" in gone.stderr
    assert name not in hearth.run("volume", "ls").stdout
