"""What is kept on the disk: looked at, damaged, and found again after the host's end."""

import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from e2b import NotFoundException, Sandbox

from support import machine
from support.waiting import Background, until


def builds(hearth, kind: str) -> list[Path]:
    """Directories of the builds of a kind, as their manifests say."""
    found = []
    for path in (hearth.state_dir / "builds").iterdir():
        manifest = path / "manifest.json"
        if manifest.is_file() and json.loads(manifest.read_text())["kind"] == kind:
            found.append(path)
    return found


def state(hearth, sandbox) -> str:
    """`running`, `paused`, or `gone`."""
    with hearth.client() as client:
        answer = client.get(f"/sandboxes/{sandbox.sandbox_id}")
    return "gone" if answer.status_code == 404 else answer.json()["state"]


def test_builds_are_listed_shown_verified_and_collected(own_hearth):
    hearth = own_hearth
    sandbox = Sandbox.create(timeout=900)
    sandbox.files.write("/home/user/file", "kept")
    snapshot = sandbox.create_snapshot("kept")
    sandbox.pause()
    (paused,) = builds(hearth, "pause")
    (taken,) = builds(hearth, "snapshot")

    listed = hearth.run("snapshot", "ls").stdout
    for build, kind in ((paused, "pause"), (taken, "snapshot")):
        assert re.search(rf"^{build.name} +{kind} ", listed, re.MULTILINE), listed
    manifest = json.loads(hearth.run("snapshot", "show", paused.name).stdout)
    assert manifest["build_id"] == paused.name and taken.name in manifest["parents"]
    verified = hearth.run("snapshot", "verify").stdout
    assert f"{paused.name}: sound" in verified and f"{taken.name}: sound" in verified

    # Wrong arguments: a sentence and a status, whatever is there.
    unknown = "00000000-0000-4000-8000-000000000000"
    for arguments, said in [
        (["snapshot", "show", "nonsense"], "nonsense"),
        (["snapshot", "show", unknown], unknown),
        (["snapshot", "verify", unknown], unknown),
        (["snapshot", "gc"], "the daemon"),
        (["template", "show", "no-such-template"], "no-such-template"),
        (["template", "rm", "no-such-template"], "no-such-template"),
        (["template", "rm", "base"], "base"),
        (["template", "rm"], "required"),
    ]:
        done = hearth.run(*arguments, check=False)
        assert done.returncode != 0, arguments
        assert said in done.stdout + done.stderr, (arguments, done)
        assert "panicked" not in done.stderr
    assert re.search(r" base +", hearth.run("template", "ls").stdout)
    assert json.loads(hearth.run("template", "show", "base").stdout)["names"] == ["base"]

    # One changed byte is found and named, and nothing goes on from it.
    pages = paused / "memory.diff"
    with pages.open("r+b") as file:
        byte = file.read(1)
        file.seek(0)
        file.write(bytes([byte[0] ^ 1]))
    damaged = hearth.run("snapshot", "verify", paused.name, check=False)
    assert damaged.returncode != 0
    assert paused.name in damaged.stdout and "memory.diff" in damaged.stdout
    with hearth.client() as client:
        refused = client.post(f"/sandboxes/{sandbox.sandbox_id}/connect", json={"timeout": 60})
    assert refused.status_code >= 500, refused.text
    assert state(hearth, sandbox) == "paused"
    assert machine.vm_processes(hearth.run_dir) == []
    with pages.open("r+b") as file:
        file.write(byte)
    Sandbox.connect(sandbox.sandbox_id, timeout=900)
    assert sandbox.files.read("/home/user/file") == "kept"

    # What nothing needs goes with the last one that did.
    assert sandbox.kill() is True
    hearth.run("template", "rm", snapshot.snapshot_id)
    until(lambda: not builds(hearth, "pause") + builds(hearth, "snapshot"), "the builds to go")
    hearth.down()
    assert "would remove 0 builds" in hearth.run("snapshot", "gc", "--dry-run").stdout
    assert "removed 0 builds" in hearth.run("snapshot", "gc").stdout


