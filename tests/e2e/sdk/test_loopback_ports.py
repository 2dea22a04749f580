"""Ports that a program opens on the sandbox's own loopback only."""

import httpx
import pytest

from support.waiting import until

SERVERS = {"127.0.0.1": 8101, "::1": 8102}


@pytest.fixture
def web(hearth):
    with httpx.Client(base_url=hearth.url, timeout=60) as client:
        yield client


@pytest.mark.parametrize("address", SERVERS)
def test_a_loopback_port_is_open_while_somebody_listens(sandbox, web, address):
    port = SERVERS[address]
    sandbox.files.write("/home/user/loopback/index.html", "from inside")
    headers = {"Host": sandbox.get_host(port)}

    def fetch():
        return web.get("/index.html", headers=headers)

    def is_open():
        answer = fetch()
        assert answer.status_code in (200, 502), answer.text
        return answer.is_success

    assert not is_open()
    server = sandbox.commands.run(
        f"python3 -m http.server --bind {address} {port}",
        cwd="/home/user/loopback",
        background=True,
        timeout=0,
    )
    until(is_open, "the server to be reachable")
    assert fetch().text == "from inside"
    server.kill()
    closed = "The sandbox is running but port is not open"
    until(lambda: fetch().json()["message"] == closed, "the port to be closed")
