"""Files and watchers through the published SDK."""

import asyncio
import io
import os
import tempfile

import pytest
from e2b import InvalidArgumentException, NotFoundException
from e2b.sandbox.filesystem.filesystem import FileType
from e2b.sandbox.filesystem.watch_handle import FilesystemEventType


@pytest.fixture
def scratch():
    # Not on a tmpfs, which may not keep metadata.
    with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
        yield directory


def test_every_way_to_write_and_read(sandbox, scratch):
    path = f"{scratch}/deep/er/ä b.txt"
    info = sandbox.files.write(path, "héllo")
    assert (info.name, info.path, info.type) == ("ä b.txt", path, FileType.FILE)
    assert sandbox.files.read(path) == "héllo"
    data = os.urandom(3_000_000)
    sandbox.files.write(path, data)
    assert sandbox.files.read(path, format="bytes") == data
    assert b"".join(sandbox.files.read(path, format="stream")) == data
    sandbox.files.write(path, io.BytesIO(data))
    assert sandbox.files.read(path, format="bytes") == data
    sandbox.files.write(path, data, gzip=True)
    assert sandbox.files.read(path, format="bytes", gzip=True) == data
    sandbox.files.write(path, "")
    assert sandbox.files.read(path) == ""


def test_many_files_at_once(sandbox, scratch):
    entries = [{"path": f"{scratch}/{n}", "data": str(n)} for n in range(100)]
    infos = sandbox.files.write_files(entries)
    assert [info.path for info in infos] == [entry["path"] for entry in entries]
    names = [entry.name for entry in sandbox.files.list(scratch)]
    assert names == sorted(str(n) for n in range(100))
    assert sandbox.files.read(f"{scratch}/42") == "42"


def test_directories(sandbox, scratch):
    assert sandbox.files.make_dir(f"{scratch}/a/b") is True
    assert sandbox.files.make_dir(f"{scratch}/a/b") is False
    sandbox.files.write(f"{scratch}/a/b/f", "x")
    deep = [entry.path for entry in sandbox.files.list(scratch, depth=3)]
    assert deep == [f"{scratch}/a", f"{scratch}/a/b", f"{scratch}/a/b/f"]
    moved = sandbox.files.rename(f"{scratch}/a", f"{scratch}/c")
    assert moved.path == f"{scratch}/c"
    assert sandbox.files.exists(f"{scratch}/c/b/f") and not sandbox.files.exists(f"{scratch}/a")
    sandbox.files.remove(f"{scratch}/c")
    assert sandbox.files.list(scratch) == []


def test_descriptions(sandbox, scratch):
    sandbox.files.write(f"{scratch}/f", "abc", metadata={"author": "me"})
    os.chmod(f"{scratch}/f", 0o640)
    os.symlink("f", f"{scratch}/l")
    info = sandbox.files.get_info(f"{scratch}/f")
    assert (info.size, info.mode, info.permissions) == (3, 0o640, "-rw-r-----")
    assert info.metadata == {"author": "me"}
    link = sandbox.files.get_info(f"{scratch}/l")
    assert link.symlink_target == os.path.realpath(f"{scratch}/f")


def test_names_that_are_not_utf8(sandbox, scratch):
    os.mkdir(os.fsencode(scratch) + b"/caf\xe9")
    sandbox.files.write(f"{scratch}/caf\\xe9/f", "inside")
    assert os.listdir(os.fsencode(scratch) + b"/caf\xe9") == [b"f"]
    [entry] = sandbox.files.list(scratch)
    assert (entry.name, entry.path) == ("caf\\xe9", f"{scratch}/caf\\xe9")
    assert sandbox.files.read(f"{entry.path}/f") == "inside"
    assert sandbox.commands.run("ls", cwd=entry.path).stdout == "f\n"
    sandbox.files.rename(entry.path, f"{scratch}/cafe")
    assert os.listdir(scratch) == ["cafe"]


def test_errors(sandbox, scratch):
    with pytest.raises(NotFoundException):
        sandbox.files.read(f"{scratch}/nothing")
    with pytest.raises(InvalidArgumentException):
        sandbox.files.read(scratch)
    with pytest.raises(NotFoundException):
        sandbox.files.rename(f"{scratch}/nothing", f"{scratch}/x")
    with pytest.raises(NotFoundException):
        sandbox.files.list(f"{scratch}/nothing")
    with pytest.raises(NotFoundException):
        sandbox.files.watch_dir(f"{scratch}/nothing")


def test_polled_watcher_tells_what_has_happened(sandbox, scratch):
    handle = sandbox.files.watch_dir(scratch, recursive=True)
    sandbox.files.write(f"{scratch}/f", "x")
    events = [(event.type, event.name) for event in handle.get_new_events()]
    assert events == [
        (FilesystemEventType.CREATE, "f"),
        (FilesystemEventType.CHMOD, "f"),
        (FilesystemEventType.WRITE, "f"),
    ]
    sandbox.files.make_dir(f"{scratch}/nested")
    sandbox.files.write(f"{scratch}/nested/g", "x")
    sandbox.files.rename(f"{scratch}/f", f"{scratch}/h")
    sandbox.files.remove(f"{scratch}/h")
    events = [(event.type, event.name) for event in handle.get_new_events()]
    for expected in [
        (FilesystemEventType.CREATE, "nested/g"),
        (FilesystemEventType.RENAME, "f"),
        (FilesystemEventType.CREATE, "h"),
        (FilesystemEventType.REMOVE, "h"),
    ]:
        assert expected in events
    handle.stop()


def test_streamed_watcher(async_sandbox, scratch):
    async def run():
        sandbox = await async_sandbox()
        events = asyncio.Queue()
        handle = await sandbox.files.watch_dir(scratch, on_event=events.put)
        await sandbox.files.write(f"{scratch}/f", "x")
        event = await asyncio.wait_for(events.get(), 30)
        assert (event.type, event.name) == (FilesystemEventType.CREATE, "f")
        await handle.stop()

    asyncio.run(run())