def test_what_is_on_the_disk_is_not_kept_twice(own_hearth):
    hearth = own_hearth
    sandbox = Sandbox.create(timeout=900)
    write = "head -c 10M /dev/urandom > /home/user/file; sync; sha256sum /home/user/file"
    written = sandbox.commands.run(write, timeout=120).stdout
    sandbox.pause()
    (paused,) = builds(hearth, "pause")
    bytes_ = sum(path.stat().st_blocks * 512 for path in paused.rglob("*") if path.is_file())
    assert bytes_ < 18 * 1024 * 1024, f"a pause takes {bytes_} bytes"
    for _ in range(2):
        Sandbox.connect(sandbox.sandbox_id, timeout=900)
        # From memory, which is the disk's layer now.
        assert sandbox.commands.run("sha256sum /home/user/file").stdout == written
        sandbox.pause()
    Sandbox.connect(sandbox.sandbox_id, timeout=900)
    drop = "echo 3 | sudo tee /proc/sys/vm/drop_caches; sha256sum /home/user/file"
    assert sandbox.commands.run(drop, timeout=120).stdout.endswith(written)


def reboot(hearth) -> None:
    """Everything that a host forgets when it starts again: processes, networks, rules,
    control groups and what is below /run."""
    hearth.kill()
    for pid in machine.vm_processes(hearth.run_dir):
        os.kill(pid, signal.SIGKILL)
        until(lambda: not machine.is_alive(pid), "a VM to be dead")
    for name in machine.network_namespaces():
        subprocess.run(["ip", "netns", "del", name], check=True)
    for name in machine.network_links():
        subprocess.run(["ip", "link", "del", name], check=False)
    for table in machine.nft_tables():
        subprocess.run(["nft", "delete", "table", *table.split()], check=True)
    # The deepest first; they have no processes any more.
    for group in sorted(machine.control_groups(), key=len, reverse=True):
        for inner in sorted(Path(group).rglob("*"), reverse=True):
            if inner.is_dir():
                inner.rmdir()
        os.rmdir(group)
    shutil.rmtree(hearth.run_dir)


def test_paused_sandboxes_outlive_the_host(own_hearth):
    hearth = own_hearth
    asleep, awake = Sandbox.create(timeout=900), Sandbox.create(timeout=900)
    for sandbox in (asleep, awake):
        sandbox.files.write("/home/user/file", "kept")
    asleep.files.write("/dev/shm/file", "in memory")
    asleep.pause()
    reboot(hearth)
    hearth.start()

    assert hearth.listed() == {asleep.sandbox_id}
    with pytest.raises(NotFoundException):
        awake.get_info()
    Sandbox.connect(asleep.sandbox_id, timeout=900)
    assert asleep.files.read("/home/user/file") == "kept"
    assert asleep.files.read("/dev/shm/file") == "in memory"
    assert asleep.kill() is True
    hearth.down()
    assert hearth.leftovers() == {}


def test_a_vm_that_dies_while_it_is_saved(own_hearth):
    """Whenever it dies, the sandbox is paused, whole, or gone."""
    hearth = own_hearth
    for call in (lambda one: one.pause(), lambda one: one.create_snapshot()) * 2:
        sandbox = Sandbox.create(timeout=900)
        sandbox.files.write("/home/user/file", "kept")
        pid = hearth.vm_pid(sandbox.sandbox_id)
        running = Background(lambda: call(sandbox))
        # Not a wait for anything: it only spreads the deaths over the steps.
        time.sleep(random.uniform(0, 0.3))
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        # Gone is what the caller learns too, unless it was done before.
        with contextlib.suppress(NotFoundException):
            running.result()
        until(lambda: state(hearth, sandbox) in ("paused", "gone"), "it to be noticed")
        if state(hearth, sandbox) == "paused":
            Sandbox.connect(sandbox.sandbox_id, timeout=900)
            assert sandbox.files.read("/home/user/file") == "kept"
            sandbox.kill()
    # A snapshot that could still be taken is whole.
    hearth.run("snapshot", "verify")
    assert machine.vm_processes(hearth.run_dir) == []
    assert Sandbox.create().commands.run("echo new").stdout == "new\n"
