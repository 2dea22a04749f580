"""What is paused outlives the daemon, however that ends."""

import contextlib
import random
import time

from e2b import Sandbox

from support import machine
from support.waiting import Background


def states(hearth):
    with hearth.client() as client:
        listed = client.get("/v2/sandboxes").json()
    return {sandbox["sandboxID"]: sandbox["state"] for sandbox in listed}


def test_paused_sandboxes_outlive_a_killed_daemon(own_hearth):
    hearth = own_hearth
    asleep = Sandbox.create(timeout=900, metadata={"n": "1"}, envs={"KEPT": "yes"})
    asleep.files.write("/home/user/file", "kept")
    asleep.commands.run("sleep infinity", background=True, timeout=0)
    asleep.pause()
    awake = Sandbox.create(timeout=900)
    before = asleep.get_info()

    hearth.kill()
    assert machine.vm_processes(hearth.run_dir, asleep.sandbox_id) == []
    hearth.start()

    assert states(hearth) == {asleep.sandbox_id: "paused", awake.sandbox_id: "running"}
    info = asleep.get_info()
    assert (info.metadata, info.started_at, info.end_at) == (
        before.metadata,
        before.started_at,
        before.end_at,
    )
    Sandbox.connect(asleep.sandbox_id, timeout=900)
    assert asleep.files.read("/home/user/file") == "kept"
    assert asleep.commands.run("echo $KEPT").stdout == "yes\n"
    assert asleep.commands.run("pgrep -c sleep").stdout.strip() == "1"

    # The orderly end of the daemon's sandboxes spares those that are paused.
    asleep.pause()
    hearth.down()
    assert machine.vm_processes(hearth.run_dir) == []
    hearth.start()
    assert states(hearth) == {asleep.sandbox_id: "paused"}
    Sandbox.connect(asleep.sandbox_id, timeout=900)
    assert asleep.files.read("/home/user/file") == "kept"
    assert asleep.kill() is True
    hearth.down()
    assert hearth.leftovers() == {}


def test_a_daemon_killed_in_the_middle_loses_nothing(own_hearth):
    """Wherever a pause, snapshot, fork or resume is when the daemon dies, the sandbox
    is found again, running or paused, with its files."""
    hearth = own_hearth
    sandbox = Sandbox.create(timeout=900)
    sandbox.files.write("/home/user/file", "kept")
    calls = [
        lambda: sandbox.pause(),
        lambda: Sandbox.connect(sandbox.sandbox_id, timeout=900),
        lambda: sandbox.create_snapshot(),
        lambda: sandbox.fork(timeout=60, count=1),
    ]
    for call in calls:
        running = Background(call)
        # Not a wait for anything: it only spreads the deaths over the steps.
        time.sleep(random.uniform(0, 0.6))
        hearth.kill()
        with contextlib.suppress(Exception):
            running.result()
        hearth.start()
        assert sandbox.sandbox_id in states(hearth)
        Sandbox.connect(sandbox.sandbox_id, timeout=900)
        assert sandbox.files.read("/home/user/file") == "kept"
        sandbox.commands.run("sync; echo 3 | sudo tee /proc/sys/vm/drop_caches", timeout=120)
        assert sandbox.files.read("/home/user/file") == "kept"
        if call is calls[0]:
            sandbox.pause()
