"""`hearth run`, `exec`, `shell`, `cp` and `logs`, as a person types them."""

import json
import os
import pty
import select
import signal
import subprocess
import time

import pytest
from e2b import Sandbox

from support.waiting import until


@pytest.fixture(scope="module")
def hearth(module_hearth):
    return module_hearth


@pytest.fixture(scope="module")
def sandbox(hearth):
    sandbox = Sandbox.create(timeout=900)
    yield sandbox
    sandbox.kill()


def given(hearth, *arguments, text="", seconds=120):
    """Runs a command with `text` as its standard input."""
    return subprocess.run(
        hearth.command(*arguments),
        env=hearth.environment,
        input=text.encode(),
        capture_output=True,
        timeout=seconds,
    )


def running(hearth):
    with hearth.client() as api:
        return {one["sandboxID"] for one in api.get("/v2/sandboxes?state=running").json()}


def test_run_makes_a_sandbox_for_one_command(hearth):
    before = running(hearth)
    script = "echo out; echo err >&2; pwd; exit 7"
    done = hearth.run("run", "--", "sh", "-c", script, check=False)
    assert (done.returncode, done.stderr) == (7, "err\n")
    assert done.stdout.split("\n") == ["out", "/home/user", ""]
    assert running(hearth) == before


def test_run_passes_environment_user_and_input(hearth):
    options = ["run", "-i", "-e", "WHAT=a b", "-u", "root", "-w", "/etc"]
    done = given(hearth, *options, "sh", "-c", "pwd; id -un; echo $WHAT; wc -c", text="x" * 200_000)
    assert done.stdout.decode().split("\n") == ["/etc", "root", "a b", "200000", ""], done.stderr


def test_run_keeps_the_sandbox_when_asked(hearth):
    kept = hearth.run("run", "--keep", "--metadata", "who=me", "touch", "/home/user/here").stderr
    kept = kept.strip()
    try:
        shown = hearth.run("sandbox", "show", kept).stdout
        assert kept in shown and "who=me" in shown, shown
        assert json.loads(hearth.run("sandbox", "show", "--json", kept).stdout)["sandboxID"] == kept
        assert hearth.run("exec", kept, "ls", "/home/user/here").returncode == 0
    finally:
        hearth.run("sandbox", "kill", kept)
    missing = hearth.run("exec", kept, "true", check=False)
    assert missing.returncode == 1 and "404" in missing.stderr, missing.stderr


def test_an_interrupt_ends_command_and_sandbox(hearth):
    before = running(hearth)
    script = "trap 'echo asked; exit 3' TERM; echo ready; while true; do sleep 0.1; done"
    process = subprocess.Popen(
        hearth.command("run", "sh", "-c", script),
        env=hearth.environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60)[0] == "asked\n"
    assert process.returncode == 3
    assert running(hearth) == before


def test_a_closed_pipe_ends_the_command(hearth, sandbox):
    command = hearth.command("exec", sandbox.sandbox_id, "sh", "-c", "while true; do echo y; done")
    process = subprocess.Popen(command, env=hearth.environment, stdout=subprocess.PIPE)
    assert process.stdout.read(2) == b"y\n"
    process.stdout.close()
    assert process.wait(timeout=60) == 141
    until(
        lambda: "echo y" not in sandbox.commands.run("ps ax -o args | grep -v grep").stdout,
        "the command has ended",
    )


def test_how_a_signal_ended_the_command_is_told(hearth, sandbox):
    done = hearth.run("exec", sandbox.sandbox_id, "sh", "-c", "kill -KILL $$", check=False)
    assert done.returncode == 137
    nothing = hearth.run("exec", sandbox.sandbox_id, "no-such-program", check=False)
    assert nothing.returncode == 127 and "no-such-program" in nothing.stderr, nothing.stderr


def read_until(master, text):
    seen = b""
    end = time.monotonic() + 60
    while text not in seen:
        assert time.monotonic() < end, seen
        if select.select([master], [], [], 1)[0]:
            seen += os.read(master, 65536)
    return seen


