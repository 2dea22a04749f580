"""Sandboxes from create to the end, listed and found on the way."""

import datetime
import uuid

import pytest
from e2b import (
    NotFoundException,
    Sandbox,
    SandboxNotFoundException,
    SandboxQuery,
    SandboxState,
    TimeoutException,
)

from support.waiting import Background, until


def listed(**query):
    """All pages of a listing."""
    paginator = Sandbox.list(query=SandboxQuery(**query) if query else None)
    items = []
    while paginator.has_next:
        items.extend(paginator.next_items())
    return items


def ids(items):
    return [item.sandbox_id for item in items]


def now():
    return datetime.datetime.now(datetime.timezone.utc)


def test_create_info_and_kill(create):
    before = now() - datetime.timedelta(seconds=5)
    sandbox = create(metadata={"purpose": "test"}, timeout=120)
    assert sandbox.is_running() is True
    info = sandbox.get_info()
    assert info.sandbox_id == sandbox.sandbox_id
    assert info.name == "base"
    assert info.metadata == {"purpose": "test"}
    assert info.state == SandboxState.RUNNING
    assert before < info.started_at <= now()
    assert (info.end_at - info.started_at).total_seconds() == pytest.approx(120, abs=10)
    assert info.cpu_count >= 1 and info.memory_mb >= 128
    assert int(sandbox.commands.run("nproc").stdout) == info.cpu_count
    assert sandbox.kill() is True
    assert sandbox.is_running() is False
    assert sandbox.sandbox_id not in ids(listed())
    with pytest.raises(NotFoundException):
        sandbox.get_info()


def test_default_lifetime_is_five_minutes(create):
    info = create().get_info()
    assert (info.end_at - info.started_at).total_seconds() == pytest.approx(300, abs=10)


def test_killing_what_is_not_there(create):
    sandbox = create()
    assert Sandbox.kill(sandbox.sandbox_id) is True
    assert sandbox.kill() is False
    assert Sandbox.kill("i00000000000000000000") is False


def test_every_sandbox_has_an_id_and_a_disk_of_its_own(create):
    first, second = create(), create()
    assert first.sandbox_id != second.sandbox_id
    first.files.write("/home/user/mine", "first")
    second.commands.run("sudo rm -rf /usr/bin/git")
    assert second.files.exists("/home/user/mine") is False
    assert first.commands.run("git --version").stdout.startswith("git version")


def test_twins_have_their_own_entropy_and_clock(create):
    draw = "cat /proc/sys/kernel/random/uuid; head -c 16 /dev/urandom | base64; python3 -c 'import secrets; print(secrets.token_hex())'"
    first, second = create(), create()
    one, two = (s.commands.run(draw).stdout.split() for s in (first, second))
    assert not set(one) & set(two)
    guest = float(second.commands.run("date +%s.%N").stdout)
    assert guest == pytest.approx(now().timestamp(), abs=15)


def test_context_manager_kills(hearth):
    with Sandbox.create() as sandbox:
        assert sandbox.commands.run("echo hi").stdout == "hi\n"
    assert sandbox.is_running() is False


def test_sandbox_ends_at_its_time(create):
    sandbox = create(timeout=120)
    sandbox.set_timeout(2)
    until(lambda: sandbox.is_running() is False, "the sandbox to end at its time")
    until(lambda: sandbox.sandbox_id not in ids(listed()), "it to leave the list")
    with pytest.raises(TimeoutException):
        sandbox.commands.run("echo too late")


def test_created_short_it_ends_by_itself(create):
    sandbox = create(timeout=3)
    until(lambda: sandbox.is_running() is False, "the sandbox to end at its time")
    with pytest.raises(NotFoundException):
        sandbox.set_timeout(60)


def test_timeout_counts_from_now_and_may_shorten(create):
    sandbox = create(timeout=600)
    sandbox.set_timeout(100)
    remaining = (sandbox.get_info().end_at - now()).total_seconds()
    assert remaining == pytest.approx(100, abs=15)


def test_connect_from_elsewhere(create):
    sandbox = create(timeout=100)
    sandbox.files.write("/home/user/note", "shared")
    other = Sandbox.connect(sandbox.sandbox_id, timeout=400)
    assert other.files.read("/home/user/note") == "shared"
    assert (other.get_info().end_at - now()).total_seconds() == pytest.approx(400, abs=15)
    # A shorter time does not take away what is promised.
    Sandbox.connect(sandbox.sandbox_id, timeout=50)
    assert (other.get_info().end_at - now()).total_seconds() > 300


def test_connect_to_what_is_not_there(hearth):
    with pytest.raises(SandboxNotFoundException):
        Sandbox.connect("i00000000000000000000")


def test_kill_breaks_open_streams(create):
    sandbox = create()
    handle = sandbox.commands.run("echo up; sleep 600", background=True, timeout=0)
    waiting = Background(handle.wait)
    sandbox.kill()
    with pytest.raises(TimeoutException) as raised:
        waiting.result()
    # The older SDK takes the end of the stream for the sandbox's own time limit.
    said = str(raised.value)
    assert "was killed or reached its end of life" in said or "due to sandbox timeout" in said


def test_list_filters(create):
    tag = uuid.uuid4().hex
    odd = {"group": tag, "a b": "c&d/é=1%"}
    first = create(metadata=odd)
    between = now()
    second = create(metadata={"group": tag, "only": "second"})
    assert set(ids(listed(metadata={"group": tag}))) == {first.sandbox_id, second.sandbox_id}
    assert ids(listed(metadata=odd)) == [first.sandbox_id]
    assert ids(listed(metadata={"group": tag, "only": "second"})) == [second.sandbox_id]
    assert listed(metadata={"group": uuid.uuid4().hex}) == []
    assert ids(listed(metadata={"group": tag}, started_after=between)) == [second.sandbox_id]
    assert set(ids(listed(metadata={"group": tag}, template="base"))) == {
        first.sandbox_id,
        second.sandbox_id,
    }
    running = listed(metadata={"group": tag}, state=[SandboxState.RUNNING])
    assert len(running) == 2
    assert listed(metadata={"group": tag}, state=[SandboxState.PAUSED]) == []
    assert {item.metadata["group"] for item in running} == {tag}


def test_list_order_and_pages(create):
    tag = uuid.uuid4().hex
    made = [create(metadata={"group": tag}).sandbox_id for _ in range(3)]
    query = SandboxQuery(metadata={"group": tag})

    def pages(**options):
        paginator = Sandbox.list(query=query, **options)
        found = []
        while paginator.has_next:
            found.append(ids(paginator.next_items()))
        return found

    assert sum(pages(), []) == made[::-1]
    assert sum(pages(order="asc"), []) == made
    by_one = pages(limit=1)
    assert [page for page in by_one if page] == [[i] for i in made[::-1]]
    assert all(len(page) <= 2 for page in pages(limit=2))
    assert sum(pages(limit=2, order="asc"), []) == made


def test_several_at_once(hearth):
    calls = [Background(lambda: Sandbox.create(timeout=120)) for _ in range(6)]
    sandboxes = [call.result(120) for call in calls]
    try:
        outputs = [
            Background(
                lambda s=s: s.commands.run("hostname; cat /proc/uptime > /dev/null; echo ok")
            )
            for s in sandboxes
        ]
        assert all(call.result().stdout.endswith("ok\n") for call in outputs)
        assert len({s.sandbox_id for s in sandboxes}) == 6
    finally:
        for sandbox in sandboxes:
            sandbox.kill()
