"""A certificate of the user's own in place of Hearth's authority."""

import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
from pathlib import Path

import httpx
import pytest

from support.daemon import Hearth, free_port, running
from support.waiting import until


def test_given_certificate_is_served_and_reloaded(tmp_path):
    """Made with openssl, as a user's own authority would."""
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl")

    def issue(name):
        command = f"""openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes
            -days 30 -subj /CN={name} -addext subjectAltName=DNS:sbx.example.com,DNS:*.sbx.example.com
            -keyout {tmp_path}/key.pem -out {tmp_path}/chain.pem"""
        subprocess.run(command.split(), check=True, capture_output=True)

    def served():
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with socket.create_connection(("127.0.0.1", hearth.tls_port), timeout=30) as raw:
            with context.wrap_socket(raw, server_hostname="api.sbx.example.com") as connection:
                return ssl.DER_cert_to_PEM_cert(connection.getpeercert(binary_form=True))

    def on_disk():
        return ssl.DER_cert_to_PEM_cert(
            ssl.PEM_cert_to_DER_cert((tmp_path / "chain.pem").read_text())
        )

    issue("one")
    config = {
        "api": {"domain": "sbx.example.com"},
        "tls": {"certificate": f"{tmp_path}/chain.pem", "key": f"{tmp_path}/key.pem"},
    }
    with running(config=config) as hearth:
        assert served() == on_disk()
        assert "SSL_CERT_FILE" not in hearth.read_exports("--https")
        issue("two")
        assert hearth.process is not None
        os.kill(hearth.process.pid, 1)
        until(lambda: served() == on_disk(), "the new certificate to be served")


def handshake(port: int, name: str, authorities: str) -> ssl.SSLSocket:
    """A connection that trusts these authorities and nobody else."""
    context = ssl.create_default_context(cadata=authorities)
    raw = socket.create_connection(("127.0.0.1", port), timeout=30)
    return context.wrap_socket(raw, server_hostname=name)


def openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)


NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


def test_authority_that_ends_is_followed_by_one_that_clients_know():
    """While the daemon runs, and without ending what is open."""
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl")
    with running() as hearth:
        keys, published = hearth.state_dir / "keys", hearth.state_dir / "ca.crt"

        def put_ending(days: int) -> None:
            openssl(
                *("req", "-x509", *NEW_KEY, "-days", str(days)),
                *("-subj", "/O=Hearth/CN=Hearth local CA e2e"),
                *("-addext", "nameConstraints=permitted;DNS:localhost"),
                *("-addext", "keyUsage=critical,keyCertSign,cRLSign"),
                *("-keyout", str(keys / "ca.key"), "-out", str(keys / "ca.crt")),
            )
            assert hearth.process is not None
            os.kill(hearth.process.pid, signal.SIGHUP)

        def serves(authorities: str) -> bool:
            try:
                handshake(hearth.tls_port, "api.localhost", authorities).close()
                return True
            except ssl.SSLError:
                return False

        before = published.read_text()
        opened = handshake(hearth.tls_port, "api.localhost", before)
        put_ending(100)
        until(lambda: published.read_text().count("BEGIN") == 2, "the successor to be announced")
        announced = published.read_text()
        assert serves(announced) and not serves(before)
        # What took up the announcement goes on when the authority is replaced.
        put_ending(10)
        until(lambda: published.read_text() not in (before, announced), "the successor to sign")
        assert published.read_text().count("BEGIN") == 1 and serves(announced)
        assert published.read_text() in announced
        opened.sendall(b"GET /health HTTP/1.1\r\nHost: api.localhost\r\n\r\n")
        assert opened.recv(12) == b"HTTP/1.1 200"


@pytest.mark.skipif(shutil.which("pebble") is None, reason="there is no pebble")
def test_certificate_by_acme(tmp_path: Path):
    """From a real ACME server, which looks the proof up at `hearth dns`."""
    domain = "sbx.example.com"
    openssl(
        *("req", "-x509", *NEW_KEY, "-days", "2", "-subj", "/CN=acme authority"),
        *("-keyout", f"{tmp_path}/ca.key", "-out", f"{tmp_path}/ca.pem"),
    )
    openssl(
        *("req", *NEW_KEY, "-subj", "/CN=acme"),
        *("-keyout", f"{tmp_path}/acme.key", "-out", f"{tmp_path}/acme.csr"),
    )
    (tmp_path / "acme.ext").write_text("subjectAltName=IP:127.0.0.1\n")
    openssl(
        *("x509", "-req", "-days", "2", "-in", f"{tmp_path}/acme.csr", "-CAcreateserial"),
        *("-CA", f"{tmp_path}/ca.pem", "-CAkey", f"{tmp_path}/ca.key"),
        *("-extfile", f"{tmp_path}/acme.ext", "-out", f"{tmp_path}/acme.pem"),
    )
    port, management, names = free_port(), free_port(), free_port()
    settings = {
        "listenAddress": f"127.0.0.1:{port}",
        "managementListenAddress": f"127.0.0.1:{management}",
        "certificate": f"{tmp_path}/acme.pem",
        "privateKey": f"{tmp_path}/acme.key",
        "httpPort": free_port(),
        "tlsPort": free_port(),
    }
    (tmp_path / "pebble.json").write_text(json.dumps({"pebble": settings}))
    hearth = Hearth(
        config={
            "api": {"domain": domain},
            "tls.acme": {
                "directory": f"https://127.0.0.1:{port}/dir",
                "trusted_ca_file": f"{tmp_path}/ca.pem",
                "contact": "root@example.com",
            },
        }
    )
    dns = hearth.command("dns", "--listen", f"127.0.0.1:{names}", "--answer", "127.0.0.1")
    pebble = ["pebble", "-config", f"{tmp_path}/pebble.json", "-dnsserver", f"127.0.0.1:{names}"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    # Every other nonce is refused, as the protocol allows: clients are to ask again.
    environment = {**os.environ, "PEBBLE_VA_NOSLEEP": "1", "PEBBLE_WFE_NONCEREJECT": "20"}
    authority = subprocess.Popen(pebble, env=environment, **quiet)
    server = subprocess.Popen(dns, env=hearth.environment, **quiet)
    try:
        trust = ssl.create_default_context(cafile=f"{tmp_path}/ca.pem")

        def root() -> str:
            try:
                return httpx.get(f"https://127.0.0.1:{management}/roots/0", verify=trust).text
            except httpx.TransportError:
                return ""

        roots = until(root, "the authority to answer", seconds=60)
        with hearth:

            def certified() -> bool:
                try:
                    handshake(hearth.tls_port, f"8080-x.{domain}", roots).close()
                    return True
                except ssl.SSLError:
                    return False

            until(certified, "the certificate", seconds=120, every=0.5)
            assert "SSL_CERT_FILE" not in hearth.read_exports("--https")
            folder = hearth.state_dir / "keys" / "acme"
            assert {path.stat().st_mode & 0o077 for path in folder.iterdir()} == {0}
            assert not (hearth.state_dir / "acme-challenge").exists()
            # It is kept: the next start serves it at once, and asks nobody.
            authority.kill()
            kept = (folder / "chain.pem").read_text()
            hearth.stop()
            hearth.start()
            assert certified() and (folder / "chain.pem").read_text() == kept
    finally:
        for process in (authority, server):
            process.kill()
            process.wait()
