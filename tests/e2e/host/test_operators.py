"""Operators make teams, hold them to limits and end what is theirs; what sandboxes used is
counted; and E2B's command line signs in by browser."""

import json
import os
import re
import subprocess
from pathlib import Path

import httpx
import pytest
from e2b import Sandbox

from support.daemon import Hearth
from support.waiting import until


@pytest.fixture
def operator(own_hearth: Hearth):
    token = own_hearth.state_dir / "keys" / "admin-token"
    assert token.stat().st_mode & 0o077 == 0
    headers = {"X-Admin-Token": token.read_text().strip()}
    with httpx.Client(base_url=own_hearth.url, headers=headers, timeout=60) as client:
        yield client


def test_a_team_is_made_held_to_its_limits_and_ended(own_hearth: Hearth, operator: httpx.Client):
    new = {"slug": "acme", "limits": {"concurrentSandboxes": 1}}
    made = operator.post("/admin/teams", json=new)
    assert made.status_code == 201, made.text
    team = made.json()["teamID"]
    assert operator.post("/admin/teams", json=new).status_code == 409
    issued = operator.post(f"/admin/teams/{team}/api-keys", json={"name": "first"})
    assert issued.status_code == 201, issued.text
    key = issued.json()["key"]

    sandbox = Sandbox.create(api_key=key)
    assert sandbox.commands.run("echo theirs").stdout == "theirs\n"
    with own_hearth.client(key) as api:
        full = api.post("/v2/sandboxes", json={"templateID": "base"})
        assert full.status_code == 429, full.text
        assert api.get("/admin/teams").status_code == 401
    counts = operator.get("/admin/sandboxes/running-counts").json()
    assert counts == {team: 1}
    killed = operator.post(f"/admin/teams/{team}/sandboxes/kill")
    assert killed.json() == {"killedCount": 1, "failedCount": 0}
    assert not sandbox.is_running()

    # Both ends of what it ran are told by the node's outbox.
    def used() -> list[dict]:
        with own_hearth.client(key) as api:
            return api.get("/usage/sandboxes").json()

    told = until(used, "what the sandbox used")
    assert sandbox.sandbox_id in json.dumps(told)
    printed = json.loads(own_hearth.run("usage", "--json").stdout)
    assert team in json.dumps(printed)
    lines = own_hearth.run("usage", "--csv").stdout.splitlines()
    assert len(lines) >= 2 and "," in lines[0]

    banned = operator.patch(f"/admin/teams/{team}", json={"banned": True})
    assert banned.status_code == 200 and banned.json()["banned"] is True
    with own_hearth.client(key) as api:
        assert api.post("/v2/sandboxes", json={"templateID": "base"}).status_code == 403


def test_events_and_webhooks_on_the_command_line(own_hearth: Hearth):
    sandbox = Sandbox.create()
    sandbox.kill()

    def told() -> list[dict]:
        printed = own_hearth.run("events", sandbox.sandbox_id, "--json").stdout
        events = [json.loads(line) for line in printed.splitlines()]
        return events if len(events) >= 2 else []

    kinds = {event["type"] for event in until(told, "both events")}
    assert {"sandbox.lifecycle.created", "sandbox.lifecycle.killed"} <= kinds
    url = "https://198.51.100.7/hook"
    secret = "0123456789abcdef0123456789abcdef"
    arguments = ("webhook", "create", "--event", "sandbox.lifecycle.killed", "ours", url)
    created = own_hearth.run(*arguments, typed=secret)
    assert secret not in created.stdout
    (listed,) = json.loads(own_hearth.run("webhook", "ls", "--json").stdout)
    assert listed["url"] == url
    shown = json.loads(own_hearth.run("webhook", "show", listed["id"]).stdout)
    assert shown["id"] == listed["id"] and secret not in json.dumps(shown)
    own_hearth.run("webhook", "rm", listed["id"])
    assert json.loads(own_hearth.run("webhook", "ls", "--json").stdout) == []


class OfficialCli:
    """`e2b` of somebody who has no key in the environment."""

    def __init__(self, hearth: Hearth, home: Path) -> None:
        modules = Path(os.environ["HEARTH_E2E_CLI"]) / "node_modules"
        self.command = [
            os.environ["HEARTH_E2E_NODE"],
            str(modules / "cli-newest" / "dist" / "index.js"),
        ]
        exports = hearth.read_exports("--http")
        keep = {name: value for name, value in os.environ.items() if not name.startswith("E2B_")}
        del exports["E2B_API_KEY"]
        # Without a browser to open it prints where to go.
        self.environment = {**keep, **exports, "HOME": str(home), "NO_COLOR": "1", "PATH": "/nonexistent"}

    def run(self, *arguments: str) -> str:
        done = subprocess.run(
            [*self.command, *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def start(self, *arguments: str) -> subprocess.Popen:
        return subprocess.Popen(
            [*self.command, *arguments],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
        )


def test_the_official_command_line_signs_in_and_out(own_hearth: Hearth, tmp_path: Path):
    cli = OfficialCli(own_hearth, tmp_path)
    signing_in = cli.start("auth", "login")
    try:
        url = next(line.strip() for line in signing_in.stdout if "/api/cli?" in line)
        next_url = httpx.URL(url).params["next"]
        page = httpx.get(url)
        assert page.status_code == 200 and "API key" in page.text
        assert "default-src 'none'" in page.headers["content-security-policy"]
        target = str(httpx.URL(url).copy_with(query=None))
        wrong = httpx.post(target, data={"next": next_url, "key": "e2b_" + "0" * 40})
        assert wrong.status_code == 401 and "location" not in wrong.headers
        elsewhere = {"next": "http://198.51.100.7:80", "key": own_hearth.api_key}
        refused = httpx.post(target, data=elsewhere)
        assert refused.status_code == 400 and "location" not in refused.headers

        right = httpx.post(target, data={"next": next_url, "key": own_hearth.api_key})
        assert right.status_code == 303, right.text
        back = httpx.get(right.headers["location"])
        assert "state=success" in back.headers["location"]
        assert "Signed in" in httpx.get(back.headers["location"]).text
        said, _ = signing_in.communicate(timeout=60)
        assert signing_in.returncode == 0 and "Logged in as" in said, said
    finally:
        signing_in.kill()
        signing_in.wait()

    sandbox = Sandbox.create()
    assert sandbox.sandbox_id in cli.run("sandbox", "list")
    (config,) = tmp_path.rglob("config.json")
    session = json.loads(config.read_text())
    assert own_hearth.api_key not in config.read_text(), "the tool has a key of its own"
    assert re.fullmatch(r"e2b_[0-9a-f]{40}", session["projectApiKey"])
    refresh = {
        "grant_type": "refresh_token",
        "refresh_token": session["tokens"]["refresh_token"],
        "client_id": session["oauth"]["client_id"],
    }
    endpoint = session["oauth"]["token_endpoint"]
    assert httpx.post(endpoint, data=refresh).json()["token_type"] == "Bearer"
    assert "Logged out" in cli.run("auth", "logout")
    ended = httpx.post(endpoint, data=refresh)
    assert ended.status_code == 400 and ended.json()["error"] == "invalid_grant"
