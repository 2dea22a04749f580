"""Sandboxes whose agent asks for no token: `secure: false`, said outright."""

from typing import Any

import httpx
import pytest
from e2b import Sandbox

from support.daemon import Hearth


def create(hearth: Hearth, **fields: Any) -> dict:
    with hearth.client() as client:
        answer = client.post("/sandboxes", json={"templateID": "base", "timeout": 900, **fields})
    assert answer.status_code == 201, answer.text
    return answer.json()


def agent(hearth: Hearth, sandbox_id: str, token: str = "") -> int:
    """What the agent says of reading a file, to somebody with this token or none."""
    headers = {"E2b-Sandbox-Id": sandbox_id, "E2b-Sandbox-Port": "49983"}
    if token:
        headers["X-Access-Token"] = token
    url = f"{hearth.url}/files?path=/etc/hostname&username=root"
    return httpx.get(url, headers=headers, timeout=60).status_code


@pytest.fixture(scope="module")
def made(module_hearth: Hearth):
    sandbox = create(module_hearth, secure=False)
    yield sandbox
    with module_hearth.client() as client:
        client.delete(f"/sandboxes/{sandbox['sandboxID']}")


def test_the_agent_asks_for_no_token_and_the_sdk_shows_none(module_hearth: Hearth, made: dict):
    assert "envdAccessToken" not in made
    sandbox_id = made["sandboxID"]
    assert agent(module_hearth, sandbox_id) == 200
    # Who shows one all the same is let in.
    assert agent(module_hearth, sandbox_id, "whatever") == 200
    box = Sandbox.connect(sandbox_id)
    assert not box._envd_access_token
    assert box.commands.run("echo open").stdout == "open\n"
    assert "signature" not in box.download_url("/etc/hostname")
    # Its samples and log are collected as any other's.
    with module_hearth.client() as client:
        assert client.get(f"/sandboxes/{sandbox_id}/metrics").status_code == 200


def test_it_stays_open_over_pauses_forks_and_restarts(module_hearth: Hearth, made: dict):
    sandbox_id = made["sandboxID"]
    box = Sandbox.connect(sandbox_id)
    box.pause()
    box = Sandbox.connect(sandbox_id)
    assert agent(module_hearth, sandbox_id) == 200
    module_hearth.kill()
    module_hearth.start()
    assert agent(module_hearth, sandbox_id) == 200
    with module_hearth.client() as client:
        forks = client.post(f"/sandboxes/{sandbox_id}/fork", json={"count": 1}).json()
        fork = forks[0]["sandbox"]
        assert "envdAccessToken" not in fork
        assert agent(module_hearth, fork["sandboxID"]) == 200
        client.delete(f"/sandboxes/{fork['sandboxID']}")


def test_each_sandbox_of_a_snapshot_is_as_it_was_asked_for(module_hearth: Hearth, made: dict):
    with module_hearth.client() as client:
        taken = client.post(f"/sandboxes/{made['sandboxID']}/snapshots", json={}).json()
        closed = create(module_hearth, templateID=taken["snapshotID"])
        assert agent(module_hearth, closed["sandboxID"]) == 401
        assert agent(module_hearth, closed["sandboxID"], closed["envdAccessToken"]) == 200
        # And the other way about: what the agent in the snapshot asks for is forgotten.
        again = client.post(f"/sandboxes/{closed['sandboxID']}/snapshots", json={}).json()
        opened = create(module_hearth, templateID=again["snapshotID"], secure=False)
        assert agent(module_hearth, opened["sandboxID"]) == 200
        for sandbox in (closed, opened):
            client.delete(f"/sandboxes/{sandbox['sandboxID']}")


def test_one_without_public_traffic_is_secured(module_hearth: Hearth):
    body = {"templateID": "base", "secure": False, "network": {"allowPublicTraffic": False}}
    with module_hearth.client() as client:
        answer = client.post("/sandboxes", json=body)
    assert answer.status_code == 400 and "'secure' flag" in answer.json()["message"]
