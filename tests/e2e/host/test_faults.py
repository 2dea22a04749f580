"""What dies, and what stays: the daemon, a VM, everything."""

import os
import signal
import time

import httpx
import pytest
from e2b import NotFoundException, Sandbox, TimeoutException

from support import machine
from support.daemon import Hearth
from support.waiting import Background, until


def edge_status(hearth: Hearth, sandbox_id: str) -> int:
    headers = {"E2b-Sandbox-Id": sandbox_id, "E2b-Sandbox-Port": "49983"}
    return httpx.get(f"{hearth.url}/health", headers=headers, timeout=30).status_code


def test_killed_daemon_finds_its_sandboxes_again(own_hearth):
    hearth = own_hearth
    first = Sandbox.create(timeout=900, metadata={"n": "1"}, envs={"KEPT": "yes"})
    second = Sandbox.create(timeout=900, metadata={"n": "2"})
    doomed = Sandbox.create(timeout=900)
    first.files.write("/home/user/before", "written before")
    counter = first.commands.run(
        "while :; do echo $((i += 1)) > /tmp/count; sleep 0.1; done", background=True, timeout=0
    )
    before = {s.sandbox_id: s.get_info() for s in (first, second)}
    vms = {s.sandbox_id: hearth.vm_pid(s.sandbox_id) for s in (first, second, doomed)}

    hearth.kill()

    # The VMs do not need the daemon to live; one of them dies meanwhile.
    assert all(machine.is_alive(pid) for pid in vms.values())
    os.kill(vms[doomed.sandbox_id], signal.SIGKILL)
    until(lambda: not machine.is_alive(vms[doomed.sandbox_id]), "the VM to be dead")

    hearth.start()

    # The list tells the truth, with the same VMs and the same facts.
    assert hearth.listed() == {first.sandbox_id, second.sandbox_id}
    for sandbox in (first, second):
        assert hearth.vm_pid(sandbox.sandbox_id) == vms[sandbox.sandbox_id]
        info = sandbox.get_info()
        assert info.metadata == before[sandbox.sandbox_id].metadata
        assert info.started_at == before[sandbox.sandbox_id].started_at
        assert info.end_at == before[sandbox.sandbox_id].end_at

    # Old handles with their old tokens work, and so do new ones.
    assert first.files.read("/home/user/before") == "written before"
    assert first.commands.run("echo $KEPT").stdout == "yes\n"
    assert counter.pid in {process.pid for process in first.commands.list()}
    count = int(first.files.read("/tmp/count") or 0)
    until(lambda: int(first.files.read("/tmp/count") or 0) > count, "the loop to go on")
    connected = Sandbox.connect(second.sandbox_id)
    connected.files.write("/home/user/after", "x" * 5_000_000)
    assert len(second.files.read("/home/user/after")) == 5_000_000
    # The disk is the same one: what was cached goes there and comes back.
    first.commands.run("sync; echo 3 | sudo tee /proc/sys/vm/drop_caches", timeout=120)
    assert first.files.read("/home/user/before") == "written before"

    # The dead one is gone everywhere.
    assert edge_status(hearth, doomed.sandbox_id) == 502
    with pytest.raises(NotFoundException):
        doomed.get_info()

    # Life goes on: timeouts, kills, new sandboxes.
    first.set_timeout(2)
    until(lambda: not first.is_running(), "the adopted sandbox to end at its time")
    assert second.kill() is True
    until(lambda: machine.vm_processes(hearth.run_dir) == [], "the VMs to be gone")
    assert Sandbox.create().commands.run("echo new").stdout == "new\n"

    hearth.down()
    assert hearth.leftovers() == {}


def test_sandbox_that_expires_while_the_daemon_is_dead(own_hearth):
    sandbox = Sandbox.create(timeout=2)
    pid = own_hearth.vm_pid(sandbox.sandbox_id)
    ends = sandbox.get_info().end_at.timestamp()
    own_hearth.kill()
    until(lambda: time.time() > ends + 0.5, "the sandbox's time to pass")
    assert machine.is_alive(pid)
    own_hearth.start()
    until(lambda: not machine.is_alive(pid), "the expired VM to be ended")
    assert own_hearth.listed() == set()


