"""Sandboxes that are stopped, kept, copied and continued, over both SDK generations."""

import datetime

import httpx
import pytest
from e2b import NotFoundException, Sandbox, SandboxQuery, SandboxState

from support.waiting import Background, until

# A process whose memory alone knows its number; it answers each line with the next one.
# The pipe is open in both directions, so that it has no end between the questions.
COUNTER = "exec 3<>/tmp/asked; n=41; while read -r _ <&3; do echo $((n += 1)) >> /tmp/numbers; done"
DRAWS = """
head -c 16 /dev/urandom | base64
cat /proc/sys/kernel/random/uuid
openssl rand -hex 16
python3 -c 'import secrets; print(secrets.token_hex(16))'
"""
# A Python that drew before the fork and draws again when it is told to. What it asks
# for comes from the kernel. (A generator that a process keeps in its own memory, such
# as `random` or an OpenSSL that is in use already, is copied with that memory.)
SEEDED = """
import os, random, secrets, time, uuid
secrets.token_hex(16), uuid.uuid4()
open("/tmp/ready", "w").close()
while not os.path.exists("/tmp/draw"):
    time.sleep(0.05)
with open("/tmp/drawn.part", "w") as out:
    print(secrets.token_hex(16), uuid.uuid4(), random.SystemRandom().random(), file=out)
os.rename("/tmp/drawn.part", "/tmp/drawn")
"""


def now():
    return datetime.datetime.now(datetime.timezone.utc)


def state(sandbox):
    return sandbox.get_info().state


def paused(sandbox):
    return lambda: state(sandbox) == SandboxState.PAUSED


def listed(**query):
    paginator = Sandbox.list(query=SandboxQuery(**query))
    items = []
    while paginator.has_next:
        items.extend(paginator.next_items())
    return {item.sandbox_id for item in items}


def visit(hearth, sandbox, port, path="/", **headers):
    """One request to a port of a sandbox, through the edge."""
    headers |= {"E2b-Sandbox-Id": sandbox.sandbox_id, "E2b-Sandbox-Port": str(port)}
    return httpx.get(f"{hearth.url}{path}", headers=headers, timeout=60)


def serve(sandbox, port):
    sandbox.files.write("/home/user/site/index.html", "served")
    sandbox.commands.run(
        f"python3 -m http.server {port}", background=True, timeout=0, cwd="/home/user/site"
    )
    ask = f"curl -sf http://localhost:{port}/"
    until(lambda: "served" in sandbox.commands.run(f"{ask} || true").stdout, "the server")


def test_pause_keeps_files_and_memory(create):
    sandbox = create(timeout=300, metadata={"kept": "yes"}, envs={"KEPT": "as well"})
    sandbox.files.write("/home/user/file", "written before")
    sandbox.commands.run("mkfifo /tmp/asked")
    process = sandbox.commands.run(COUNTER, background=True, timeout=0)
    ask = "echo go > /tmp/asked; until [ -s /tmp/numbers ]; do sleep 0.05; done; tail -1 /tmp/numbers"
    assert sandbox.commands.run(ask).stdout == "42\n"
    boot = sandbox.commands.run("cat /proc/sys/kernel/random/boot_id").stdout

    sandbox.pause()
    assert state(sandbox) == SandboxState.PAUSED
    assert sandbox.is_running() is False
    assert sandbox.sandbox_id in listed(state=[SandboxState.PAUSED])
    assert sandbox.sandbox_id not in listed(state=[SandboxState.RUNNING])
    assert sandbox.get_info().metadata == {"kept": "yes"}
    # What is paused already stays so; no matter what the call answers.
    assert not sandbox.pause()

    resumed = Sandbox.connect(sandbox.sandbox_id, timeout=200)
    assert resumed.sandbox_id == sandbox.sandbox_id
    info = resumed.get_info()
    assert info.state == SandboxState.RUNNING
    assert (info.end_at - now()).total_seconds() == pytest.approx(200, abs=20)
    assert resumed.files.read("/home/user/file") == "written before"
    assert resumed.commands.run("echo $KEPT").stdout == "as well\n"
    # The old handle and its token work as well, and so does the process.
    assert process.pid in {p.pid for p in sandbox.commands.list()}
    sandbox.commands.run("truncate -s 0 /tmp/numbers")
    assert sandbox.commands.run(ask).stdout == "43\n"
    assert sandbox.commands.run("cat /proc/sys/kernel/random/boot_id").stdout == boot
    guest = float(sandbox.commands.run("date +%s.%N").stdout)
    assert guest == pytest.approx(now().timestamp(), abs=15)


