"""Commands and terminals through the published SDK."""

import asyncio
import time

import pytest
from e2b import (
    AuthenticationException,
    CommandExitException,
    InvalidArgumentException,
    NotFoundException,
    TimeoutException,
)
from e2b.sandbox.commands.command_handle import PtySize


def test_output_and_exit_codes(sandbox):
    result = sandbox.commands.run("printf out; printf err >&2")
    assert (result.stdout, result.stderr, result.exit_code) == ("out", "err", 0)
    with pytest.raises(CommandExitException) as failure:
        sandbox.commands.run("echo partial; exit 3")
    assert (failure.value.exit_code, failure.value.stdout) == (3, "partial\n")
    assert failure.value.error == "exit status 3"


def test_callbacks_see_output_as_it_comes(sandbox):
    seen = []
    result = sandbox.commands.run(
        "echo one; echo two >&2; echo three",
        on_stdout=lambda text: seen.append(text),
        on_stderr=lambda text: seen.append(text),
    )
    assert sorted("".join(seen).split()) == ["one", "three", "two"]
    assert result.exit_code == 0


def test_environment_directory_and_user(sandbox):
    result = sandbox.commands.run("echo $A; pwd", envs={"A": "é ü"}, cwd="/usr/lib")
    assert result.stdout == "é ü\n/usr/lib\n"
    assert sandbox.commands.run("id -un", user="daemon").stdout == "daemon\n"
    with pytest.raises(AuthenticationException):
        sandbox.commands.run("id", user="no-such-user")
    with pytest.raises(InvalidArgumentException, match="cwd '/no/such' does not exist"):
        sandbox.commands.run("pwd", cwd="/no/such")


def test_text_cut_anywhere_is_put_together_again(sandbox):
    text = "äöü€😀" * 20_000
    result = sandbox.commands.run(f"printf '{'äöü€😀' * 20}%.0s' $(seq 1000)")
    assert result.stdout == text
    invalid = sandbox.commands.run("printf '\\377ok'").stdout
    assert invalid == "\N{REPLACEMENT CHARACTER}ok"


def test_timeout_kills(sandbox):
    marker = f"1{time.time_ns()}"
    with pytest.raises(TimeoutException):
        sandbox.commands.run(f"sleep {marker}", timeout=1)
    for _ in range(200):
        if all(marker not in " ".join(info.args) for info in sandbox.commands.list()):
            break
        time.sleep(0.02)
    else:
        pytest.fail("the process outlived its timeout")


def test_background_reconnect_and_kill(sandbox):
    handle = sandbox.commands.run("echo first; read line; echo $line", background=True, stdin=True)
    assert next(out for out, _, _ in handle if out) == "first\n"
    assert handle.pid in [info.pid for info in sandbox.commands.list()]
    handle.disconnect()
    again = sandbox.commands.connect(handle.pid)
    sandbox.commands.send_stdin(handle.pid, "second\n")
    # Only what is new: the client that left has the rest.
    assert again.wait().stdout == "second\n"

    sleeper = sandbox.commands.run("sleep 1000", background=True)
    assert sandbox.commands.kill(sleeper.pid) is True
    with pytest.raises(CommandExitException) as failure:
        sleeper.wait()
    assert failure.value.error == "signal: killed"
    assert sandbox.commands.kill(sleeper.pid) is False
    with pytest.raises(NotFoundException):
        list(sandbox.commands.connect(4_000_000))


def test_stdin_can_be_closed(sandbox):
    handle = sandbox.commands.run("cat", background=True, stdin=True)
    sandbox.commands.send_stdin(handle.pid, "a" * 300_000)
    sandbox.commands.close_stdin(handle.pid)
    assert handle.wait().stdout == "a" * 300_000


def test_stdin_streams(sandbox):
    if not hasattr(sandbox.commands, "stream_input"):
        pytest.skip("this SDK has no stream_input")
    handle = sandbox.commands.run("cat", background=True, stdin=True)
    lines = [f"{number}\n".encode() for number in range(500)]
    sandbox.commands.stream_input(handle.pid, lines)
    sandbox.commands.close_stdin(handle.pid)
    assert handle.wait().stdout.encode() == b"".join(lines)


def test_terminal(sandbox):
    output = []
    terminal = sandbox.pty.create(PtySize(rows=30, cols=100), envs={"PS1": "$ "})
    sandbox.pty.resize(terminal.pid, PtySize(rows=40, cols=120))
    sandbox.pty.send_stdin(terminal.pid, b"stty size; echo $TERM; exit 5\n")
    with pytest.raises(CommandExitException) as failure:
        terminal.wait(on_pty=output.append)
    assert failure.value.exit_code == 5
    text = b"".join(output)
    assert b"40 120" in text and b"xterm-256color" in text


def test_async_commands_run_at_once(async_sandbox):
    async def run():
        sandbox = await async_sandbox()
        results = await asyncio.gather(
            *(sandbox.commands.run(f"sleep 0.2; echo {number}") for number in range(16))
        )
        assert [result.stdout for result in results] == [f"{number}\n" for number in range(16)]
        handle = await sandbox.commands.run("sleep 1000", background=True)
        assert await handle.kill() is True

    asyncio.run(run())
