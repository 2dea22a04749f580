"""What a command under `scripts/isolated` sees, and what is left of it."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Callable

import pytest

ISOLATED = Path(__file__).resolve().parents[2] / "scripts" / "isolated"

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="makes namespaces, which needs root")


def isolated(*arguments: str, home: Path = Path("/tmp")) -> subprocess.CompletedProcess:
    return subprocess.run(
        [str(ISOLATED), *arguments],
        env={**os.environ, "TMPDIR": str(home)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )


def traces() -> set[str]:
    """Links, namespaces, rules and groups that runs make."""
    found = set(re.findall(r"\be2e\d+", run("ip", "-o", "link")))
    found |= set(re.findall(r"^e2e-\S+", run("ip", "netns", "list"), re.M))
    found |= set(re.findall(r"table ip e2e\d+", run("nft", "list", "tables")))
    found |= {str(path) for path in Path("/sys/fs/cgroup").glob("*/e2e-*")}
    return found | {str(path) for path in Path("/sys/fs/cgroup").glob("e2e-*")}


def run(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def test_a_command_is_alone_and_leaves_nothing(tmp_path):
    before = traces()
    (Path("/run") / "hearth-test-marker").touch()
    script = """
        echo "pid $$ of $(ls -d /proc/[0-9]* | wc -l)"
        ls /sys/class/net | sed 's/^/link /'
        ls /run/hearth-test-marker 2>/dev/null
        ls -A /var/lib/hearth
        find /sys/fs/cgroup -name '*e2e-*'
        exit 7
    """
    try:
        done = isolated("bash", "-c", script, home=tmp_path)
    finally:
        (Path("/run") / "hearth-test-marker").unlink()
    assert done.returncode == 7, done.stderr
    lines = done.stdout.split("\n")
    processes = re.fullmatch(r"pid \d+ of (\d+)", lines[0])
    assert processes and int(processes.group(1)) < 10, lines
    assert lines[1:] == ["link lo", ""], lines
    assert not traces() - before
    assert not list(tmp_path.iterdir())


def test_the_link_leads_to_this_host_and_two_runs_differ():
    with socket.create_server(("0.0.0.0", 0)) as server:
        port = server.getsockname()[1]
        program = f"""
import socket, subprocess
route = subprocess.run(["ip", "route", "show", "default"], capture_output=True, text=True).stdout
gateway = route.split()[2]
with socket.create_connection((gateway, {port}), timeout=20) as link:
    link.sendall(gateway.encode())
    link.recv(1)
"""
        runs = [
            subprocess.Popen([str(ISOLATED), "--internet", sys.executable, "-c", program])
            for _ in range(2)
        ]
        server.settimeout(60)
        links = [server.accept()[0] for _ in runs]
        gateways = {link.recv(100) for link in links}
        for link in links:
            link.close()
    assert [process.wait(60) for process in runs] == [0, 0]
    assert len(gateways) == 2


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_the_command_ends_with_the_script(end, tmp_path):
    # Seen from outside, its command line names this test alone.
    marker = f"sleep 98{os.getpid()}"
    process = subprocess.Popen([str(ISOLATED), "bash", "-c", f"{marker} & wait"])

    def runs() -> bool:
        return marker in run("ps", "-eo", "args").replace("bash -c", "")

    until(runs, "the command to run")
    process.send_signal(end)
    process.wait(30)
    until(lambda: not any(line.startswith(marker) for line in run("ps", "-eo", "args").splitlines()),
          "the command to end")


def test_its_arguments_are_checked():
    assert isolated().returncode != 0
    assert "no command" in isolated("--internet").stderr
    assert isolated("no-such-program").returncode == 127