def test_a_second_pause_keeps_what_was_written_after_the_first(create):
    sandbox = create(timeout=300)
    for round_ in range(3):
        sandbox.files.write(f"/home/user/{round_}", str(round_))
        sandbox.pause()
        Sandbox.connect(sandbox.sandbox_id, timeout=300)
    assert sandbox.commands.run("cat /home/user/[0-2]").stdout == "012"
    # The disk is what it was, not only the page cache.
    sandbox.commands.run("sync; echo 3 | sudo tee /proc/sys/vm/drop_caches", timeout=120)
    assert sandbox.commands.run("cat /home/user/[0-2]").stdout == "012"


def test_pause_of_the_disk_alone_boots_again(create):
    sandbox = create(timeout=300, envs={"KEPT": "yes"})
    sandbox.files.write("/home/user/file", "on the disk")
    sandbox.files.write("/dev/shm/file", "in memory")
    boot = sandbox.commands.run("cat /proc/sys/kernel/random/boot_id").stdout
    sandbox.pause(keep_memory=False)
    assert state(sandbox) == SandboxState.PAUSED
    Sandbox.connect(sandbox.sandbox_id, timeout=300)
    assert sandbox.files.read("/home/user/file") == "on the disk"
    assert sandbox.files.exists("/dev/shm/file") is False
    assert sandbox.commands.run("cat /proc/sys/kernel/random/boot_id").stdout != boot
    assert sandbox.commands.run("echo $KEPT").stdout == "yes\n"


def test_a_reboot_discards_the_memory_that_was_kept(create, sdk_version):
    if sdk_version < (2, 60):
        pytest.skip("this SDK cannot ask for it")
    sandbox = create(timeout=300)
    sandbox.files.write("/home/user/file", "on the disk")
    sandbox.commands.run("sync")
    boot = sandbox.commands.run("cat /proc/sys/kernel/random/boot_id").stdout
    sandbox.pause()
    Sandbox.connect(sandbox.sandbox_id, timeout=300, on_resume="reboot")
    assert sandbox.commands.run("cat /proc/sys/kernel/random/boot_id").stdout != boot
    assert sandbox.files.read("/home/user/file") == "on the disk"


def test_killing_a_paused_sandbox(create):
    sandbox = create(timeout=300)
    sandbox.pause()
    assert sandbox.kill() is True
    assert sandbox.kill() is False
    with pytest.raises(NotFoundException):
        Sandbox.connect(sandbox.sandbox_id)
    assert sandbox.sandbox_id not in listed()


def test_everybody_who_connects_gets_the_one_sandbox(create):
    sandbox = create(timeout=300)
    sandbox.files.write("/home/user/file", "one")
    sandbox.pause()
    connects = [
        Background(lambda: Sandbox.connect(sandbox.sandbox_id, timeout=300)) for _ in range(4)
    ]
    for connect in connects:
        assert connect.result().files.read("/home/user/file") == "one"


def test_a_sandbox_pauses_at_its_time(create):
    sandbox = create(timeout=300, lifecycle={"on_timeout": "pause"})
    sandbox.files.write("/home/user/file", "kept")
    sandbox.set_timeout(1)
    until(paused(sandbox), "the sandbox to pause at its time")
    assert sandbox.get_info().end_at <= now()
    assert sandbox.is_running() is False
    Sandbox.connect(sandbox.sandbox_id, timeout=300)
    assert sandbox.files.read("/home/user/file") == "kept"


def test_activity_resumes_a_paused_sandbox(create, hearth):
    sandbox = create(timeout=300, lifecycle={"on_timeout": "pause", "auto_resume": True})
    serve(sandbox, 8000)
    # Traffic to a port.
    sandbox.pause()
    answers = [Background(lambda: visit(hearth, sandbox, 8000)) for _ in range(3)]
    assert [answer.result().text for answer in answers] == ["served"] * 3
    info = sandbox.get_info()
    assert info.state == SandboxState.RUNNING
    assert (info.end_at - now()).total_seconds() == pytest.approx(300, abs=20)
    # A call of the SDK.
    sandbox.pause()
    assert sandbox.commands.run("echo awake").stdout == "awake\n"
    # The agent's port asks for its token first.
    sandbox.pause()
    assert visit(hearth, sandbox, 49983, "/files?path=x").status_code == 403
    assert visit(hearth, sandbox, 49983, "/files?path=x", **{"X-Access-Token": "no"}).status_code == 403
    assert state(sandbox) == SandboxState.PAUSED


