"""Template builds that end badly: each with a reason and a step, and nothing left."""

import hashlib
import json
import os
import shutil
import socket
import subprocess
import tempfile
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Iterator, Optional

import httpx
import pytest

from support import machine
from support.builds import output
from support.daemon import Hearth, running
from support.waiting import until

# A build that does not end by itself runs beside the other tests meanwhile.
LIMIT_SECONDS = 60
MIB = 1 << 20


@dataclass
class Build:
    template: str
    id: str
    client: httpx.Client

    @property
    def path(self) -> str:
        return f"/templates/{self.template}/builds/{self.id}"

    def status(self, offset: int = 1 << 30) -> dict[str, Any]:
        answer = self.client.get(f"{self.path}/status", params={"logsOffset": offset})
        answer.raise_for_status()
        return answer.json()

    def said(self, text: str) -> bool:
        return text in output(entry["message"] for entry in self.status(0)["logEntries"])

    def failure(self, seconds: float = 90) -> tuple[str, Optional[str]]:
        """Why it failed, and at which step."""
        status = until(self._ended, "the build to end", seconds, every=0.3)
        assert status["status"] == "error", status
        return status["reason"]["message"], status["reason"].get("step")

    def _ended(self) -> Optional[dict[str, Any]]:
        status = self.status()
        return status if status["status"] in ("ready", "error") else None


def register(client: httpx.Client) -> httpx.Response:
    body = {"name": f"limits-{uuid.uuid4().hex[:8]}", "cpuCount": 1, "memoryMB": 256}
    return client.post("/v3/templates", json=body)


def registered(client: httpx.Client) -> Build:
    answer = register(client)
    assert answer.status_code == 202, answer.text
    return Build(answer.json()["templateID"], answer.json()["buildID"], client)


def begin(client: httpx.Client, *commands: str, **more: Any) -> Build:
    build = registered(client)
    steps = [{"type": "RUN", "args": [command, "root"]} for command in commands]
    start(build, steps, **more)
    return build


def start(build: Build, steps: list[dict[str, Any]], **more: Any) -> None:
    body = {"fromTemplate": "base", "steps": steps, **more}
    answer = build.client.post(f"/v2{build.path}", json=body)
    assert answer.status_code == 202, answer.text


@pytest.fixture(scope="module")
def state() -> Iterator[Path]:
    """A disk of its own, so that it can be filled."""
    home = Path(tempfile.mkdtemp(prefix="hearth-limits-", dir="/tmp"))
    home.chmod(0o755)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6g,mode=755", "limits", home], check=True)
    try:
        yield home / "state"
    finally:
        subprocess.run(["umount", home], check=True)
        home.rmdir()


@pytest.fixture(scope="module")
def daemon(state: Path) -> Iterator[Hearth]:
    config = {
        "builds": {"limit_seconds": LIMIT_SECONDS, "ready_limit_seconds": 4, "upload_mib": 1},
        "limits": {"concurrent_builds": 2},
    }
    with running(config=config, state_dir=state) as daemon:
        yield daemon
        assert_nothing_left(daemon)


@pytest.fixture(scope="module")
def client(daemon: Hearth) -> Iterator[httpx.Client]:
    with daemon.client() as client:
        yield client


@pytest.fixture(scope="module")
def endless(client: httpx.Client) -> Build:
    return begin(client, "true", "echo begun; while :; do sleep 1; done")


def vm_records(daemon: Hearth) -> list[dict[str, Any]]:
    """What the daemon wrote down of the VMs of its builds."""
    files = (daemon.state_dir / "templates" / "vms").glob("*.json")
    return [json.loads(file.read_text()) for file in files]


def assert_nothing_left(daemon: Hearth) -> None:
    assert list((daemon.state_dir / "templates" / "work").iterdir()) == []
    assert vm_records(daemon) == []
    assert machine.vm_processes(daemon.run_dir) == []
    assert machine.mounts_under(daemon.state_dir) == set()


def test_more_builds_than_a_team_may_have_are_refused(client: httpx.Client, endless: Build):
    other = registered(client)
    refused = register(client)
    assert refused.status_code == 429
    assert "concurrent template builds (2)" in refused.json()["message"]
    # One that was never begun is given up like any other.
    assert client.delete(other.path).status_code == 204


