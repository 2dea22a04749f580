"""What the edge tells its operator, and the commands about names and certificates."""

import json
import shutil
import socket
import struct
import subprocess
import tempfile
from pathlib import Path

import httpx
import pytest
from e2b import Sandbox

from support.daemon import Hearth, running
from support.waiting import until


@pytest.fixture(scope="module")
def logged():
    """A daemon that keeps an access log."""
    with tempfile.TemporaryDirectory(prefix="hearth-e2e-log-") as folder:
        path = Path(folder) / "access.log"
        with running(config={"access_log": str(path)}) as hearth:
            yield hearth, path


def test_metrics_and_access_log(logged):
    hearth, path = logged
    with Sandbox.create() as sandbox:
        sandbox.files.write("a", "x" * 1000)
        url = f"{hearth.url}/hidden?signature=secret"
        headers = {"E2b-Sandbox-Id": sandbox.sandbox_id, "E2b-Sandbox-Port": "8099"}
        assert httpx.get(url, headers=headers, timeout=60).status_code == 502
        metrics = httpx.get(f"http://127.0.0.1:{hearth.metrics_port}/metrics", timeout=60)
        assert metrics.headers["content-type"].startswith("text/plain; version=0.0.4")
        one = f'sandbox="{sandbox.sandbox_id}"'
        assert f'hearth_edge_refusals_total{{{one},code="5xx"}} 1\n' in metrics.text
        assert f'hearth_edge_requests_total{{{one},code="2xx"}}' in metrics.text
        received = next(
            int(line.split()[-1])
            for line in metrics.text.splitlines()
            if line.startswith(f"hearth_edge_received_bytes_total{{{one}")
        )
        assert received >= 1000
        log = until(lambda: "/hidden" in path.read_text() and path.read_text(), "the line")
        assert "secret" not in log and sandbox._envd_access_token not in log
        line = next(json.loads(line) for line in log.splitlines() if "/hidden" in line)
        assert line["sandbox"] == sandbox.sandbox_id
        assert (line["port"], line["method"], line["path"]) == (8099, "GET", "/hidden")
        assert (line["status"], line["tls"]) == (502, False)
        assert path.stat().st_mode & 0o077 == 0
    gone = httpx.get(f"http://127.0.0.1:{hearth.metrics_port}/metrics", timeout=60).text
    assert sandbox.sandbox_id not in gone


def test_metrics_are_not_on_the_public_ports(logged):
    hearth, _ = logged
    assert httpx.get(f"{hearth.url}/metrics", timeout=60).status_code == 404


@pytest.mark.skipif(shutil.which("certutil") is None, reason="there is no certutil")
def test_browsers_trust_and_no_longer(logged, tmp_path):
    hearth, _ = logged
    environment = {**hearth.environment, "HOME": str(tmp_path)}
    environment.pop("SUDO_USER", None)

    def trust(*arguments):
        command = hearth.command("trust", "--browsers", *arguments)
        return subprocess.run(
            command, env=environment, check=True, capture_output=True, text=True, timeout=60
        )

    def listed():
        database = f"sql:{tmp_path}/.pki/nssdb"
        command = ["certutil", "-d", database, "-L"]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    trust()
    trust()
    assert listed().count("Hearth local CA") == 1
    trust("--undo")
    assert "Hearth local CA" not in listed()


def ask(address, name):
    """The IPv4 addresses of a name."""
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
    query = struct.pack(">6H", 7, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">2H", 1, 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(30)
        client.sendto(query, address)
        answer = client.recv(512)
    code, count = answer[3] & 15, struct.unpack(">H", answer[6:8])[0]
    records = answer[len(query) :]
    return code, [socket.inet_ntoa(records[16 * n + 12 : 16 * n + 16]) for n in range(count)]


def test_dns_serves_the_domain():
    hearth = Hearth(config={"api": {"domain": "sbx.example.com:8443"}})
    server = subprocess.Popen(
        hearth.command("dns", "--listen", "127.0.0.1:0", "--answer", "192.0.2.7"),
        env=hearth.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert server.stdout is not None
        line = server.stdout.readline()
        host, port = line.rsplit(" at ", 1)[1].strip().rstrip(".").rsplit(":", 1)
        address = (host, int(port))
        for name in ("sbx.example.com", "8080-iabc.sbx.example.com", "api.SBX.example.com"):
            assert ask(address, name) == (0, ["192.0.2.7"])
        assert ask(address, "example.com") == (5, [])
    finally:
        server.terminate()
        assert server.wait(30) == 0
        hearth.close()
