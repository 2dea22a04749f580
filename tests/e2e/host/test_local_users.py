"""What a user of the host without rights finds of what tenants run and print."""

import multiprocessing
import os
import re
import stat
from multiprocessing.connection import Connection
from pathlib import Path

from e2b import Sandbox

from support.daemon import Hearth
from support.machine import tree

NOBODY = 65534
SECRET = "only-for-the-tenant-5f1c0e9d"

# What everybody may read, of which nothing is a tenant's: what guests boot from, the address
# ranges of this host's slots, and the authority's certificate.
PUBLIC = re.compile(r"state/(artefacts(/.*)?|guest\.json|network\.json|ca(-bundle)?\.crt)")

# Which process the daemon is, and whether guests are emulated.
PUBLIC_RUN = re.compile(r"run/(hearth\.pid|emulation)")


def is_file_or_directory(path: Path) -> bool:
    """Of what a running daemon keeps: a path that was listed may be gone by now."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return False
    return stat.S_ISREG(mode) or stat.S_ISDIR(mode)


def can_open(path: str) -> bool:
    try:
        os.listdir(path) if os.path.isdir(path) else open(path, "rb").close()
    except OSError:
        return False
    return True


def probe(paths: list[str], answer: Connection) -> None:
    """In a process of its own, which becomes `nobody`: which of these it can open or list."""
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    answer.send([path for path in paths if can_open(path)])


def readable_by_nobody(root: Path) -> list[str]:
    """Every file and directory below that an unprivileged user can open, relative to the
    parent. Named one by one, as directories need not be listed to be looked into."""
    paths = [str(path) for path in tree(root) if is_file_or_directory(path)]
    # Forked, not started: the interpreter of the tests need not be for everybody.
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=probe, args=(paths, theirs))
    process.start()
    theirs.close()
    found = ours.recv()
    process.join()
    return [os.path.relpath(path, root.parent) for path in found]


def test_a_local_user_reads_nothing_of_what_tenants_do(own_hearth: Hearth) -> None:
    running = Sandbox.create(envs={"TOKEN": SECRET})
    running.commands.run(f"echo {SECRET}; echo {SECRET} > /home/user/note; sync")
    paused = Sandbox.create(metadata={"note": SECRET})
    paused.files.write("/home/user/note", SECRET)
    paused.pause()

    # Nothing above Hearth's own folders hides them.
    own_hearth.home.chmod(0o755)
    state = own_hearth.state_dir
    (own_hearth.home / "seen").write_text("by everybody")
    assert "seen" in [Path(path).name for path in readable_by_nobody(own_hearth.home)]
    assert any(state.joinpath("sandboxes").rglob("*")), "sandboxes have files"
    found = readable_by_nobody(state)
    assert [path for path in found if not PUBLIC.fullmatch(path)] == []
    found = readable_by_nobody(own_hearth.run_dir)
    assert [path for path in found if not PUBLIC_RUN.fullmatch(path)] == []

    assert running.commands.run("cat /home/user/note").stdout.strip() == SECRET
    assert Sandbox.connect(paused.sandbox_id).files.read("/home/user/note") == SECRET
