"""HTTPS by domain: what `eval "$(hearth env)"` gives Python, Node and curl users."""

import json
import os
import shutil
import socket
import ssl
import subprocess
import sys

import httpx
import pytest

from support.waiting import until

PROGRAM = """
import urllib.request
from e2b import Sandbox
with Sandbox.create() as sandbox:
    sandbox.files.write("index.html", "over TLS")
    assert sandbox.files.read("index.html") == "over TLS"
    seen = []
    sandbox.commands.run("echo one; echo two", on_stdout=seen.append)
    assert "".join(seen) == "one\\ntwo\\n", seen
    sandbox.commands.run("python3 -m http.server 8000", background=True, timeout=0)
    url = f"https://{sandbox.get_host(8000)}/index.html"
    for attempt in range(100):
        try:
            print(urllib.request.urlopen(url, timeout=30).read().decode())
            break
        except urllib.error.HTTPError as error:
            assert error.code == 502, error
    with urllib.request.urlopen(sandbox.download_url("index.html"), timeout=30) as answer:
        print(answer.read().decode())
    assert sandbox.is_running()
assert not sandbox.is_running()
"""


@pytest.fixture(scope="module")
def exports(hearth):
    """What a shell has after `eval "$(hearth env)"`, and nothing of HTTP mode."""
    exports = hearth.read_exports()
    assert "E2B_API_URL" not in exports, "names below localhost do not resolve here"
    return exports


@pytest.fixture(scope="module")
def environment(exports):
    kept = {key: os.environ[key] for key in ("PATH", "HOME", "PYTHONPATH") if key in os.environ}
    return {**kept, **exports}


@pytest.fixture
def web(exports):
    with httpx.Client(verify=ssl.create_default_context(cafile=exports["SSL_CERT_FILE"])) as client:
        client.timeout = 60
        yield client


@pytest.fixture(scope="module")
def server(sandbox):
    """A sandbox whose port 8000 tells the headers that it gets."""
    code = """
import http.server
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = str(self.headers).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
http.server.ThreadingHTTPServer(("0.0.0.0", 8000), Handler).serve_forever()
"""
    sandbox.files.write("/home/user/headers.py", code)
    handle = sandbox.commands.run("python3 headers.py", background=True, timeout=0)
    until(
        lambda: sandbox.commands.run("grep -c ':1F40 ' /proc/net/tcp || true").stdout.strip() != "0",
        "the server to listen",
    )
    yield sandbox
    handle.kill()


