"""An internet of our own: a network namespace with TEST-NET addresses, behind a
link of this host, where a few machines answer. Nothing leaves the host.

`server.py` beside this file is what runs in there.
"""

import json
import os
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator

from support.waiting import until

NAMESPACE = "e2e-internet"
LINK = "e2e-wan0"

HOST = "203.0.113.1"
NAME_SERVER = "203.0.113.53"
# Two machines that answer on every port that the tests use.
FIRST = "203.0.113.10"
SECOND = "203.0.113.20"
METADATA = "169.254.169.254"
# What the name server says.
NAMES = {
    "first.test": FIRST,
    "second.test": SECOND,
    "api.first.test": FIRST,
    # Names whose owner points them at addresses that are not the owner's.
    "rebind-metadata.test": METADATA,
    "rebind-loopback.test": "127.0.0.1",
    "rebind-host.test": HOST,
}


class Internet:
    """The machines that are there, and their certificate authority."""

    def __init__(self, home: Path):
        self.authority = home / "authority.pem"

    def config(self) -> dict:
        """Settings with which a Hearth finds its names here."""
        return {
            "network": {
                "name_servers": [NAME_SERVER],
                "trusted_ca_file": str(self.authority),
            }
        }


def run(*command: str, check: bool = True) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 or not check, f"{command}: {done.stderr}"
    return done.stdout


def take_down() -> None:
    run("ip", "link", "del", LINK, check=False)
    run("ip", "netns", "del", NAMESPACE, check=False)


def put_up() -> None:
    take_down()
    inside = ("ip", "-n", NAMESPACE)
    run("ip", "netns", "add", NAMESPACE)
    run("ip", "link", "add", LINK, "type", "veth", "peer", "name", "eth0", "netns", NAMESPACE)
    run("ip", "addr", "add", f"{HOST}/24", "dev", LINK)
    run("ip", "link", "set", LINK, "up")
    run(*inside, "link", "set", "lo", "up")
    for address in (NAME_SERVER, FIRST, SECOND):
        run(*inside, "addr", "add", f"{address}/24", "dev", "eth0")
    # What clouds have there; the host reaches it, a guest must not.
    run(*inside, "addr", "add", f"{METADATA}/32", "dev", "lo")
    run(*inside, "link", "set", "eth0", "up")
    run("ip", "route", "add", f"{METADATA}/32", "via", FIRST)


def make_certificates(home: Path) -> None:
    """An authority, and one certificate for all names."""
    key, request = home / "server.key", home / "server.csr"
    names = ",".join(f"DNS:{name}" for name in NAMES)
    (home / "names.ext").write_text(f"subjectAltName={names}\n")
    openssl = ("openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    run(
        *(*openssl, "-x509", "-days", "2", "-subj", "/CN=Test Internet"),
        *("-keyout", str(home / "authority.key"), "-out", str(home / "authority.pem")),
    )
    run(*openssl, "-subj", "/CN=first.test", "-keyout", str(key), "-out", str(request))
    run(
        *("openssl", "x509", "-req", "-days", "2", "-in", str(request), "-CAcreateserial"),
        *("-CA", str(home / "authority.pem"), "-CAkey", str(home / "authority.key")),
        *("-extfile", str(home / "names.ext"), "-out", str(home / "server.pem")),
    )


@contextmanager
def internet() -> Iterator[Internet]:
    """The internet for as long as the block runs."""
    with tempfile.TemporaryDirectory(prefix="hearth-e2e-internet-") as directory:
        home = Path(directory)
        make_certificates(home)
        put_up()
        ready = home / "ready"
        settings = {"names": NAMES, "addresses": [FIRST, SECOND], "name_server": NAME_SERVER}
        server = subprocess.Popen(
            [
                *("ip", "netns", "exec", NAMESPACE, sys.executable),
                *(str(Path(__file__).with_name("server.py")), str(home), json.dumps(settings)),
            ],
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        try:
            until(ready.exists, "the machines of the test's internet to listen", seconds=30)
            yield Internet(home)
        finally:
            server.kill()
            server.wait()
            take_down()
