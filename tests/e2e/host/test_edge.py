"""What the edge tells its operator, and the commands about names and certificates."""

import contextlib
import json
import shutil
import socket
import ssl
import struct
import subprocess
import tempfile
import threading
from pathlib import Path

import httpx
import pytest
from e2b import Sandbox

from support.daemon import Hearth, running
from support.waiting import until


# So few that a test can reach it.
MOST_OPEN = 8


@pytest.fixture(scope="module")
def logged():
    """A daemon that keeps an access log."""
    with tempfile.TemporaryDirectory(prefix="hearth-e2e-log-") as folder:
        path = Path(folder) / "access.log"
        config = {"access_log": str(path), "edge": {"max_open_per_sandbox": MOST_OPEN}}
        with running(config=config) as hearth:
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


def test_https_ports_and_names_of_headers(logged, tmp_path):
    hearth, _ = logged
    # curl would not take this certificate; the edge takes any.
    openssl = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"
    command = f"{openssl} -subj /CN=inside -keyout {tmp_path}/key -out {tmp_path}/pem"
    subprocess.run(command.split(), check=True, capture_output=True)
    box = Sandbox.create(timeout=600, network={"https_ports": [8443, 8444]})
    try:
        for name in ("key", "pem"):
            box.files.write(f"/tmp/{name}", (tmp_path / name).read_text())
        box.files.write("/tmp/server.py", HTTPS_GUEST)
        box.commands.run("python3 /tmp/server.py", background=True)

        def visit(port: int) -> httpx.Response:
            headers = {"E2b-Sandbox-Id": box.sandbox_id, "E2b-Sandbox-Port": str(port)}
            return httpx.get(hearth.url, headers=headers, timeout=60)

        answer = until(lambda: (a := visit(8443)).status_code == 200 and a, "the server")
        assert {"Host", "User-Agent", "X-Forwarded-For"} <= set(answer.json())
        plain = visit(8444)
        assert plain.status_code == 502 and "httpsPorts" in plain.json()["message"]
        # A port that is not listed is spoken to as ever.
        assert visit(8080).status_code == 200
    finally:
        box.kill()


HTTPS_GUEST = """
import http.server, json, ssl, threading
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(list(self.headers.keys())).encode())
servers = [http.server.ThreadingHTTPServer(('', port), Handler) for port in (8080, 8444, 8443)]
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain('/tmp/pem', '/tmp/key')
servers[2].socket = context.wrap_socket(servers[2].socket, server_side=True)
for server in servers[:2]:
    threading.Thread(target=server.serve_forever, daemon=True).start()
servers[2].serve_forever()
"""

GUEST = """
const http = require('http'), http2 = require('http2')
// Holds every request open, as a stream of events does.
http.createServer((request, response) => {
  response.writeHead(200, {'content-type': 'text/event-stream'})
  response.write('data: open\\n\\n')
}).listen(8000)
// gRPC by hand, without TLS: sends every message back, then says that all is well.
http2.createServer().on('stream', (stream) => {
  let read = Buffer.alloc(0)
  stream.respond({':status': 200, 'content-type': 'application/grpc'}, {waitForTrailers: true})
  stream.on('wantTrailers', () => stream.sendTrailers({'grpc-status': '0'}))
  stream.on('data', (data) => {
    read = Buffer.concat([read, data])
    while (read.length >= 5 && read.length >= 5 + read.readUInt32BE(1)) {
      const end = 5 + read.readUInt32BE(1)
      stream.write(read.subarray(0, end))
      read = read.subarray(end)
    }
  })
  stream.on('end', () => stream.end())
}).listen(50051)
"""


@pytest.fixture(scope="module")
def guest(logged):
    """A sandbox that serves events on port 8000 and gRPC on 50051."""
    sandbox = Sandbox.create(timeout=1200)
    sandbox.files.write("guest.js", GUEST)
    sandbox.commands.run("node guest.js", background=True, timeout=0)
    listening = "grep -c -E ':(1F40|C383) ' /proc/net/tcp6 || true"
    until(lambda: sandbox.commands.run(listening).stdout.strip() == "2", "the guest's servers", 180)
    yield sandbox
    sandbox.kill()


