"""Runs the agent on this machine, without a VM, under the published SDK.

HEARTH_ENVD names the binary; by default it is the workspace's debug build.
"""

import json
import os
import pathlib
import re
import subprocess
import tempfile
from contextlib import contextmanager
from typing import NamedTuple

import httpx
import pytest

# Before the SDK is imported: it then talks to the agent alone, to no API.
os.environ["E2B_DEBUG"] = "true"
os.environ.setdefault("E2B_API_KEY", "e2b_" + "0" * 40)

ROOT = pathlib.Path(__file__).resolve().parents[2]


class Agent(NamedTuple):
    url: str
    binary: str
    pid: int


def user_root(directory):
    """The machine's users, but for whoever runs the tests a home without a profile:
    commands run in a login shell, and what that starts is none of their business."""
    root = pathlib.Path(directory)
    (root / "etc").mkdir()
    home = root / "home"
    home.mkdir()
    lines = []
    for line in pathlib.Path("/etc/passwd").read_text().splitlines():
        fields = line.split(":")
        if len(fields) == 7 and fields[2] == str(os.getuid()):
            fields[5] = str(home)
        lines.append(":".join(fields))
    (root / "etc" / "passwd").write_text("\n".join(lines) + "\n")
    (root / "etc" / "group").write_text(pathlib.Path("/etc/group").read_text())
    return root


@contextmanager
def running():
    with tempfile.TemporaryDirectory() as directory:
        yield from started(user_root(directory))


def started(root):
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    binary = os.environ.get("HEARTH_ENVD", str(target / "debug" / "envd"))
    process = subprocess.Popen(
        [binary, "--no-init", "--listen", "127.0.0.1:0", "--user-root", str(root)],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        line = process.stdout.readline()
        match = re.fullmatch(r"listening on (127\.0\.0\.1:\d+)\n", line)
        assert match, f"{binary} said {line!r}"
        yield Agent(f"http://{match[1]}", binary, process.pid)
        assert process.poll() is None, "the agent ended"
    finally:
        process.terminate()
        process.wait(timeout=10)


def connect_stream(url, method, request, **headers):
    """All messages of a server stream over Connect with JSON; the last is its end."""
    body = json.dumps(request).encode()
    answer = httpx.post(
        f"{url}/{method}",
        content=b"\0" + len(body).to_bytes(4, "big") + body,
        headers={"Content-Type": "application/connect+json", **headers},
        timeout=60,
    )
    content, messages = answer.content, []
    while content:
        length = int.from_bytes(content[1:5], "big")
        messages.append(json.loads(content[5 : 5 + length]))
        content = content[5 + length :]
    return messages


@pytest.fixture(scope="session")
def agent():
    """One agent for all tests that leave it usable."""
    with running() as shared:
        yield shared


@pytest.fixture
def own_agent():
    """An agent that a test may spoil."""
    with running() as own:
        yield own


@pytest.fixture(scope="session")
def agent_url(agent):
    return agent.url


@pytest.fixture
def sandbox(agent_url, monkeypatch):
    monkeypatch.setenv("E2B_SANDBOX_URL", agent_url)
    from e2b import Sandbox

    return Sandbox.connect("debug-sandbox")


@pytest.fixture
def async_sandbox(agent_url, monkeypatch):
    """A function to call inside the test's own event loop."""
    monkeypatch.setenv("E2B_SANDBOX_URL", agent_url)
    from e2b import AsyncSandbox

    return lambda: AsyncSandbox.connect("debug-sandbox")
