"""Files, as a user of the SDK handles them."""

import hashlib
import io
import os

import pytest
from e2b import FileType, InvalidArgumentException, NotFoundException
from e2b.sandbox.filesystem.watch_handle import FilesystemEventType

from support.waiting import until

MIB = 1024 * 1024


@pytest.mark.parametrize("text", ["", "hello", "naïve ✓ 🦀\nsecond line\n", "\r\n\t\0end"])
def test_text_comes_back_as_written(sandbox, scratch, text):
    info = sandbox.files.write(f"{scratch}/file.txt", text)
    assert (info.name, info.path) == ("file.txt", f"{scratch}/file.txt")
    assert sandbox.files.read(f"{scratch}/file.txt") == text


def test_bytes_come_back_as_written(sandbox, scratch):
    data = bytes(range(256)) * 100
    sandbox.files.write(f"{scratch}/file.bin", data)
    assert bytes(sandbox.files.read(f"{scratch}/file.bin", format="bytes")) == data


def test_stream_in_and_out(sandbox, scratch):
    data = os.urandom(3 * MIB + 17)
    sandbox.files.write(f"{scratch}/stream", io.BytesIO(data))
    pieces = list(sandbox.files.read(f"{scratch}/stream", format="stream"))
    assert b"".join(pieces) == data


