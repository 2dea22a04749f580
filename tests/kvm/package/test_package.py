"""The Debian package, in a machine with systemd: installed, used, upgraded, removed.

The tests run in the order in which they stand here, on one installation. Nothing else
runs Hearth in the machine meanwhile.
"""

import os
import re
import shlex
import signal
import subprocess
from pathlib import Path
from typing import Any, Iterator

import pytest
from e2b import Sandbox

from support import machine
from support.waiting import until

PACKAGES = Path("/kvm-machine/packages")
RUN_DIR = Path("/run/hearth")
STATE_DIR = Path("/var/lib/hearth")
CONFIG = Path("/etc/hearth/hearth.toml")
DROP_IN = Path("/etc/systemd/system/hearth.service.d/cache.conf")
# The image of the guests is made at the first start, in an emulated machine.
START_SECONDS = 900


def command(*arguments: str, check: bool = True) -> str:
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=600)
    assert not check or done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def state_of_service() -> str:
    return command("systemctl", "is-active", "hearth", check=False).strip()


def main_pid() -> int:
    return int(command("systemctl", "show", "--value", "-p", "MainPID", "hearth"))


def await_service(other_than: int = 0) -> int:
    """Waits until the service is ready, as another process than the one named."""

    def ready() -> bool:
        return state_of_service() == "active" and main_pid() not in (0, other_than)

    try:
        until(ready, "the service to be active", seconds=START_SECONDS, every=1)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{command('journalctl', '-u', 'hearth')}") from None
    return main_pid()


def installed_version() -> str:
    return command("dpkg-query", "-W", "-f", "${Version}", "hearth")


def newer_package(package: Path, folder: Path) -> Path:
    """The same package as the next version of it."""
    tree, made = folder / "tree", folder / "newer.deb"
    command("dpkg-deb", "-R", str(package), str(tree))
    control = tree / "DEBIAN" / "control"
    control.write_text(re.sub(r"^Version: (.*)$", r"Version: \1+1", control.read_text(), flags=re.M))
    command("dpkg-deb", "--root-owner-group", "-Znone", "--build", str(tree), str(made))
    return made


@pytest.fixture(scope="module")
def package() -> Path:
    (found,) = PACKAGES.glob("hearth_*_amd64.deb")
    return found


@pytest.fixture(scope="module")
def service(package: Path) -> Iterator[int]:
    """The service, once it is up for the first time."""
    DROP_IN.parent.mkdir(parents=True)
    # What guests boot from lies in the machine: without it, it would be downloaded.
    DROP_IN.write_text("[Service]\nEnvironment=HEARTH_CACHE_DIR=/kvm-machine/cache\n")
    said = command("dpkg", "-i", str(package))
    assert "journalctl -fu hearth" in said, "the installation says how to follow the first start"
    yield await_service()
    command("dpkg", "-P", "hearth", check=False)
    DROP_IN.unlink()


@pytest.fixture(scope="module")
def sandbox(service: int) -> Any:
    printed = command("hearth", "env", "--http")
    for line in printed.splitlines():
        (word,) = shlex.split(line.removeprefix("export "))[:1]
        name, _, value = word.partition("=")
        if name.isidentifier():
            os.environ[name] = value
    made = Sandbox.create(timeout=3000)
    made.commands.run("echo 41 > /tmp/kept")
    return made


def test_the_service_is_up_once_sandboxes_can_be_had(sandbox: Any) -> None:
    assert sandbox.commands.run("cat /tmp/kept", timeout=180).stdout.strip() == "41"
    assert command("systemctl", "is-enabled", "hearth").strip() == "enabled"
    shown = command("systemctl", "show", "-p", "Type,StatusText", "hearth").splitlines()
    assert "Type=notify" in shown
    assert "StatusText=serves http://localhost:3000" in shown


def test_the_manual_and_the_completions_are_where_people_look() -> None:
    files = command("dpkg", "-L", "hearth").split()
    for wanted in ("man1/hearth.1.gz", "completions/hearth", "vendor-completions/_hearth"):
        assert any(path.endswith(wanted) for path in files), wanted


def test_a_daemon_that_is_killed_comes_back_with_its_sandboxes(sandbox: Any) -> None:
    (vm,) = machine.vm_processes(RUN_DIR, sandbox.sandbox_id)
    before = main_pid()
    os.kill(before, signal.SIGKILL)
    await_service(other_than=before)
    assert sandbox.commands.run("cat /tmp/kept", timeout=180).stdout.strip() == "41"
    assert machine.vm_processes(RUN_DIR, sandbox.sandbox_id) == [vm]


def test_an_upgrade_keeps_sandboxes_and_configuration(
    sandbox: Any, package: Path, tmp_path: Path
) -> None:
    CONFIG.write_text(CONFIG.read_text() + "\n# the administrator's\n")
    (vm,) = machine.vm_processes(RUN_DIR, sandbox.sandbox_id)
    before, old = main_pid(), installed_version()
    command("dpkg", "-i", str(newer_package(package, tmp_path)))
    await_service(other_than=before)
    assert installed_version() == f"{old}+1"
    assert sandbox.commands.run("cat /tmp/kept", timeout=180).stdout.strip() == "41"
    assert machine.vm_processes(RUN_DIR, sandbox.sandbox_id) == [vm]
    assert "# the administrator's" in CONFIG.read_text()


def test_stopping_leaves_sandboxes_and_a_start_finds_them(sandbox: Any) -> None:
    (vm,) = machine.vm_processes(RUN_DIR, sandbox.sandbox_id)
    command("systemctl", "stop", "hearth")
    assert machine.is_alive(vm), "only `hearth down` and a removal end sandboxes"
    command("systemctl", "start", "hearth")
    assert state_of_service() == "active", "a start returns when the service is ready"
    assert sandbox.commands.run("cat /tmp/kept", timeout=180).stdout.strip() == "41"


def test_removal_ends_the_sandboxes_and_purging_takes_their_data(sandbox: Any) -> None:
    paused = Sandbox.create(timeout=3000)
    paused.pause()
    command("dpkg", "-r", "hearth")
    assert machine.vm_processes(RUN_DIR) == []
    assert machine.network_namespaces() == set()
    assert state_of_service() in ("inactive", "failed", "unknown")
    assert any((STATE_DIR / "builds").iterdir()), "what is paused stays until it is purged"
    command("dpkg", "-P", "hearth")
    assert not STATE_DIR.exists()
    assert not CONFIG.exists()