def test_without_auto_resume_traffic_wakes_nothing(create, hearth):
    sandbox = create(timeout=300, lifecycle={"on_timeout": "pause", "auto_resume": False})
    sandbox.pause()
    refused = visit(hearth, sandbox, 8000)
    assert refused.status_code == 502
    assert "was not found" in refused.json()["message"]
    assert state(sandbox) == SandboxState.PAUSED


def test_snapshots_are_templates(create):
    sandbox = create(timeout=300)
    sandbox.files.write("/home/user/file", "at the snapshot")
    sandbox.commands.run("touch /dev/shm/memory; sleep infinity", background=True, timeout=0)
    until(lambda: sandbox.files.exists("/dev/shm/memory"), "the process to run")
    named = sandbox.create_snapshot("kept")
    assert named.snapshot_id == "default/kept:default"
    assert named.names == ["default/kept"]
    sandbox.files.write("/home/user/file", "later")
    plain = sandbox.create_snapshot()
    snapshots = []
    paginator = sandbox.list_snapshots()
    while paginator.has_next:
        snapshots.extend(item.snapshot_id for item in paginator.next_items())
    assert snapshots == [plain.snapshot_id, named.snapshot_id]

    # The source goes on, and its end is not theirs.
    assert sandbox.files.read("/home/user/file") == "later"
    assert sandbox.kill() is True
    for snapshot, text in ((named, "at the snapshot"), (plain, "later")):
        copy = create(template=snapshot.snapshot_id, timeout=300)
        assert copy.files.read("/home/user/file") == text
        assert copy.files.exists("/dev/shm/memory"), "memory is part of it"
        assert copy.commands.run("pgrep -c sleep").stdout.strip() == "1"
        copy.kill()
        assert Sandbox.delete_snapshot(snapshot.snapshot_id) is True
        assert Sandbox.delete_snapshot(snapshot.snapshot_id) is False
        with pytest.raises(Exception, match="not found"):
            Sandbox.create(template=snapshot.snapshot_id)


def test_forks_are_twins_no_more(create):
    sandbox = create(timeout=300, metadata={"kind": "forked"}, envs={"KEPT": "yes"})
    sandbox.files.write("/home/user/file", "shared")
    sandbox.files.write("/home/user/seeded.py", SEEDED)
    sandbox.commands.run("python3 /home/user/seeded.py", background=True, timeout=0)
    until(lambda: sandbox.files.exists("/tmp/ready"), "the process to have drawn")
    forks = sandbox.fork(timeout=300, count=2)
    try:
        everyone = [sandbox, *forks]
        assert all(isinstance(fork, Sandbox) for fork in forks), forks
        assert len({one.sandbox_id for one in everyone}) == 3
        drawn, identities = [], []
        for one in everyone:
            assert one.files.read("/home/user/file") == "shared"
            assert one.get_info().metadata == {"kind": "forked"}
            assert one.commands.run("echo $KEPT").stdout == "yes\n"
            drawn += one.commands.run(DRAWS).stdout.split()
            one.files.write("/tmp/draw", "")
            until(lambda: one.files.exists("/tmp/drawn"), "the seeded process to draw")
            drawn += one.files.read("/tmp/drawn").split()
            identities.append(one.commands.run("hostname").stdout)
        assert len(set(drawn)) == len(drawn), drawn
        assert len(set(identities)) == 3, identities
        # What one does is not the others'.
        forks[0].files.write("/home/user/file", "mine")
        assert forks[1].files.read("/home/user/file") == "shared"
        assert sandbox.files.read("/home/user/file") == "shared"
    finally:
        for fork in forks:
            if isinstance(fork, Sandbox):
                fork.kill()


def test_a_sandbox_goes_back_to_its_snapshot(create, hearth):
    sandbox = create(timeout=300)
    sandbox.files.write("/home/user/file", "before")
    snapshot = sandbox.create_snapshot()
    sandbox.commands.run("rm -rf /home/user/file; touch /home/user/other")
    path = f"/sandboxes/{sandbox.sandbox_id}/rollback"
    try:
        with hearth.client() as client:
            answer = client.post(path, json={"snapshotID": snapshot.snapshot_id})
        assert answer.status_code == 200, answer.text
        assert answer.json()["sandboxID"] == sandbox.sandbox_id
        # The same handle: id, token and address have stayed.
        assert sandbox.files.read("/home/user/file") == "before"
        assert sandbox.files.exists("/home/user/other") is False
    finally:
        sandbox.kill()
        Sandbox.delete_snapshot(snapshot.snapshot_id)
