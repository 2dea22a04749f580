"""A certificate of the user's own in place of Hearth's authority."""

import os
import shutil
import socket
import ssl
import subprocess

import pytest

from support.daemon import running
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
