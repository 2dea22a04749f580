"""Logs and the history of metrics, also of a sandbox that has ended."""

import json
from datetime import datetime, timedelta, timezone

import pytest

from support.waiting import until


@pytest.fixture
def api(hearth):
    with hearth.client() as client:
        yield client


def entries(api, sandbox, **query):
    answer = api.get(f"/v2/sandboxes/{sandbox.sandbox_id}/logs", params=query)
    answer.raise_for_status()
    return answer.json()["logs"]


def test_logs_tell_what_ran(create, api):
    sandbox = create()
    sandbox.commands.run("echo first line; echo wrong >&2; exit 0")

    def logged():
        return any(e["message"] == "process ended" for e in entries(api, sandbox))

    until(logged, "the command's end in the log")
    forward = entries(api, sandbox, direction="forward")
    messages = [entry["message"] for entry in forward]
    start = messages.index("process started")
    assert "echo first line" in forward[start]["fields"]["command"]
    assert forward[start]["fields"]["user"] == "user"
    assert start < messages.index("first line") < messages.index("process ended")
    wrong = forward[messages.index("wrong")]
    assert (wrong["level"], wrong["fields"]["stream"]) == ("info", "stderr")
    assert entries(api, sandbox) == forward[::-1]
    assert [e["message"] for e in entries(api, sandbox, search="first", limit=1)] != []
    assert entries(api, sandbox, level="error") == []

    # What the command line client reads: each line is a JSON object of its own.
    first = api.get(f"/sandboxes/{sandbox.sandbox_id}/logs", params={"start": 0}).json()
    lines = [json.loads(log["line"]) for log in first["logs"]]
    assert [line["message"] for line in lines] == messages
    assert {"level", "logger"} <= set(lines[0])

    sandbox.kill()
    assert [e["message"] for e in entries(api, sandbox, direction="forward")][:1] == messages[:1]


def test_a_flood_of_output_is_cut_and_said_so(create, api):
    sandbox = create()
    sandbox.commands.run("seq 100000", timeout=120)

    def lost():
        told = entries(api, sandbox, search="log entries were lost", level="warn")
        return sum(int(entry["fields"]["lost"]) for entry in told)

    # How many depends on how long the guest took to print them.
    until(lambda: lost() > 10_000, "the loss to be told")
    assert lost() <= 100_000


def test_metrics_have_a_history(create, api):
    sandbox = create(timeout=120)
    begun = datetime.now(timezone.utc) - timedelta(seconds=30)
    until(lambda: len(sandbox.get_metrics()) >= 2, "two samples", seconds=60)
    samples = sandbox.get_metrics(start=begun)
    times = [sample.timestamp for sample in samples]
    assert times == sorted(times)
    assert all(sample.mem_total > 0 and sample.cpu_count >= 1 for sample in samples)
    assert sandbox.get_metrics(start=begun - timedelta(hours=2), end=begun) == []
