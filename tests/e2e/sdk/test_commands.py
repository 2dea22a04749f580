"""Commands, as a user of the SDK runs them."""

import hashlib
import uuid

import pytest
from e2b import (
    AuthenticationException,
    CommandExitException,
    InvalidArgumentException,
    NotFoundException,
    TimeoutException,
)

from support.waiting import Background, Collector, until


def running_pids(sandbox):
    return {process.pid for process in sandbox.commands.list()}


def test_result_has_output_and_exit_code(sandbox):
    result = sandbox.commands.run("echo out; echo err >&2")
    assert (result.stdout, result.stderr, result.exit_code) == ("out\n", "err\n", 0)
    assert result.error is None


@pytest.mark.parametrize("code", [1, 7, 255])
def test_failing_command_raises_with_its_output(sandbox, code):
    with pytest.raises(CommandExitException) as raised:
        sandbox.commands.run(f"echo before; echo why >&2; exit {code}")
    assert raised.value.exit_code == code
    assert raised.value.stdout == "before\n"
    assert raised.value.stderr == "why\n"


def test_unknown_program_exits_with_127(sandbox):
    with pytest.raises(CommandExitException) as raised:
        sandbox.commands.run("no-such-program-anywhere")
    assert raised.value.exit_code == 127
    assert "no-such-program-anywhere" in raised.value.stderr


def test_output_arrives_while_the_command_runs(sandbox, scratch):
    # The command ends only after the callback saw its first line.
    seen = []

    def on_stdout(text):
        seen.append(text)
        if "first" in text:
            sandbox.files.write(f"{scratch}/go", "")

    result = sandbox.commands.run(
        f"echo first; until [ -e {scratch}/go ]; do sleep 0.05; done; echo second",
        on_stdout=on_stdout,
    )
    assert "".join(seen) == result.stdout == "first\nsecond\n"
    assert seen[0] == "first\n"


def test_stdout_and_stderr_have_their_own_callbacks(sandbox):
    out, err = Collector(), Collector()
    sandbox.commands.run("echo a; echo b >&2", on_stdout=out, on_stderr=err)
    assert (out.text, err.text) == ("a\n", "b\n")


def test_output_is_utf_8_whatever_its_pieces(sandbox):
    # Two bytes of a three-byte character, a pause, the rest.
    result = sandbox.commands.run(
        r"""python3 -c '
import sys, time
raw = "héllo ✓ 🦀\n".encode()
for byte in raw:
    sys.stdout.buffer.write(bytes([byte])); sys.stdout.buffer.flush()
'"""
    )
    assert result.stdout == "héllo ✓ 🦀\n"


def test_large_output_is_whole(sandbox):
    size = 4 * 1024 * 1024
    result = sandbox.commands.run(
        f"""python3 -c 'import sys; sys.stdout.write("".join(chr(97 + i % 26) for i in range({size})))'"""
    )
    expected = "".join(chr(97 + i % 26) for i in range(size))
    assert len(result.stdout) == size
    assert (
        hashlib.sha256(result.stdout.encode()).digest()
        == hashlib.sha256(expected.encode()).digest()
    )


def test_shell_features_work(sandbox):
    result = sandbox.commands.run(
        "x=$(seq 3 | tr '\\n' ','); echo \"${x%,}\" | sed 's/,/+/g' | { read l; echo $((l)); }"
    )
    assert result.stdout == "6\n"


def test_environment_of_sandbox_and_command(create):
    sandbox = create(envs={"SHARED": "sandbox", "KEPT": "with spaces and 'quotes'"})
    show = 'echo "$SHARED|$KEPT|$ONLY"'
    assert sandbox.commands.run(show).stdout == "sandbox|with spaces and 'quotes'|\n"
    one = sandbox.commands.run(show, envs={"SHARED": "command", "ONLY": "here"})
    assert one.stdout == "command|with spaces and 'quotes'|here\n"
    # The command's own variables are gone with it.
    assert sandbox.commands.run(show).stdout == "sandbox|with spaces and 'quotes'|\n"
    # And nothing of it reaches another user through sudo.
    assert sandbox.commands.run("sudo sh -c 'echo \"[$SHARED]\"'").stdout == "[]\n"


def test_working_directory(sandbox, scratch):
    assert sandbox.commands.run("pwd").stdout == "/home/user\n"
    assert sandbox.commands.run("pwd", cwd=scratch).stdout == f"{scratch}\n"
    with pytest.raises(InvalidArgumentException) as raised:
        sandbox.commands.run("pwd", cwd="/no/such/dir")
    assert "/no/such/dir" in str(raised.value)


def test_users(sandbox):
    who = 'echo "$(id -un) $(id -u) $HOME $USER"'
    assert sandbox.commands.run(who).stdout == "user 1000 /home/user user\n"
    assert sandbox.commands.run(who, user="root").stdout == "root 0 /root root\n"
    with pytest.raises(AuthenticationException):
        sandbox.commands.run(who, user="nobody-of-this-name")


def test_user_has_sudo_without_password(sandbox):
    assert sandbox.commands.run("sudo -n id -u").stdout == "0\n"


def test_time_limit_ends_the_command(sandbox):
    marker = f"limit-{uuid.uuid4().hex}"
    with pytest.raises(TimeoutException):
        sandbox.commands.run(f"exec -a {marker} sleep 600", timeout=2)
    until(
        lambda: not any(marker in " ".join(p.args) for p in sandbox.commands.list()),
        "the command to be ended after its time limit",
    )


