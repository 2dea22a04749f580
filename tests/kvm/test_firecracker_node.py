"""A node whose engine is Firecracker, by the official SDK. Skipped where the host that made the
machine has no Firecracker: `HEARTH_FIRECRACKER`, then `PATH`. Before test_kvm.py, whose daemon
stays to the end.

The tests run on one sandbox, and none needs what another has done to it: a run may go on
behind those that have passed.
"""

import json
import os
import uuid
from pathlib import Path

import pytest
from e2b import CommandExitException, Sandbox, Template

from support import machine
from support.daemon import running
from support.internet import FIRST
from support.waiting import until

PROGRAM = Path("/kvm-machine/bin/firecracker")
pytestmark = pytest.mark.skipif(not PROGRAM.exists(), reason="the host has no Firecracker")
# A process whose memory alone knows its number; it answers each line with the next one.
COUNTER = "exec 3<>/tmp/asked; n=41; while read -r _ <&3; do echo $((n += 1)) >> /tmp/numbers; done"
ASK = (
    "rm -f /tmp/numbers; echo go > /tmp/asked; "
    "until [ -s /tmp/numbers ]; do sleep 0.05; done; tail -n 1 /tmp/numbers"
)


@pytest.fixture(scope="module")
def hearth(outside):
    node = {"engine": "firecracker", "firecracker": str(PROGRAM)}
    with running(config={**outside.config(), "node": node}) as daemon:
        yield daemon
        daemon.down()
        left = daemon.leftovers()
        assert not left, f"left after `hearth down`: {left}"


@pytest.fixture(scope="module")
def sandbox(hearth):
    sandbox = Sandbox.create(timeout=3000, envs={"KEPT": "yes"}, metadata={"of": "the suite"})
    yield sandbox
    sandbox.kill()


def run(sandbox, line: str) -> str:
    return sandbox.commands.run(line, timeout=180).stdout


def ask(sandbox) -> int:
    """The next number of the sandbox's counter, which is started where there is none."""
    if run(sandbox, "mkfifo /tmp/asked 2>/dev/null && echo new || true"):
        sandbox.commands.run(COUNTER, background=True, timeout=0)
    return int(run(sandbox, ASK))


def boot_id(sandbox) -> str:
    return run(sandbox, "cat /proc/sys/kernel/random/boot_id")


def device_of(sandbox_id: str) -> list[str]:
    return [name for name in machine.block_devices() if name.endswith(sandbox_id)]


def test_doctor_names_the_engine(hearth):
    checks = {check["name"]: check for check in json.loads(hearth.run("doctor", "--json").stdout)}
    assert checks["engine"]["verdict"] == "ok", checks["engine"]
    assert checks["engine"]["detail"].startswith("firecracker 1."), checks["engine"]


def test_a_sandbox_runs_on_firecracker(hearth, sandbox):
    assert run(sandbox, "echo $KEPT; pwd; whoami") == "yes\n/home/user\nuser\n"
    with pytest.raises(CommandExitException) as failed:
        sandbox.commands.run("echo wrong >&2; exit 7")
    assert (failed.value.exit_code, failed.value.stderr) == (7, "wrong\n")
    content = os.urandom(3 << 20)
    sandbox.files.write("/home/user/random", content)
    assert bytes(sandbox.files.read("/home/user/random", format="bytes")) == content
    pid = hearth.vm_pid(sandbox.sandbox_id)
    assert os.readlink(f"/proc/{pid}/exe").endswith("/firecracker")
    assert "qemu" not in " ".join(machine.command_lines().values())
    assert len(device_of(sandbox.sandbox_id)) == 1
    base = json.loads(hearth.run("template", "show", "base").stdout)
    made = hearth.run("snapshot", "show", base["buildID"]).stdout
    assert '"firecracker"' in json.dumps(json.loads(made)), made


def test_it_reaches_the_internet(sandbox):
    assert json.loads(run(sandbox, f"curl -sS -m 30 http://{FIRST}/"))["address"] == FIRST


