"""What happens to sandboxes is told once, in its order, whatever dies; and webhooks
hear of it with signatures that can be checked."""

import base64
import hashlib
import hmac
import json
import os
import signal
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Iterator

import pytest
from e2b import Sandbox

from support.daemon import Hearth, running
from support.waiting import until

SECRET = "0123456789abcdef0123456789abcdef"
LIFECYCLE = "sandbox.lifecycle."


class Receiver:
    """A receiver of webhooks that first fails and then takes what comes."""

    def __init__(self) -> None:
        self.taken: list[tuple[dict, bytes]] = []
        self.refusals = 2
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                refuse, receiver.refusals = receiver.refusals > 0, receiver.refusals - 1
                if not refuse:
                    receiver.taken.append((dict(self.headers), body))
                self.send_response(500 if refuse else 204)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/hook"

    def types_of(self, sandbox_id: str) -> list[str]:
        bodies = [json.loads(body) for _, body in self.taken]
        return [short(body["type"]) for body in bodies if body["sandbox_id"] == sandbox_id]


def short(event_type: str) -> str:
    return event_type.removeprefix(LIFECYCLE)


@pytest.fixture
def hearth() -> Iterator[Hearth]:
    with running(config={"events": {"private_receivers": ["127.0.0.1/32"]}}) as daemon:
        yield daemon


def events(hearth: Hearth, sandbox_id: str) -> list[dict]:
    with hearth.client() as client:
        answer = client.get(
            f"/events/sandboxes/{sandbox_id}", params={"orderAsc": "true", "limit": 100}
        )
    if answer.status_code == 404:
        return []
    answer.raise_for_status()
    return answer.json()


def types(hearth: Hearth, sandbox_id: str) -> list[str]:
    return [short(event["type"]) for event in events(hearth, sandbox_id)]


def await_types(hearth: Hearth, sandbox_id: str, wanted: list[str]) -> None:
    until(
        lambda: types(hearth, sandbox_id) == wanted,
        f"the events {wanted} of {sandbox_id}, not {types(hearth, sandbox_id)}",
        seconds=60,
    )


def check_signatures(headers: dict, body: bytes) -> None:
    plain = base64.b64encode(hashlib.sha256(SECRET.encode() + body).digest())
    assert headers["e2b-signature"] == plain.decode().rstrip("=")
    assert headers["e2b-signature-version"] == "v1"
    parts = dict(part.split("=", 1) for part in headers["hearth-signature"].split(","))
    signed = f"{parts['t']}.".encode() + body
    assert parts["v1"] == hmac.new(SECRET.encode(), signed, hashlib.sha256).hexdigest()