def test_python_sdk_by_domain(environment, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "over TLS\nover TLS\n"


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
@pytest.mark.parametrize("version", ["1.1", "2"])
def test_curl(environment, hearth, server, version):
    for url in (
        f"https://api.localhost:{hearth.tls_port}/health",
        f"https://localhost:{hearth.tls_port}/health",
        f"https://127.0.0.1:{hearth.tls_port}/health",
        f"https://{server.get_host(8000)}/",
    ):
        done = subprocess.run(
            ["curl", "-sS", f"--http{version}", "-o", "-", "-w", "\n%{http_version} %{http_code}", url],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, f"{url}: {done.stderr}"
        assert done.stdout.splitlines()[-1] in (f"{version} 200", f"{version} 204"), url
    assert "x-forwarded-proto: https" in done.stdout.lower()


def test_domain_names_the_tls_port(hearth, server):
    assert server.get_host(8000) == f"8000-{server.sandbox_id}.localhost:{hearth.tls_port}"


def test_client_id_suffix(server, web):
    name = server.get_host(8000).replace(server.sandbox_id, f"{server.sandbox_id}-6532622b")
    assert web.get(f"https://{name}/").status_code == 200


def test_certificates_are_for_our_names_only(hearth, exports):
    context = ssl.create_default_context(cafile=exports["SSL_CERT_FILE"])
    with socket.create_connection(("localhost", hearth.tls_port), timeout=30) as raw:
        with pytest.raises(ssl.SSLCertVerificationError):
            context.wrap_socket(raw, server_hostname="example.com")
    for name in ("localhost", "api.localhost"):
        with socket.create_connection(("localhost", hearth.tls_port), timeout=30) as raw:
            with context.wrap_socket(raw, server_hostname=name) as connection:
                assert connection.version() == "TLSv1.3"


def test_authority_is_trusted_beside_the_systems(exports):
    bundle = open(exports["SSL_CERT_FILE"]).read()
    ours = open(exports["NODE_EXTRA_CA_CERTS"]).read()
    assert ours in bundle and "PRIVATE" not in bundle
    system = "/etc/ssl/certs/ca-certificates.crt"
    if os.path.exists(system):
        assert bundle.count("BEGIN CERTIFICATE") > open(system).read().count("BEGIN CERTIFICATE")


def test_authoritys_key_is_roots_alone(hearth):
    key = hearth.state_dir / "keys" / "ca.key"
    assert key.stat().st_mode & 0o077 == 0
    assert key.parent.stat().st_mode & 0o077 == 0


def test_plain_http_on_the_tls_port_is_answered(hearth):
    answer = httpx.get(f"http://127.0.0.1:{hearth.tls_port}/", timeout=30)
    assert answer.status_code == 400
    assert "HTTPS" in answer.json()["message"]


def test_http2_carries_many_requests_at_once(exports, server):
    import asyncio

    async def fetch_all():
        context = ssl.create_default_context(cafile=exports["SSL_CERT_FILE"])
        async with httpx.AsyncClient(http2=True, verify=context, timeout=60) as client:
            url = f"https://{server.get_host(8000)}/"
            await client.get(url)
            return await asyncio.gather(*(client.get(url) for _ in range(20)))

    answers = asyncio.run(fetch_all())
    assert {(answer.http_version, answer.status_code) for answer in answers} == {("HTTP/2", 200)}


def test_closed_to_public_traffic(create, web):
    sandbox = create(network={"allow_public_traffic": False})
    token = sandbox.traffic_access_token
    assert token
    url = f"https://{sandbox.get_host(8000)}/"

    def get(**headers):
        answer = web.get(url, headers=headers)
        return answer.status_code, answer.json()["message"]

    assert get()[0] == 403
    assert get(**{"e2b-traffic-access-token": "wrong"})[0] == 403
    # Past the door: nothing listens there.
    assert get(**{"e2b-traffic-access-token": token})[0] == 502
    # The agent has a token of its own.
    assert sandbox.is_running()


def test_host_is_masked(create, web):
    sandbox = create(network={"mask_request_host": "localhost:${PORT}"})
    script = "import http.server as h, sys\nclass H(h.BaseHTTPRequestHandler):\n def do_GET(s):\n  b = str(s.headers).encode(); s.send_response(200); s.send_header('Content-Length', str(len(b))); s.end_headers(); s.wfile.write(b)\nh.HTTPServer(('0.0.0.0', 9000), H).serve_forever()"
    sandbox.files.write("/home/user/s.py", script)
    sandbox.commands.run("python3 s.py", background=True, timeout=0)
    url = f"https://{sandbox.get_host(9000)}/"
    answer = until(
        lambda: (lambda got: got if got.status_code == 200 else None)(web.get(url)), "the server"
    )
    seen = answer.text.lower()
    assert "\nhost: localhost:9000" in f"\n{seen}"
    assert f"x-forwarded-host: {sandbox.get_host(9000)}" in seen


def test_browser_gets_a_page_and_programs_json(server, web):
    url = f"https://{server.get_host(8099)}/"
    browser = {"User-Agent": "Mozilla/5.0", "Accept": "text/html,*/*"}
    page = web.get(url, headers=browser)
    assert page.status_code == 502 and page.headers["content-type"].startswith("text/html")
    assert "8099" in page.text and server.sandbox_id in page.text
    program = web.get(url)
    assert json.loads(program.text)["port"] == 8099