@pytest.fixture
def web(logged):
    hearth, _ = logged
    context = ssl.create_default_context(cafile=hearth.read_exports()["SSL_CERT_FILE"])
    with httpx.Client(verify=context, timeout=60) as client:
        yield client


def test_grpc_through_the_edge(logged, guest):
    import grpc

    hearth, _ = logged
    roots = Path(hearth.read_exports()["NODE_EXTRA_CA_CERTS"]).read_bytes()
    name = guest.get_host(50051)
    options = [
        ("grpc.ssl_target_name_override", name.rsplit(":", 1)[0]),
        ("grpc.default_authority", name),
    ]
    credentials = grpc.ssl_channel_credentials(roots)
    target = f"ipv4:127.0.0.1:{hearth.tls_port}"
    with grpc.secure_channel(target, credentials, options) as channel:
        assert channel.unary_unary("/test.Echo/Say")(b"hello", timeout=60) == b"hello"
        # Each message is sent when the one before has come back.
        heard: list[bytes] = []
        come = threading.Semaphore(1)

        def messages():
            for number in range(5):
                assert come.acquire(timeout=60)
                yield b"%d" % number

        for answer in channel.stream_stream("/test.Echo/Chat")(messages(), timeout=120):
            heard.append(answer)
            come.release()
        assert heard == [b"0", b"1", b"2", b"3", b"4"]


def test_every_refusal_has_its_code(logged, guest, web):
    """400, 403, 404, 429 and 502, as JSON and, to browsers, as a page."""
    hearth, _ = logged
    browser = {"User-Agent": "Mozilla/5.0", "Accept": "text/html,*/*"}

    def refused(url, code, **headers):
        answer = web.get(url, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (code, code), answer.text
        page = web.get(url, headers={**headers, **browser})
        assert page.status_code == code and page.text.startswith("<!doctype html>"), page.text
        return answer.json()

    url = f"https://{guest.get_host(8099)}/"
    assert refused(url, 502) == {
        "sandboxId": guest.sandbox_id,
        "message": "The sandbox is running but port is not open",
        "port": 8099,
        "code": 502,
    }
    refused(url.replace(guest.sandbox_id, "i00000000000000000000"), 502)
    refused(url.replace("8099-", "99999-"), 400)
    refused(f"https://{guest.get_host(49983)}/init", 404)

    # One more than may be open at once.
    with contextlib.ExitStack() as stack:
        events = f"https://{guest.get_host(8000)}/"
        kept = []
        for _ in range(MOST_OPEN):
            stream = stack.enter_context(web.stream("GET", events))
            # A stream whose lines nobody holds any more is closed.
            kept.append(stream.iter_lines())
            assert next(kept[-1]) == "data: open"
        refused(events, 429)

    closed = Sandbox.create(timeout=600, network={"allow_public_traffic": False})
    try:
        url = f"https://{closed.get_host(8000)}/"
        refused(url, 403)
        token = {"e2b-traffic-access-token": closed.traffic_access_token}
        refused(url, 502, **token)
    finally:
        closed.kill()


def test_the_system_trusts_and_no_longer(logged):
    """For real, in a copy of this machine's /etc that nobody else sees."""
    hearth, _ = logged
    url = f"https://api.localhost:{hearth.tls_port}/health"
    script = """
        set -e
        home=$(mktemp -d); trap 'rm -rf "$home"' EXIT
        cp -a /etc "$home/etc"; cp -a /usr/local/share/ca-certificates "$home/local"
        mount --bind "$home/etc" /etc
        mount --bind "$home/local" /usr/local/share/ca-certificates
        asks() { env -i PATH="$PATH" curl -s -o /dev/null --resolve "$1:127.0.0.1" "$2"; }
        name="${1#https://}"; name="${name%%/*}"
        ! asks "$name" "$1"
        "$2" --config "$3" trust --system
        asks "$name" "$1"
        ls /usr/local/share/ca-certificates | grep -q hearth-local-ca
        "$2" --config "$3" trust --system --undo
        ! asks "$name" "$1"
        ! ls /usr/local/share/ca-certificates | grep -q hearth-local-ca
        umount /etc /usr/local/share/ca-certificates
    """
    program, _, settings, *_ = hearth.command()
    done = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", script]
        + ["trust", url, program, settings],
        env=hearth.environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr


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
