"""The agent is replaced while programs run."""

import base64
import json
import os
import time
import uuid

import httpx
import pytest
from e2b import PtySize

from conftest import connect_stream


def upgrade(agent):
    with open(agent.binary, "rb") as program:
        answer = httpx.post(f"{agent.url}/upgrade", content=program, timeout=60)
    assert answer.status_code == 204, answer.text


def generation(agent):
    answer = httpx.post(f"{agent.url}/init", json={}, timeout=30)
    assert answer.status_code == 204, answer.text
    return int(answer.headers["x-envd-handover"])


def until(condition, what):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def replace(agent):
    before = generation(agent)
    upgrade(agent)
    # Connections wait in the listening socket's queue meanwhile; one that was made
    # before the handover may still be answered by the old agent.
    until(lambda: generation(agent) == before + 1, "the new agent to answer")


def replayed(agent, pid):
    """The output of a process, what was there before included, and its exit code."""
    request = {"process": {"pid": pid}}
    header = {"Hearth-Output-Replay": "true"}
    messages = connect_stream(agent.url, "process.Process/Connect", request, **header)
    events = [message["event"] for message in messages if "event" in message]
    output = b"".join(
        base64.b64decode(event["data"]["stdout"]) for event in events if "data" in event
    )
    return output.decode(), events[-1]["end"].get("exitCode", 0)


def test_processes_go_on(agent, sandbox):
    script = "echo early; while read line; do echo got $line; done; exit 7"
    handle = sandbox.commands.run(script, background=True, stdin=True, timeout=0)
    sandbox.commands.send_stdin(handle.pid, "one\n")
    assert next(out for out, _, _ in handle if out and "got one" in out)
    deaf = sandbox.commands.run("sleep 1; echo late", background=True, timeout=0)
    done = sandbox.commands.run("exit 3", background=True)
    until(lambda: done.pid not in {p.pid for p in sandbox.commands.list()}, "the end")
    replace(agent)
    replace(agent)

    listed = {process.pid: process for process in sandbox.commands.list()}
    assert listed[handle.pid].args[-1] == script
    again = sandbox.commands.connect(handle.pid)
    sandbox.commands.send_stdin(handle.pid, "two\n")
    sandbox.commands.close_stdin(handle.pid)
    with pytest.raises(Exception) as ended:
        again.wait()
    assert ended.value.exit_code == 7
    assert ended.value.stdout == "got two\n"
    assert replayed(agent, handle.pid) == ("early\ngot one\ngot two\n", 7)
    assert replayed(agent, deaf.pid) == ("late\n", 0)
    # An end that the agent before has seen.
    with pytest.raises(Exception) as ended:
        sandbox.commands.connect(done.pid).wait()
    assert ended.value.exit_code == 3


def test_a_terminal_goes_on(agent, sandbox):
    seen = bytearray()
    terminal = sandbox.pty.create(PtySize(rows=24, cols=80), timeout=0)
    replace(agent)
    again = sandbox.pty.connect(terminal.pid)
    sandbox.pty.resize(terminal.pid, PtySize(rows=11, cols=99))
    sandbox.pty.send_stdin(terminal.pid, b"stty size; exit 5\n")
    with pytest.raises(Exception) as ended:
        again.wait(on_pty=seen.extend)
    assert ended.value.exit_code == 5
    assert b"11 99" in seen


def test_output_while_nobody_reads_is_not_lost(agent, sandbox):
    handle = sandbox.commands.run("seq 1 5000; sleep 2; seq 5001 9000", background=True, timeout=0)
    replace(agent)
    output, _ = replayed(agent, handle.pid)
    assert output == "".join(f"{n}\n" for n in range(1, 9001))


def test_a_deadline_is_kept(agent, sandbox):
    marker = f"1{uuid.uuid4().int % 10**12}"
    with pytest.raises(Exception):
        handle = sandbox.commands.run(f"sleep {marker}", background=True, timeout=5)
        replace(agent)
        handle.wait()

    def running():
        return any(marker in " ".join(p.args) for p in sandbox.commands.list())

    # The new agent knows the process only as far as it was handed over, and when it
    # is to be killed only from the old one.
    until(lambda: not running(), "the deadline to kill the process")


def test_polled_watchers_go_on(agent, sandbox, tmp_path):
    os.chmod(tmp_path, 0o777)
    (tmp_path / "sub").mkdir()
    watcher = sandbox.files.watch_dir(str(tmp_path), recursive=True)
    (tmp_path / "before").touch()
    replace(agent)
    (tmp_path / "sub" / "after").touch()
    names = set()

    def seen():
        names.update(event.name for event in watcher.get_new_events())
        return {"before", "sub/after"} <= names

    until(seen, "events from before and after")
    watcher.stop()


def test_settings_and_the_log_stay(own_agent):
    agent = own_agent
    settings = {"accessToken": "secret", "envVars": {"A": "b"}, "defaultUser": "root"}
    assert httpx.post(f"{agent.url}/init", json=settings).status_code == 204
    token = {"X-Access-Token": "secret"}
    with open(agent.binary, "rb") as program:
        content = program.read()
    assert httpx.post(f"{agent.url}/upgrade", content=content).status_code == 401
    answer = httpx.post(f"{agent.url}/upgrade", content=content, headers=token, timeout=60)
    assert answer.status_code == 204, answer.text

    def replaced():
        answer = httpx.post(f"{agent.url}/init", json={}, headers=token, timeout=30)
        assert answer.status_code == 204
        return answer.headers["x-envd-handover"] == "1"

    until(replaced, "the new agent to answer")
    assert httpx.get(f"{agent.url}/envs").status_code == 401
    assert httpx.get(f"{agent.url}/envs", headers=token).json()["A"] == "b"
    with httpx.stream("GET", f"{agent.url}/telemetry?after=0", headers=token, timeout=30) as told:
        for line in told.iter_lines():
            batch = json.loads(line).get("batch", {"entries": []})
            if any(entry["message"] == "the agent is being replaced" for entry in batch["entries"]):
                break


@pytest.mark.parametrize(
    "program", [b"", b"#!/bin/sh\necho 1\n", b"\x7fELF nonsense", "true", "cat"]
)
def test_what_is_no_agent_is_refused(agent, sandbox, program):
    if isinstance(program, str):
        with open(f"/bin/{program}", "rb") as other:
            program = other.read()
    before = generation(agent)
    answer = httpx.post(f"{agent.url}/upgrade", content=program, timeout=60)
    assert answer.status_code == 400, answer.text
    assert generation(agent) == before
    assert sandbox.commands.run("echo fine").stdout == "fine\n"


def test_a_transfer_in_progress_is_finished(agent, sandbox, tmp_path):
    os.chmod(tmp_path, 0o777)

    def pieces():
        yield b"a" * 100_000
        upgrade(agent)
        yield b"b" * 100_000

    path = str(tmp_path / "file")
    headers = {"Content-Type": "application/octet-stream"}
    answer = httpx.post(
        f"{agent.url}/files", params={"path": path}, content=pieces(), headers=headers, timeout=30
    )
    assert answer.status_code == 200, answer.text
    assert os.path.getsize(path) == 200_000
    until(lambda: generation(agent) > 0, "the new agent to answer")