# Compressing is the guest's own work, which emulation makes slow.
@pytest.mark.parametrize(("size", "gzip"), [(64 * MIB, False), (4 * MIB, True)])
def test_big_file_is_whole_in_both_directions(sandbox, scratch, size, gzip):
    data = os.urandom(MIB) * (size // MIB)
    expected = hashlib.sha256(data).hexdigest()
    path = f"{scratch}/big"
    sandbox.files.write(path, data, request_timeout=180, gzip=gzip)
    inside = sandbox.commands.run(f"sha256sum {path}", timeout=180).stdout.split()[0]
    assert inside == expected
    digest = hashlib.sha256()
    for piece in sandbox.files.read(path, format="stream", request_timeout=180, gzip=gzip):
        digest.update(piece)
    assert digest.hexdigest() == expected
    sandbox.files.remove(path)


def test_overwriting_replaces_the_whole_file(sandbox, scratch):
    sandbox.files.write(f"{scratch}/file", "a long first version")
    sandbox.files.write(f"{scratch}/file", "short")
    assert sandbox.files.read(f"{scratch}/file") == "short"


def test_writing_makes_parents_owned_by_the_user(sandbox, scratch):
    sandbox.files.write(f"{scratch}/a/b/c.txt", "deep")
    owners = sandbox.commands.run(f"stat -c %U {scratch}/a {scratch}/a/b {scratch}/a/b/c.txt")
    assert owners.stdout.split() == ["user"] * 3


def test_everywhere_whoever_the_user_is(sandbox):
    for path in ("/app/src/main.py", "/workspace/x", "/opt/x", "/etc/x.conf", "/root/x"):
        sandbox.files.write(path, "mine")
        assert sandbox.files.read(path) == "mine"
        assert sandbox.files.get_info(path).owner == "user", path
    assert sandbox.files.get_info("/app/src").owner == sandbox.files.get_info("/app").owner == "user"
    assert sandbox.files.get_info("/root").owner == "root"
    # Over a file of root's, which is given away; reading gives nothing away.
    sandbox.commands.run("echo roots > /opt/roots && chmod 600 /opt/roots", user="root")
    assert sandbox.files.read("/opt/roots") == "roots\n"
    assert sandbox.files.get_info("/opt/roots").owner == "root"
    sandbox.files.write("/opt/roots", "mine")
    assert sandbox.commands.run("cat /opt/roots && stat -c %U:%a /opt/roots").stdout == "mineuser:600\n"
    assert "x" in [entry.name for entry in sandbox.files.list("/root")]
    assert sandbox.files.exists("/root/x") and not sandbox.files.exists("/root/y")
    watcher = sandbox.files.watch_dir("/root")
    sandbox.files.rename("/root/x", "/root/y")
    sandbox.files.remove("/root/y")
    events = []

    def seen():
        events.extend((event.name, event.type) for event in watcher.get_new_events())
        return ("y", FilesystemEventType.REMOVE) in events

    until(seen, "the removal's event")
    watcher.stop()
    assert sandbox.files.make_dir("/srv/new/dir") is True
    assert sandbox.files.get_info("/srv/new").owner == "user"


def test_writing_several_files(sandbox, scratch):
    written = sandbox.files.write_files(
        [
            {"path": f"{scratch}/one", "data": "1"},
            {"path": f"{scratch}/two", "data": b"\x02"},
            {"path": f"{scratch}/sub/three", "data": io.BytesIO(b"3")},
        ]
    )
    assert [info.path for info in written] == [
        f"{scratch}/one",
        f"{scratch}/two",
        f"{scratch}/sub/three",
    ]
    assert sandbox.commands.run(f"cat {scratch}/one {scratch}/sub/three").stdout == "13"


def test_relative_and_home_paths(sandbox):
    sandbox.files.write("relative.txt", "home")
    assert sandbox.files.read("/home/user/relative.txt") == "home"
    assert sandbox.files.read("~/relative.txt") == "home"
    sandbox.files.write("relative.txt", "root's", user="root")
    assert sandbox.files.read("/root/relative.txt", user="root") == "root's"
    assert sandbox.files.read("relative.txt") == "home"


def test_odd_names(sandbox, scratch):
    for name in ["with space", "ünï✓", "100%", "a+b&c=d#e?f", "'q\"uote"]:
        sandbox.files.write(f"{scratch}/{name}", name)
        assert sandbox.files.read(f"{scratch}/{name}") == name
        assert sandbox.files.exists(f"{scratch}/{name}")


def test_missing_file_and_directory_as_file(sandbox, scratch):
    with pytest.raises(NotFoundException):
        sandbox.files.read(f"{scratch}/missing")
    with pytest.raises(InvalidArgumentException):
        sandbox.files.read(scratch)
    with pytest.raises(InvalidArgumentException):
        sandbox.files.write(scratch, "over a directory")


def test_exists(sandbox, scratch):
    assert sandbox.files.exists(f"{scratch}/x") is False
    sandbox.files.write(f"{scratch}/x", "")
    assert sandbox.files.exists(f"{scratch}/x") is True
    assert sandbox.files.exists(scratch) is True


def test_info_of_file_directory_and_link(sandbox, scratch, sdk_version):
    sandbox.commands.run("printf 12345 > f && chmod 640 f && mkdir d && ln -s f l", cwd=scratch)
    info = sandbox.files.get_info(f"{scratch}/f")
    assert (info.name, info.type, info.path, info.size) == ("f", FileType.FILE, f"{scratch}/f", 5)
    assert (info.mode & 0o777, info.permissions) == (0o640, "-rw-r-----")
    assert (info.owner, info.group) == ("user", "user")
    assert info.modified_time.timestamp() == pytest.approx(
        float(sandbox.commands.run(f"stat -c %.6Y {scratch}/f").stdout), abs=1
    )
    assert sandbox.files.get_info(f"{scratch}/d").type == FileType.DIR
    link = sandbox.files.get_info(f"{scratch}/l")
    assert link.symlink_target == f"{scratch}/f"
    if sdk_version >= (2, 60):
        assert link.type == FileType.SYMLINK
    with pytest.raises(NotFoundException):
        sandbox.files.get_info(f"{scratch}/missing")


def test_list_and_its_depth(sandbox, scratch):
    sandbox.commands.run("mkdir -p a/b/c && touch top a/mid a/b/low", cwd=scratch)

    def names(depth):
        listed = sandbox.files.list(scratch, depth=depth)
        return sorted(entry.path.removeprefix(f"{scratch}/") for entry in listed)

    assert names(1) == ["a", "top"]
    assert names(2) == ["a", "a/b", "a/mid", "top"]
    assert names(3) == ["a", "a/b", "a/b/c", "a/b/low", "a/mid", "top"]
    kinds = {entry.name: entry.type for entry in sandbox.files.list(scratch)}
    assert kinds == {"a": FileType.DIR, "top": FileType.FILE}
    with pytest.raises(NotFoundException):
        sandbox.files.list(f"{scratch}/missing")
    with pytest.raises(InvalidArgumentException):
        sandbox.files.list(f"{scratch}/top")


def test_make_dir(sandbox, scratch):
    assert sandbox.files.make_dir(f"{scratch}/new/nested") is True
    assert sandbox.files.make_dir(f"{scratch}/new/nested") is False
    assert sandbox.commands.run(f"stat -c %U {scratch}/new/nested").stdout == "user\n"


def test_rename(sandbox, scratch):
    sandbox.files.write(f"{scratch}/old", "kept")
    info = sandbox.files.rename(f"{scratch}/old", f"{scratch}/new")
    assert (info.name, info.path) == ("new", f"{scratch}/new")
    assert sandbox.files.exists(f"{scratch}/old") is False
    assert sandbox.files.read(f"{scratch}/new") == "kept"
    with pytest.raises(NotFoundException):
        sandbox.files.rename(f"{scratch}/old", f"{scratch}/newer")


def test_remove_file_and_tree(sandbox, scratch):
    sandbox.files.write(f"{scratch}/tree/a/b", "x")
    sandbox.files.remove(f"{scratch}/tree/a/b")
    assert sandbox.files.exists(f"{scratch}/tree/a/b") is False
    sandbox.files.remove(f"{scratch}/tree")
    assert sandbox.files.exists(f"{scratch}/tree") is False


def test_files_and_commands_see_the_same_disk(sandbox, scratch):
    sandbox.files.write(f"{scratch}/in", "from outside")
    sandbox.commands.run("tr a-z A-Z < in > out && chmod +x out", cwd=scratch)
    assert sandbox.files.read(f"{scratch}/out") == "FROM OUTSIDE"


def test_watching_a_directory(sandbox, scratch):
    watcher = sandbox.files.watch_dir(scratch)
    events = []

    def seen(name, kind):
        events.extend((event.name, event.type) for event in watcher.get_new_events())
        return (name, kind) in events

    sandbox.files.write(f"{scratch}/watched", "1")
    until(lambda: seen("watched", FilesystemEventType.WRITE), "the write's event")
    # A new file: made, given to the user, written.
    kinds = [FilesystemEventType.CREATE, FilesystemEventType.CHMOD, FilesystemEventType.WRITE]
    assert events == [("watched", kind) for kind in kinds]
    events.clear()
    sandbox.commands.run("chmod 600 watched", cwd=scratch)
    until(lambda: seen("watched", FilesystemEventType.CHMOD), "the mode's event")
    sandbox.files.rename(f"{scratch}/watched", f"{scratch}/moved")
    until(lambda: seen("watched", FilesystemEventType.RENAME), "the rename's event")
    sandbox.files.remove(f"{scratch}/moved")
    until(lambda: seen("moved", FilesystemEventType.REMOVE), "the removal's event")
    watcher.stop()


def test_watching_a_tree(sandbox, scratch):
    sandbox.files.make_dir(f"{scratch}/sub")
    watcher = sandbox.files.watch_dir(scratch, recursive=True)
    sandbox.files.write(f"{scratch}/sub/deep", "1")
    events = []

    def seen():
        events.extend(event.name for event in watcher.get_new_events())
        return "sub/deep" in events

    until(seen, "an event from below")
    watcher.stop()


def test_watching_what_is_not_there(sandbox, scratch):
    with pytest.raises(NotFoundException):
        sandbox.files.watch_dir(f"{scratch}/missing")