def test_a_flood_is_cut_and_a_full_disk_is_named(client: httpx.Client, endless: Build):
    fill = (
        "avail=$(df --output=avail -B1 / | tail -1); "
        "fallocate -l $((avail - 8000000)) /var/tmp/most; cat /dev/zero > /var/tmp/rest"
    )
    build = begin(client, "yes 0123456789 | head -c 6000000", fill)
    message, step = build.failure()
    assert step == "2" and "No space left on device" in message
    entries = build.status(49_990)["logEntries"]
    assert any("reached its limit" in entry["message"] for entry in entries)
    # What failed is said all the same, as the last word.
    assert entries[-1]["message"] == message and entries[-1]["level"] == "error"
    assert build.status(50_100)["logEntries"] == []


def test_a_ready_command_that_never_succeeds(client: httpx.Client, endless: Build):
    build = begin(client, startCmd="sleep 100000", readyCmd="false")
    message, step = build.failure()
    assert step == "finalize" and "did not succeed within 4 s: false" in message


def test_a_start_command_that_fails(client: httpx.Client, endless: Build):
    build = begin(client, startCmd="echo no; exit 7", readyCmd="false")
    message, step = build.failure()
    assert step == "finalize" and "start command" in message


def link(client: httpx.Client, build: Build, content: bytes) -> tuple[str, httpx.URL]:
    digest = hashlib.sha256(content).hexdigest()
    answer = client.get(f"/templates/{build.template}/files/{digest}")
    assert answer.status_code == 201 and not answer.json()["present"], answer.text
    return digest, httpx.URL(answer.json()["url"])


def test_uploads_are_taken_whole_or_not_at_all(client: httpx.Client, endless: Build):
    build = registered(client)
    content = os.urandom(3000)
    digest, url = link(client, build, content)
    other = hashlib.sha256(b"other").hexdigest()
    forged = url.copy_with(path=url.path.replace(digest, other))
    outside = httpx.Client(timeout=30)
    assert outside.put(forged, content=content).status_code == 403
    assert outside.put(url.copy_remove_param("signature"), content=content).status_code == 403
    assert outside.put(url, content=iter([content])).status_code == 411
    assert outside.put(url, content=bytes(MIB + 1)).status_code in (400, 413)
    # Announces more than it sends.
    with socket.create_connection((url.host, url.port), timeout=30) as raw:
        head = f"PUT {url.raw_path.decode()} HTTP/1.1\r\nHost: {url.netloc.decode()}\r\n"
        raw.sendall(f"{head}Content-Length: 5000\r\n\r\n".encode() + content)
        raw.shutdown(socket.SHUT_WR)
        answer = raw.recv(4096)
        assert not answer.startswith(b"HTTP/1.1 2"), answer
    link(client, build, content)
    # The hash says nothing that the server could check; that it is no archive does.
    assert outside.put(url, content=content).status_code == 200
    copy = {"type": "COPY", "args": ["x", "/x", "", ""], "filesHash": digest}
    start(build, [{"type": "RUN", "args": ["true"]}, copy])
    message, step = build.failure()
    assert step == "2" and "cannot be read as an archive" in message
    # It is asked for again, not believed for ever.
    link(client, build, content)
    outside.close()


def test_a_node_without_disk_space_says_so(daemon: Hearth, client: httpx.Client, endless: Build):
    filler = daemon.state_dir.parent / "filler"
    free = shutil.disk_usage(daemon.state_dir).free
    try:
        with open(filler, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, free - 200 * MIB)
        message, step = begin(client, "true").failure()
        assert step == "base" and message == "the node is out of disk space"
    finally:
        filler.unlink(missing_ok=True)


def test_a_step_that_never_ends_is_given_up(daemon: Hearth, endless: Build):
    message, step = endless.failure(LIMIT_SECONDS + 30)
    assert step == "2" and f"longer than {LIMIT_SECONDS} s" in message
    assert_nothing_left(daemon)


def test_a_killed_daemon_leaves_a_build_that_failed(daemon: Hearth, client: httpx.Client):
    build = begin(client, "echo begun; sleep 100000")
    until(lambda: build.said("begun"), "the step to run", every=0.3)
    daemon.kill()
    left = machine.vm_processes(daemon.run_dir)
    records = vm_records(daemon)
    assert [record["machine"]["pid"] for record in records] == left
    assert [record["build"] for record in records] == [build.id]
    log = daemon.state_dir / "hearth.log"
    before = len(log.read_text(errors="replace"))
    daemon.start()
    said = log.read_text(errors="replace")[before:]
    # By its record, not by looking through all processes.
    assert "end VM of a build that was cut off" in said
    assert "end VM that was left over" not in said
    message, step = build.failure()
    assert "interrupted" in message and step is None
    assert_nothing_left(daemon)