def test_background_command_and_its_listing(sandbox, scratch):
    handle = sandbox.commands.run(
        f"until [ -e {scratch}/go ]; do sleep 0.05; done; echo done",
        background=True,
        envs={"MARK": "listed"},
        cwd=scratch,
    )
    listed = [p for p in sandbox.commands.list() if p.pid == handle.pid]
    assert len(listed) == 1
    assert listed[0].cmd == "/bin/bash"
    assert listed[0].args[:2] == ["-l", "-c"]
    assert listed[0].envs.get("MARK") == "listed"
    assert listed[0].cwd == scratch
    sandbox.files.write(f"{scratch}/go", "")
    assert handle.wait().stdout == "done\n"
    until(lambda: handle.pid not in running_pids(sandbox), "the ended command to leave the list")


def test_kill_by_handle_and_by_pid(sandbox):
    for kill in (lambda h: h.kill(), lambda h: sandbox.commands.kill(h.pid)):
        handle = sandbox.commands.run("sleep 600", background=True)
        assert kill(handle) is True
        with pytest.raises(CommandExitException) as raised:
            handle.wait()
        assert raised.value.exit_code != 0
    assert sandbox.commands.kill(999_999) is False


def test_stdin_until_it_is_closed(sandbox):
    handle = sandbox.commands.run("cat; echo end", background=True, stdin=True)
    handle.send_stdin("one\n")
    sandbox.commands.send_stdin(handle.pid, "two ✓\n")
    handle.close_stdin()
    assert handle.wait().stdout == "one\ntwo ✓\nend\n"


def test_stdin_conversation(sandbox):
    out = Collector()
    handle = sandbox.commands.run(
        'while read -r line; do echo "got $line"; [ "$line" = bye ] && exit 3; done',
        background=True,
        stdin=True,
    )
    waiting = Background(lambda: handle.wait(on_stdout=out))
    handle.send_stdin("hello\n")
    out.wait_for("got hello")
    handle.send_stdin("bye\n")
    with pytest.raises(CommandExitException) as raised:
        waiting.result()
    assert raised.value.exit_code == 3
    assert out.text == "got hello\ngot bye\n"


def test_command_without_stdin_reads_its_end(sandbox):
    assert sandbox.commands.run("cat; echo end").stdout == "end\n"


def test_stdin_of_a_command_that_is_gone(sandbox):
    with pytest.raises(NotFoundException):
        sandbox.commands.send_stdin(999_999, "lost")


def test_large_stdin_is_whole(sandbox):
    piece = "0123456789abcdef" * 4096
    handle = sandbox.commands.run("sha256sum", background=True, stdin=True)
    for _ in range(8):
        handle.send_stdin(piece)
    handle.close_stdin()
    assert handle.wait().stdout.split()[0] == hashlib.sha256((piece * 8).encode()).hexdigest()


def test_stream_input(sandbox, sdk_version):
    if sdk_version < (2, 60):
        pytest.skip("this SDK has no stream_input")
    handle = sandbox.commands.run("cat", background=True, stdin=True)
    sandbox.commands.stream_input(handle.pid, (f"{i}\n" for i in range(5)))
    handle.close_stdin()
    assert handle.wait().stdout == "0\n1\n2\n3\n4\n"


def test_connect_to_a_running_command(sandbox, scratch):
    first = sandbox.commands.run(
        f"until [ -e {scratch}/go ]; do sleep 0.05; done; echo shared; exit 4", background=True
    )
    second = sandbox.commands.connect(first.pid)
    assert second.pid == first.pid
    sandbox.files.write(f"{scratch}/go", "")
    for handle in (first, second):
        with pytest.raises(CommandExitException) as raised:
            handle.wait()
        assert (raised.value.exit_code, raised.value.stdout) == (4, "shared\n")
    with pytest.raises(NotFoundException):
        sandbox.commands.connect(999_999)


def test_disconnecting_leaves_the_command_running(sandbox, scratch):
    handle = sandbox.commands.run(
        f"until [ -e {scratch}/go ]; do sleep 0.05; done; echo ok > {scratch}/result",
        background=True,
    )
    handle.disconnect()
    assert handle.pid in running_pids(sandbox)
    sandbox.files.write(f"{scratch}/go", "")
    until(lambda: sandbox.files.exists(f"{scratch}/result"), "the command to go on alone")
    until(lambda: handle.pid not in running_pids(sandbox), "the command to end")


def test_background_children_do_not_hold_the_command(sandbox):
    # The shell ends at once; what it left behind keeps its pipes open.
    handle = sandbox.commands.run("sleep 600 >/dev/null 2>&1 & echo started", timeout=120)
    assert handle.stdout == "started\n"


def test_commands_run_side_by_side(sandbox, scratch):
    # Each waits for all others: in turn they would never end.
    count = 5
    handles = [
        sandbox.commands.run(
            f"touch {scratch}/{i}; until [ $(ls {scratch} | wc -l) -eq {count} ]; do sleep 0.05; done; echo {i}",
            background=True,
        )
        for i in range(count)
    ]
    assert [handle.wait().stdout for handle in handles] == [f"{i}\n" for i in range(count)]


@pytest.mark.parametrize(
    "command",
    [
        "python --version",
        "python3 -c 'import ssl, sqlite3, venv; print(6 * 7)'",
        "pip --version",
        "node -e 'console.log(6 * 7)'",
        "git --version",
        "curl --version",
        "ip address show lo",
        "ps aux",
        "infocmp xterm-256color",
    ],
)
def test_base_template_has_the_tools(sandbox, command):
    assert sandbox.commands.run(command).stdout.strip()


def test_program_from_a_file(sandbox, scratch):
    sandbox.files.write(
        f"{scratch}/fib.py",
        "a, b = 0, 1\nfor _ in range(90):\n    a, b = b, a + b\nprint(a)\n",
    )
    assert sandbox.commands.run("python fib.py", cwd=scratch).stdout == "2880067194370816120\n"