def test_pause_and_resume_with_memory(hearth, sandbox):
    asked = ask(sandbox)
    boot, pid = boot_id(sandbox), hearth.vm_pid(sandbox.sandbox_id)
    # The second time its memory is kept as a difference to what was put together.
    for expected in (asked + 1, asked + 2):
        # Written, and not flushed by the guest.
        sandbox.files.write("/home/user/file", str(expected))
        sandbox.pause()
        until(lambda: not machine.is_alive(pid), "the paused VM's process to end")
        until(lambda: device_of(sandbox.sandbox_id) == [], "its device to be given back")
        Sandbox.connect(sandbox.sandbox_id, timeout=3000)
        assert ask(sandbox) == expected
        assert boot_id(sandbox) == boot
        assert sandbox.files.read("/home/user/file") == str(expected)
        pid = hearth.vm_pid(sandbox.sandbox_id)


def test_snapshot_and_fork(sandbox):
    sandbox.files.write("/home/user/file", "at the snapshot")
    snapshot = sandbox.create_snapshot("kept")
    sandbox.files.write("/home/user/file", "later")
    copy = Sandbox.create(template=snapshot.snapshot_id, timeout=600)
    try:
        assert copy.files.read("/home/user/file") == "at the snapshot"
        assert boot_id(copy) == boot_id(sandbox), "memory is part of it"
    finally:
        copy.kill()
    (fork,) = sandbox.fork(timeout=600, count=1)
    try:
        assert fork.files.read("/home/user/file") == "later"
        fork.files.write("/home/user/file", "the fork's")
        assert sandbox.files.read("/home/user/file") == "later"
    finally:
        fork.kill()
    assert Sandbox.delete_snapshot("default/kept:default") is True


def test_a_sandbox_outlives_its_daemon(hearth, sandbox):
    pid, boot = hearth.vm_pid(sandbox.sandbox_id), boot_id(sandbox)
    sandbox.files.write("/home/user/file", "kept")
    asked = ask(sandbox)
    device = device_of(sandbox.sandbox_id)
    hearth.kill()
    assert machine.is_alive(pid)
    hearth.start()
    assert hearth.vm_pid(sandbox.sandbox_id) == pid
    assert device_of(sandbox.sandbox_id) == device
    assert (ask(sandbox), boot_id(sandbox)) == (asked + 1, boot)
    # What is not in the guest's memory comes from its disk.
    run(sandbox, "sync; sudo sh -c 'echo 3 > /proc/sys/vm/drop_caches'")
    assert sandbox.files.read("/home/user/file") == "kept"
    sandbox.pause()
    Sandbox.connect(sandbox.sandbox_id, timeout=3000)
    assert ask(sandbox) == asked + 2


def test_pause_and_resume_of_the_disk_alone(sandbox):
    boot = boot_id(sandbox)
    sandbox.files.write("/home/user/file", "on the disk")
    sandbox.pause(keep_memory=False)
    Sandbox.connect(sandbox.sandbox_id, timeout=3000)
    assert sandbox.files.read("/home/user/file") == "on the disk"
    assert boot_id(sandbox) != boot


def test_a_template_is_built(hearth):
    name = f"built-{uuid.uuid4().hex[:8]}"
    template = Template().from_base_image().run_cmd("echo made > made.txt")
    Template.build(template, alias=name, cpu_count=1, memory_mb=256)
    built = Sandbox.create(name, timeout=600)
    try:
        assert run(built, "cat /home/user/made.txt") == "made\n"
        pid = hearth.vm_pid(built.sandbox_id)
        assert os.readlink(f"/proc/{pid}/exe").endswith("/firecracker")
    finally:
        built.kill()


def test_a_killed_sandbox_leaves_nothing(hearth):
    killed = Sandbox.create(timeout=600)
    pid = hearth.vm_pid(killed.sandbox_id)
    killed.kill()
    until(lambda: not machine.is_alive(pid), "the VM's process to end")
    until(lambda: not device_of(killed.sandbox_id), "the block device to go")
