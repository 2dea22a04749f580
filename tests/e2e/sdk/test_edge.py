"""Traffic from outside to a port in a sandbox, through the edge."""

import json
import socket

import httpx
import pytest

from support.waiting import Background, until

SERVER = """
import http.server, os, time

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, body, status=200, kind="text/plain"):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        if self.path == "/stream":
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.chunk(b"first\\n")
            while not os.path.exists("/tmp/go"):
                time.sleep(0.05)
            self.chunk(b"second\\n")
            self.wfile.write(b"0\\r\\n\\r\\n")
        elif self.headers.get("Upgrade") == "websocket":
            self.send_response(101)
            self.send_header("Upgrade", "websocket")
            self.send_header("Connection", "Upgrade")
            self.end_headers()
            while data := self.connection.recv(4096):
                self.connection.sendall(data.upper())
            self.close_connection = True
        else:
            self.answer(f"{self.path} {self.headers.get('X-Custom')}".encode())

    def chunk(self, data):
        self.wfile.write(f"{len(data):x}\\r\\n".encode() + data + b"\\r\\n")
        self.wfile.flush()

    def do_POST(self):
        length = int(self.headers["Content-Length"])
        left, seen = length, 0
        while left:
            piece = self.rfile.read(min(left, 65536))
            left -= len(piece)
            seen += sum(piece)
        self.answer(f"{length} {seen}".encode(), status=201)

http.server.ThreadingHTTPServer(("0.0.0.0", 8000), Handler).serve_forever()
"""


@pytest.fixture(scope="module")
def server(sandbox):
    """A sandbox that serves on port 8000."""
    sandbox.files.write("/home/user/server.py", SERVER)
    handle = sandbox.commands.run("python3 server.py", background=True, timeout=0)
    until(
        lambda: (
            "8000" in sandbox.commands.run("ss -ltn 2>/dev/null || cat /proc/net/tcp").stdout
            or sandbox.commands.run("grep -c ':1F40 ' /proc/net/tcp || true").stdout.strip() != "0"
        ),
        "the server to listen",
    )
    yield sandbox
    handle.kill()


@pytest.fixture
def web(hearth):
    with httpx.Client(base_url=hearth.url, timeout=60) as client:
        yield client


def by_host(sandbox, port=8000):
    return {"Host": sandbox.get_host(port)}


def by_headers(sandbox, port=8000):
    return {"E2b-Sandbox-Id": sandbox.sandbox_id, "E2b-Sandbox-Port": str(port)}


@pytest.mark.parametrize("route", [by_host, by_headers])
def test_both_ways_of_routing(server, web, route):
    answer = web.get("/some/path?q=a%20b", headers={**route(server), "X-Custom": "kept"})
    assert (answer.status_code, answer.text) == (200, "/some/path?q=a%20b kept")


def test_host_names_port_and_sandbox(server):
    assert server.get_host(8000).startswith(f"8000-{server.sandbox_id}.")


def test_request_bodies_pass(server, web):
    body = b"\x01" * (2 * 1024 * 1024)
    answer = web.post("/upload", headers=by_host(server), content=body)
    assert (answer.status_code, answer.text) == (201, f"{len(body)} {len(body)}")


def test_responses_stream(server, web):
    server.commands.run("rm -f /tmp/go")
    with web.stream("GET", "/stream", headers=by_host(server)) as answer:
        lines = answer.iter_lines()
        assert next(lines) == "first"
        # Only now may the second line be made.
        server.files.write("/tmp/go", "")
        assert next(lines) == "second"


def test_web_sockets_pass(server, hearth):
    with socket.create_connection(("localhost", hearth.port), timeout=60) as raw:
        request = (
            "GET /ws HTTP/1.1\r\n"
            f"Host: {server.get_host(8000)}\r\n"
            "Upgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        raw.sendall(request.encode())
        stream = raw.makefile("rb")
        assert b" 101 " in stream.readline()
        while stream.readline().strip():
            pass
        for word in (b"ping", b"again"):
            raw.sendall(word)
            assert stream.read(len(word)) == word.upper()


@pytest.mark.parametrize("route", [by_host, by_headers])
def test_closed_port(server, web, route):
    answer = web.get("/", headers=route(server, 8099))
    assert answer.status_code == 502
    assert answer.json() == {
        "sandboxId": server.sandbox_id,
        "message": "The sandbox is running but port is not open",
        "port": 8099,
        "code": 502,
    }


def test_unknown_sandbox(hearth, web):
    answer = web.get(
        "/health", headers={"E2b-Sandbox-Id": "i00000000000000000000", "E2b-Sandbox-Port": "49983"}
    )
    assert answer.status_code == 502
    body = answer.json()
    assert body["code"] == 502
    assert "was not found" in body["message"]


def test_dead_sandbox(create, web):
    sandbox = create()
    headers = by_headers(sandbox, 49983)
    assert web.get("/health", headers=headers).status_code == 204
    sandbox.kill()
    answer = web.get("/health", headers=headers)
    assert answer.status_code == 502
    assert "was not found" in answer.json()["message"]


@pytest.mark.parametrize(
    "path", ["/init", "/INIT", "/%69nit", "//init", "/x/../init", "/freeze", "/upgrade"]
)
def test_internal_routes_are_not_there(sandbox, web, path):
    raw = httpx.URL(str(web.base_url)).copy_with(raw_path=path.encode())
    answer = web.post(raw, headers=by_headers(sandbox, 49983), content=b"{}")
    assert answer.status_code == 404


def test_agent_wants_its_token(sandbox, web):
    headers = {**by_headers(sandbox, 49983), "Content-Type": "application/json"}
    for token in ({}, {"X-Access-Token": "0" * 64}):
        answer = web.post("/process.Process/List", headers={**headers, **token}, content=b"{}")
        assert answer.status_code == 401, json.dumps(token)
    assert web.get("/health", headers=headers).status_code == 204


def test_many_requests_at_once(server, web):
    def fetch(number):
        with httpx.Client(base_url=web.base_url, timeout=60) as client:
            return client.get(f"/{number}", headers=by_host(server)).text

    calls = [Background(lambda n=n: fetch(n)) for n in range(16)]
    assert [call.result() for call in calls] == [f"/{n} None" for n in range(16)]
