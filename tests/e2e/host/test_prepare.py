"""Templates that Hearth has a recipe for, prepared while sandboxes run."""

import subprocess

from e2b import Sandbox

from support import machine
from support.waiting import until


def base(hearth) -> dict:
    with hearth.client() as client:
        return client.get("/templates/base").json()


def staged(hearth) -> list:
    return list((hearth.state_dir / "builds" / ".staging").glob("*"))


def begin(hearth) -> subprocess.Popen:
    """A preparation of `base` whose VM boots."""
    command = subprocess.Popen(
        hearth.command("template", "prepare", "base", "--anew"),
        env=hearth.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    until(lambda: boots(hearth), "the template's VM", seconds=60, every=0.1)
    return command


def boots(hearth) -> bool:
    marker = f"{hearth.run_dir}/template/"
    return any(marker in line for line in machine.command_lines().values())


def test_base_is_made_again_beside_running_sandboxes(module_hearth):
    hearth = module_hearth
    before = base(hearth)
    with Sandbox.create() as sandbox:
        sandbox.files.write("kept.txt", "kept")
        # The daemon goes on without whoever asked it.
        command = begin(hearth)
        command.kill()
        command.wait()
        until(lambda: base(hearth)["buildID"] != before["buildID"], "the build", seconds=120)
        after = base(hearth)
        assert after["templateID"] == before["templateID"]
        with Sandbox.create() as second:
            assert second.commands.run("python3 -c 'print(6 * 7)'").stdout == "42\n"
        assert sandbox.files.read("kept.txt") == "kept"
    # Nothing has changed: nothing is made.
    printed = hearth.run("template", "prepare", "base").stdout
    assert f"from build {after['buildID']} now" in printed
    assert base(hearth)["buildCount"] == after["buildCount"]
    assert not boots(hearth) and staged(hearth) == []


def test_nobody_else_may_ask_for_it(module_hearth):
    socket = module_hearth.run_dir / "admin.sock"
    assert socket.stat().st_mode & 0o077 == 0
    attempt = f"import socket; socket.socket(socket.AF_UNIX).connect({str(socket)!r})"
    command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    command += ["/usr/bin/python3", "-c", attempt]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode != 0 and "PermissionError" in done.stderr


def test_a_killed_daemon_leaves_nothing_half_made(module_hearth):
    hearth = module_hearth
    before = base(hearth)
    command = begin(hearth)
    hearth.kill()
    assert command.wait(30) != 0
    hearth.start()
    assert not boots(hearth) and staged(hearth) == []
    assert base(hearth)["buildID"] == before["buildID"]
    with Sandbox.create() as sandbox:
        assert sandbox.commands.run("echo up").stdout == "up\n"
