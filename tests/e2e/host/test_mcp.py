"""`hearth mcp`, as an agent's host starts it: JSON-RPC lines over its standard streams."""

import json
import subprocess
from typing import Any, Iterator, Optional

import pytest
from e2b import Sandbox

from support.daemon import Hearth
from support.waiting import until

VERSION = "2025-06-18"


class Session:
    """One process, one session."""

    def __init__(self, hearth: Hearth, *arguments: str):
        self.process = subprocess.Popen(
            hearth.command("mcp", *arguments),
            env=hearth.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.asked = 0

    def send(self, message: dict[str, Any]) -> None:
        assert self.process.stdin
        self.process.stdin.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
        self.process.stdin.flush()

    def request(self, method: str, params: Optional[dict[str, Any]] = None) -> dict[str, Any]:
        self.asked += 1
        self.send({"id": self.asked, "method": method, "params": params or {}})
        assert self.process.stdout
        while line := self.process.stdout.readline():
            message = json.loads(line)
            if message.get("id") == self.asked:
                return message
        raise AssertionError(f"no answer to {method}; it ended with {self.process.wait()}")

    def initialize(self) -> dict[str, Any]:
        client = {"name": "test", "version": "1"}
        params = {"protocolVersion": VERSION, "capabilities": {}, "clientInfo": client}
        answer = self.request("initialize", params)["result"]
        self.send({"method": "notifications/initialized"})
        return answer

    def call(self, tool: str, **arguments: Any) -> tuple[bool, str]:
        """Whether it worked, and the text of the answer."""
        answer = self.request("tools/call", {"name": tool, "arguments": arguments})["result"]
        return not answer.get("isError", False), answer["content"][0]["text"]

    def end(self) -> int:
        assert self.process.stdin
        self.process.stdin.close()
        return self.process.wait(60)


@pytest.fixture
def session(own_hearth: Hearth) -> Iterator[Session]:
    session = Session(own_hearth)
    session.initialize()
    yield session
    session.process.kill()
    session.process.wait()


def running() -> list[str]:
    return [info.sandbox_id for info in Sandbox.list().next_items()]


def test_a_session_has_a_sandbox_that_ends_with_it(own_hearth: Hearth, session: Session) -> None:
    tools = {tool["name"]: tool for tool in session.request("tools/list")["result"]["tools"]}
    assert {"run_command", "create_sandbox", "read_file", "write_file", "get_url"} <= set(tools)
    assert "command" in tools["run_command"]["inputSchema"]["required"]

    works, said = session.call("run_command", command="echo 42; echo no >&2; pwd", cwd="/tmp")
    assert works, said
    assert "exit code 0" in said and "42\n/tmp" in said and "no" in said
    (sandbox_id,) = running()
    assert sandbox_id in said

    # The same sandbox goes on, and files reach it both ways.
    works, said = session.call("write_file", path="/tmp/dir/note", content="grüße\n")
    assert works, said
    assert session.call("read_file", path="/tmp/dir/note") == (True, "grüße\n")
    works, said = session.call("list_files", path="/tmp/dir")
    assert works and "note" in said
    works, said = session.call("run_command", command="cat /tmp/dir/note; id -un", user="root")
    assert works and "grüße\nroot" in said
    assert running() == [sandbox_id]

    works, said = session.call("get_url", port=8000)
    assert works and said.startswith(f"https://8000-{sandbox_id}.")

    assert session.end() == 0
    until(lambda: running() == [], "the session's sandbox to end", seconds=30)


def test_what_fails_is_told_to_the_model(session: Session) -> None:
    works, said = session.call("run_command", command="echo so far; exit 3")
    assert not works and "exit code 3" in said and "so far" in said
    works, said = session.call("run_command", command="echo begun; sleep 60", timeout_seconds=2)
    assert not works and "begun" in said and "2 s" in said, said
    works, said = session.call("run_command", command="true", timeout_seconds=0)
    assert not works and "timeout_seconds" in said
    works, said = session.call("read_file", path="/nowhere")
    assert not works and "404" in said
    works, said = session.call("run_command", command="head -c 300000 /dev/zero | tr '\\0' x; echo end")
    assert works and "bytes are left out" in said and "xend" in said and len(said) < 40_000
    works, said = session.call("run_command", command="true", sandbox_id="../x")
    assert not works and "no ID of a sandbox" in said
    works, said = session.call("run_command", command="true", sandbox_id="i00000000000000000000")
    assert not works and "no sandbox" in said
    works, said = session.call("create_sandbox", template="no-such-template")
    assert not works and "404" in said
    answer = session.request("tools/call", {"name": "run_command", "arguments": {}})
    assert "command" in json.dumps(answer.get("error") or answer["result"])

    # A sandbox that has ended is not silently another one.
    (sandbox_id,) = running()
    Sandbox.kill(sandbox_id)
    works, said = session.call("run_command", command="true")
    assert not works and "has ended" in said
    works, said = session.call("run_command", command="true")
    assert works and running() != [sandbox_id]


def test_sandboxes_are_made_by_name_and_kept_on_request(own_hearth: Hearth) -> None:
    session = Session(own_hearth, "--keep", "--timeout", "600")
    session.initialize()
    works, said = session.call(
        "create_sandbox", metadata={"of": "mcp"}, envs={"WORD": "set"}, internet_access=False
    )
    assert works, said
    sandbox_id = json.loads(said)["sandbox_id"]
    works, said = session.call("run_command", command="echo $WORD", sandbox_id=sandbox_id)
    assert works and "set" in said
    works, said = session.call("list_sandboxes")
    (row,) = [row for row in json.loads(said) if row["sandbox_id"] == sandbox_id]
    assert row["made_in_this_session"] and row["metadata"] == {"of": "mcp"}
    assert session.end() == 0
    assert sandbox_id in running()
    Sandbox.kill(sandbox_id)


def test_a_key_in_the_environment_is_the_one_that_is_used(own_hearth: Hearth) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("E2B_API_KEY", "e2b_" + "0" * 40)
        patch.setenv("E2B_API_URL", own_hearth.url)
        session = Session(own_hearth)
        session.initialize()
        works, said = session.call("run_command", command="true")
        assert not works and "401" in said
        assert session.end() == 0


def test_a_signal_ends_the_session_and_its_sandboxes(session: Session) -> None:
    works, said = session.call("run_command", command="true")
    assert works, said
    session.process.terminate()
    assert session.process.wait(60) == 0, "though its input is still open"
    until(lambda: running() == [], "the session's sandbox to end", seconds=30)