def test_stopped_daemon_finds_its_sandboxes_again(own_hearth):
    sandbox = Sandbox.create(timeout=600)
    sandbox.files.write("/home/user/kept", "yes")
    assert own_hearth.stop() == 0
    assert machine.vm_processes(own_hearth.run_dir, sandbox.sandbox_id)
    own_hearth.start()
    assert sandbox.files.read("/home/user/kept") == "yes"


def test_repeated_crashes(own_hearth):
    sandbox = Sandbox.create(timeout=900)
    for round_ in range(3):
        sandbox.files.write(f"/home/user/{round_}", str(round_))
        own_hearth.kill()
        own_hearth.start()
        assert own_hearth.listed() == {sandbox.sandbox_id}
    assert sandbox.commands.run("cat /home/user/[0-2]").stdout == "012"
    own_hearth.down()
    assert own_hearth.leftovers() == {}


def test_vm_killed_from_outside(own_hearth):
    hearth = own_hearth
    sandbox, other = Sandbox.create(timeout=600), Sandbox.create(timeout=600)
    handle = sandbox.commands.run("echo up; sleep 600", background=True, timeout=0)
    waiting = Background(handle.wait)
    os.kill(hearth.vm_pid(sandbox.sandbox_id), signal.SIGKILL)
    # A second is promised; a loaded machine gets a few.
    until(lambda: hearth.listed() == {other.sandbox_id}, "it to leave the list", seconds=5)
    assert edge_status(hearth, sandbox.sandbox_id) == 502
    assert sandbox.is_running() is False
    with pytest.raises(TimeoutException):
        waiting.result()
    with pytest.raises(NotFoundException):
        sandbox.get_info()
    assert sandbox.kill() is False
    assert other.commands.run("echo untouched").stdout == "untouched\n"
    # Its files went with it.
    until(
        lambda: (
            not any(
                sandbox.sandbox_id in path
                for path in machine.sandbox_files(hearth.state_dir, hearth.run_dir)
            )
        ),
        "its files to be removed",
    )


def test_guest_that_powers_off(own_hearth):
    sandbox = Sandbox.create(timeout=600)
    try:
        sandbox.commands.run("echo o | sudo tee /proc/sysrq-trigger", timeout=10)
    except Exception:
        pass  # The answer is lost with the guest, or never sent.
    until(lambda: own_hearth.listed() == set(), "the sandbox to be gone")
    assert edge_status(own_hearth, sandbox.sandbox_id) == 502


def test_down_leaves_nothing(own_hearth):
    sandboxes = [Sandbox.create(timeout=600) for _ in range(3)]
    for sandbox in sandboxes:
        sandbox.files.write("/home/user/data", "x" * 1_000_000)
    traces = machine.Traces.now(own_hearth.state_dir, own_hearth.run_dir)
    # The instruments see what there is to see.
    assert len(traces.vms) == 3
    assert len(traces.namespaces) >= 3 and len(traces.links) >= 3
    assert traces.tables and traces.files
    own_hearth.down()
    assert own_hearth.leftovers() == {}


def test_down_after_a_crash_leaves_nothing(own_hearth):
    for _ in range(2):
        Sandbox.create(timeout=600)
    own_hearth.kill()
    assert len(machine.vm_processes(own_hearth.run_dir)) == 2
    own_hearth.run("down")
    assert own_hearth.leftovers() == {}


def test_killed_sandbox_leaves_nothing(own_hearth):
    # One round first, so that pools and caches are as they stay.
    Sandbox.create().kill()
    before = machine.Traces.now(own_hearth.state_dir, own_hearth.run_dir)
    for _ in range(3):
        sandbox = Sandbox.create()
        sandbox.files.write("/home/user/data", "x" * 1_000_000)
        assert sandbox.kill() is True

    def settled():
        now = machine.Traces.now(own_hearth.state_dir, own_hearth.run_dir)
        return not now.vms and not now.beyond(before).get("files")

    until(settled, "VMs and files of killed sandboxes to be gone")
