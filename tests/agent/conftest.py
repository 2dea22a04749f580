"""Runs the agent on this machine, without a VM, under the published SDK.

HEARTH_ENVD names the binary; by default it is the workspace's debug build.
"""

import os
import pathlib
import re
import subprocess
from contextlib import contextmanager
from typing import NamedTuple

import pytest

# Before the SDK is imported: it then talks to the agent alone, to no API.
os.environ["E2B_DEBUG"] = "true"
os.environ.setdefault("E2B_API_KEY", "e2b_" + "0" * 40)

ROOT = pathlib.Path(__file__).resolve().parents[2]


class Agent(NamedTuple):
    url: str
    binary: str
    pid: int


@contextmanager
def running():
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    binary = os.environ.get("HEARTH_ENVD", str(target / "debug" / "envd"))
    process = subprocess.Popen(
        [binary, "--no-init", "--listen", "127.0.0.1:0"],
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