def test_a_shell_has_this_terminal(hearth, sandbox):
    master, slave = pty.openpty()
    os.set_blocking(master, False)
    subprocess.run(["stty", "rows", "33", "cols", "101"], stdin=slave, check=True)
    settings = subprocess.run(["stty", "-g"], stdin=slave, capture_output=True, check=True).stdout
    process = subprocess.Popen(
        hearth.command("shell", sandbox.sandbox_id),
        env={**hearth.environment, "TERM": "vt100"},
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
    )
    os.write(master, b"stty size; echo $TERM-$((40+2))\n")
    assert b"33 101" in read_until(master, b"vt100-42")
    # An interrupt is the shell's, not this process'.
    # It is sent when the program runs: one that comes while the shell starts it is lost.
    os.write(master, b"sh -c 'echo started-$((40+3)); exec sleep 600'\n")
    read_until(master, b"started-43")
    os.write(master, b"\x03")
    subprocess.run(["stty", "rows", "20", "cols", "70"], stdin=slave, check=True)
    process.send_signal(signal.SIGWINCH)
    os.write(master, b"until stty size | grep '20 70'; do sleep 0.1; done; exit 5\n")
    read_until(master, b"20 70\r\n")
    assert process.wait(timeout=60) == 5
    after = subprocess.run(["stty", "-g"], stdin=slave, capture_output=True, check=True).stdout
    assert after == settings
    os.close(master)
    os.close(slave)
    refused = hearth.run("shell", sandbox.sandbox_id, check=False)
    assert refused.returncode == 1 and "not a terminal" in refused.stderr


def test_files_and_directories_are_copied_both_ways(hearth, sandbox, tmp_path):
    there = sandbox.sandbox_id
    content = os.urandom(3_000_001)
    (tmp_path / "tree/sub").mkdir(parents=True)
    (tmp_path / "tree/sub/file").write_bytes(content)
    (tmp_path / "tree/link").symlink_to("sub/file")
    (tmp_path / "one").write_bytes(content)
    # A file: under a new name, and into a directory.
    hearth.run("cp", str(tmp_path / "one"), f"{there}:/home/user/new/name")
    hearth.run("cp", str(tmp_path / "one"), f"{there}:/home/user/new")
    assert sandbox.files.read("/home/user/new/name", format="bytes") == content
    assert sandbox.files.read("/home/user/new/one", format="bytes") == content
    hearth.run("cp", f"{there}:new/one", str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == content
    # A directory: likewise.
    hearth.run("cp", str(tmp_path / "tree"), f"{there}:/home/user/copy")
    hearth.run("cp", str(tmp_path / "tree"), f"{there}:/home/user/copy")
    assert sandbox.commands.run("find copy | sort").stdout.split() == [
        "copy",
        "copy/link",
        "copy/sub",
        "copy/sub/file",
        "copy/tree",
        "copy/tree/link",
        "copy/tree/sub",
        "copy/tree/sub/file",
    ]
    hearth.run("cp", f"{there}:/home/user/copy/tree", str(tmp_path))
    hearth.run("cp", f"{there}:/home/user/copy/tree", str(tmp_path / "again"))
    for name in ("tree", "again"):
        assert (tmp_path / name / "sub/file").read_bytes() == content
        assert os.readlink(tmp_path / name / "link") == "sub/file"


def test_copies_that_cannot_be_are_refused(hearth, sandbox, tmp_path):
    there = sandbox.sandbox_id
    (tmp_path / "old").write_text("old")
    for arguments, words in [
        ((str(tmp_path / "none"), f"{there}:/tmp/x"), "none"),
        ((f"{there}:/no/such", str(tmp_path / "old")), "not exist"),
        ((str(tmp_path), f"{there}:/etc/denied"), "denied"),
        (("a", "b"), "SANDBOX:PATH"),
        ((f"{there}:", "b"), "missing"),
    ]:
        done = hearth.run("cp", *arguments, check=False)
        assert done.returncode != 0 and words in done.stderr.lower().replace(
            "sandbox:path", "SANDBOX:PATH"
        ), (arguments, done.stderr)
    assert (tmp_path / "old").read_text() == "old"


def test_logs_are_printed_and_followed_to_the_end(hearth):
    sandbox = Sandbox.create(timeout=300)
    sandbox.commands.run("echo first")
    until(lambda: "first" in hearth.run("logs", sandbox.sandbox_id).stdout, "there is a log")
    follow = subprocess.Popen(
        hearth.command("logs", "-f", "-n", "0", "--json", sandbox.sandbox_id),
        env=hearth.environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        sandbox.commands.run("true")
        entry = json.loads(follow.stdout.readline())
        assert {"timestamp", "level", "message", "fields"} <= set(entry)
    finally:
        sandbox.kill()
    assert follow.wait(timeout=60) == 0


def test_shells_and_man_are_served(hearth, tmp_path):
    script = hearth.run("completions", "bash").stdout
    checked = subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True)
    assert checked.returncode == 0 and "hearth__subcmd__sandbox" in script, checked.stderr
    hearth.run("man", str(tmp_path / "man"))
    pages = {page.name for page in (tmp_path / "man").iterdir()}
    assert {"hearth.1", "hearth-sandbox-ls.1", "hearth-run.1"} <= pages
    assert hearth.run("man").stdout.startswith(".ie")