def test_a_sandboxs_life_is_told_to_readers_and_webhooks(hearth):
    receiver = Receiver()
    with hearth.client() as client:
        made = client.post(
            "/events/webhooks",
            json={
                "name": "all",
                "url": receiver.url,
                "signatureSecret": SECRET,
                "events": [
                    LIFECYCLE + name
                    for name in ("created", "updated", "paused", "resumed", "forked", "killed")
                ],
            },
        )
        assert made.status_code == 201, made.text
    webhook = made.json()

    sandbox = Sandbox.create(timeout=900, metadata={"user": "7"})
    sandbox_id = sandbox.sandbox_id
    sandbox.set_timeout(800)
    with hearth.client() as client:
        changed = client.put(f"/sandboxes/{sandbox_id}/network", json={"denyOut": ["10.0.0.0/8"]})
        assert changed.status_code == 204, changed.text
        forked = client.post(f"/sandboxes/{sandbox_id}/fork", json={"timeout": 300, "count": 1})
        assert forked.status_code == 201, forked.text
    fork_id = forked.json()[0]["sandbox"]["sandboxID"]
    sandbox.pause()
    Sandbox.connect(sandbox_id, timeout=900)
    os.kill(hearth.vm_pid(fork_id), signal.SIGKILL)
    await_types(hearth, fork_id, ["created", "killed"])
    # The daemon dies right after the answer.
    assert sandbox.kill() is True
    hearth.kill()
    hearth.start()

    wanted = ["created", "updated", "updated", "forked", "paused", "resumed", "killed"]
    await_types(hearth, sandbox_id, wanted)
    told = events(hearth, sandbox_id)
    assert len({event["id"] for event in told}) == len(told)
    assert all(event["eventData"]["sandbox_metadata"] == {"user": "7"} for event in told)
    assert told[1]["eventData"]["set_timeout"] > told[1]["timestamp"]
    assert told[2]["eventData"]["network_egress"]["denied_cidrs"] == ["10.0.0.0/8"]
    assert told[4]["eventData"]["pause_reason"] == "request"
    assert told[6]["eventData"]["kill_reason"] == "request"
    assert told[6]["eventData"]["execution"]["execution_time"] > 0
    # A resume is another execution.
    executions = [event["sandboxExecutionId"] for event in told]
    assert len(set(executions)) == 2 and executions[4] != executions[5]
    of_fork = events(hearth, fork_id)
    assert of_fork[0]["eventData"]["forked_from"] == sandbox_id
    assert of_fork[1]["eventData"]["kill_reason"] == "vm_exited"

    # The first attempts failed; all arrive in their order all the same, at least once.
    def arrived() -> bool:
        return (
            set(receiver.types_of(sandbox_id)) == set(wanted)
            and set(receiver.types_of(fork_id)) == {"created", "killed"}
        )

    until(arrived, "all events at the receiver", seconds=120)
    once: dict[str, str] = {}
    for headers, body in receiver.taken:
        lower = {name.lower(): value for name, value in headers.items()}
        check_signatures(lower, body)
        assert lower["e2b-webhook-id"] == webhook["id"]
        event = json.loads(body)
        if event["sandbox_id"] == sandbox_id:
            once.setdefault(event["id"], short(event["type"]))
    assert list(once.values()) == wanted
    deliveries = f"/events/webhooks/{webhook['id']}/deliveries"
    with hearth.client() as client:

        def all_noted() -> bool:
            listed = client.get(deliveries).json()["data"]
            return {delivery["status"] for delivery in listed} == {"success"}

        until(all_noted, "all deliveries noted", seconds=60)
        listed = client.get(deliveries).json()["data"]
        attempts = [attempt for delivery in listed for attempt in delivery["attempts"]]
        assert {attempt["status"] for attempt in attempts} == {"success", "failed"}
        again = f"{deliveries}/{told[0]['id']}/redeliver"
        before = len(receiver.taken)
        assert client.post(again).status_code == 202
    until(lambda: len(receiver.taken) > before, "the event once more", seconds=60)
    assert json.loads(receiver.taken[-1][1])["id"] == told[0]["id"]


def test_ends_by_themselves_and_deaths_of_the_daemon_are_told_once(hearth):
    dying = Sandbox.create(timeout=5)
    sleepy = Sandbox.create(timeout=5, lifecycle={"on_timeout": "pause"})
    await_types(hearth, dying.sandbox_id, ["created", "killed"])
    assert events(hearth, dying.sandbox_id)[-1]["eventData"]["kill_reason"] == "timeout"
    await_types(hearth, sleepy.sandbox_id, ["created", "paused"])
    assert events(hearth, sleepy.sandbox_id)[-1]["eventData"]["pause_reason"] == "timeout"

    lost = Sandbox.create(timeout=900)
    hearth.kill()
    os.kill(hearth.vm_pid(lost.sandbox_id), signal.SIGKILL)
    hearth.start()
    await_types(hearth, lost.sandbox_id, ["created", "killed"])
    assert events(hearth, lost.sandbox_id)[-1]["eventData"]["kill_reason"] == "lost"

    # However often the daemon dies right after an answer.
    wanted = ["created"]
    sandbox = Sandbox.create(timeout=900)
    for act, event in [
        (lambda: sandbox.set_timeout(800), "updated"),
        (sandbox.pause, "paused"),
        (lambda: Sandbox.connect(sandbox.sandbox_id, timeout=700), "resumed"),
    ]:
        act()
        hearth.kill()
        hearth.start()
        wanted.append(event)
        await_types(hearth, sandbox.sandbox_id, wanted)
    hearth.kill()
    hearth.start()
    await_types(hearth, sandbox.sandbox_id, wanted)
    assert types(hearth, dying.sandbox_id) == ["created", "killed"]
