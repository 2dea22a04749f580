"""Pseudo-terminals."""

import re

import pytest
from e2b import CommandExitException
from e2b.sandbox.commands.command_handle import PtySize

from support.waiting import Background, Collector, until


@pytest.fixture
def terminal(sandbox):
    """A shell on a terminal, what it shows, and its end."""
    handle = sandbox.pty.create(PtySize(rows=24, cols=80), envs={"PS1": "$ "}, timeout=0)
    screen = Collector()
    ending = Background(lambda: handle.wait(on_pty=screen))
    yield handle, screen, ending
    sandbox.pty.kill(handle.pid)


def type_line(sandbox, handle, line):
    sandbox.pty.send_stdin(handle.pid, f"{line}\n".encode())


# The typed line is echoed, so results are written such that the echo of the
# command never contains them.


def test_shell_runs_what_is_typed(sandbox, terminal):
    handle, screen, _ = terminal
    type_line(sandbox, handle, "echo result-$((6*7)); tty; echo $TERM")
    shown = screen.wait_for("xterm-256color")
    assert "result-42" in shown
    assert "/dev/pts/" in shown


def test_size_and_resize(sandbox, terminal):
    handle, screen, _ = terminal
    type_line(sandbox, handle, "echo size=$(stty size)=")
    screen.wait_for("size=24 80=")
    sandbox.pty.resize(handle.pid, PtySize(rows=50, cols=132))
    type_line(sandbox, handle, "echo size=$(stty size)=")
    screen.wait_for("size=50 132=")


def test_interrupt_key_reaches_the_foreground_program(sandbox, terminal):
    handle, screen, _ = terminal
    # Said by the program itself: by then it is the terminal's foreground.
    type_line(sandbox, handle, "sh -c 'echo ready-$((1+1)); exec sleep 600'")
    screen.wait_for("ready-2")
    sandbox.pty.send_stdin(handle.pid, b"\x03")
    type_line(sandbox, handle, "echo still-$((1+2))")
    screen.wait_for("still-3")


def test_exit_status(sandbox, terminal):
    handle, _, ending = terminal
    type_line(sandbox, handle, "exit 3")
    with pytest.raises(CommandExitException) as raised:
        ending.result()
    assert raised.value.exit_code == 3


def test_end_of_input_ends_the_shell(sandbox, terminal):
    handle, screen, ending = terminal
    type_line(sandbox, handle, "true; echo here-$((2+2))")
    # The key means the end only to a shell that shows its prompt again.
    until(lambda: "$ " in screen.text.partition("here-4")[2], "the next prompt")
    sandbox.pty.send_stdin(handle.pid, b"\x04")
    assert ending.result().exit_code == 0


def test_kill(sandbox, terminal):
    handle, _, ending = terminal
    assert handle.pid in {process.pid for process in sandbox.commands.list()}
    assert sandbox.pty.kill(handle.pid) is True
    with pytest.raises(CommandExitException):
        ending.result()
    until(lambda: sandbox.pty.kill(handle.pid) is False, "the terminal to be gone")


@pytest.mark.parametrize("leave", ["exit", "kill"])
def test_jobs_end_with_the_terminal(sandbox, terminal, leave):
    handle, screen, ending = terminal
    # A job of an interactive shell is a process group of its own.
    type_line(sandbox, handle, "sleep 4321 & echo job=$!=")
    until(lambda: re.search(r"job=\d+=", screen.text), "the job")
    job = re.search(r"job=(\d+)=", screen.text)[1]
    if leave == "exit":
        type_line(sandbox, handle, "exit 0")
        assert ending.result().exit_code == 0
    else:
        assert sandbox.pty.kill(handle.pid) is True
        with pytest.raises(CommandExitException):
            ending.result()

    def is_gone():
        return sandbox.commands.run(f"test ! -e /proc/{job} && echo gone || true").stdout

    until(is_gone, "the job to end")


def test_user_directory_and_environment(sandbox, scratch):
    handle = sandbox.pty.create(
        PtySize(rows=24, cols=200), user="root", cwd=scratch, envs={"GREETING": "hi"}, timeout=0
    )
    screen = Collector()
    ending = Background(lambda: handle.wait(on_pty=screen))
    try:
        type_line(sandbox, handle, 'echo "<$(id -un):$PWD:$GREETING>"')
        screen.wait_for(f"<root:{scratch}:hi>")
    finally:
        sandbox.pty.kill(handle.pid)
    with pytest.raises(CommandExitException):
        ending.result()


def test_second_client_sees_the_same_terminal(sandbox, terminal):
    handle, screen, _ = terminal
    second = sandbox.pty.connect(handle.pid, timeout=0)
    other = Collector()
    watching = Background(lambda: second.wait(on_pty=other))
    type_line(sandbox, handle, "echo both-$((3+4))")
    screen.wait_for("both-7")
    other.wait_for("both-7")
    type_line(sandbox, handle, "exit 0")
    assert watching.result().exit_code == 0
