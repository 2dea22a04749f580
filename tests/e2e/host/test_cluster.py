"""A second machine as a node: joining, being heard, and being refused."""

import socket
import ssl
import subprocess

from support.daemon import free_port, running
from support.node import PORT, START_SECONDS, RemoteNode
from support.waiting import until


def listed(api) -> dict[str, dict]:
    response = api.get("/nodes")
    assert response.status_code == 200, response.text
    return {node["id"]: node for node in response.json()}


def others(api, own: str) -> list[dict]:
    return [node for name, node in listed(api).items() if name != own]


def strangers_are_refused(address: str) -> None:
    """Whoever shows no certificate of the cluster's gets not one byte of an answer."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    answer = b""
    try:
        with socket.create_connection((address, PORT), timeout=10) as plain:
            with context.wrap_socket(plain) as tls:
                tls.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
                answer = tls.recv(1024)
    except (ssl.SSLError, ConnectionError):
        pass
    assert answer == b""


def test_a_machine_joins_and_is_refused_once_it_is_revoked():
    port = free_port()
    with running(config={"cluster": {"listen": f"0.0.0.0:{port}"}}) as hearth:
        with hearth.client() as api, RemoteNode(port) as node:
            (own,) = listed(api)
            token = hearth.run("node", "token", "--minutes", "60").stdout.strip()
            assert token.startswith("hjt_")
            node.start(token)

            def ready():
                assert node.process.poll() is None, node.log()
                found = [other for other in others(api, own) if other["status"] == "ready"]
                return found and found[0]

            joined = until(ready, "the second node", seconds=START_SECONDS, every=0.5)
            assert joined["address"] == f"{node.address()}:{PORT}"
            assert joined["generation"] == 1
            assert joined["maxSandboxes"] > 0 and joined["metrics"]["memoryTotalBytes"] > 0
            assert joined["version"] == listed(api)[own]["version"]
            assert token not in node.log() and token not in hearth.log_tail(100_000)
            # The control plane reaches it, over mutual TLS, and nobody else does.
            shown = api.get(f"/nodes/{joined['id']}").json()
            assert "problem" not in shown, shown
            assert shown["status"] == "ready" and shown["sandboxCount"] == 0
            strangers_are_refused(node.address())

            # A token is good once, and says so.
            again = hearth.run("node", "join", f"https://127.0.0.1:{port}", check=False, typed=token)
            assert again.returncode != 0
            assert "The token has been used" in again.stderr, again.stderr

            # The control plane starts again: the node comes back by itself.
            before = joined["lastHeartbeatAt"]
            hearth.stop()
            hearth.start()
            until(
                lambda: (now := ready()) and now["lastHeartbeatAt"] > before,
                "the node after a restart of the control plane",
            )
            assert ready()["generation"] == 1, "it is the same run"

            hearth.run("node", "revoke", joined["id"])
            until(lambda: "was revoked at" in node.log(), "the node to learn that it is refused")
            assert listed(api)[joined["id"]]["status"] == "unhealthy"
            hearth.run("node", "rm", joined["id"])
            assert list(listed(api)) == [own]
            # It is told so again and again, and does not come back.
            node.stop()
            node.start()
            until(lambda: node.log().count("was revoked at") > 1, "a refusal of the next run")
            assert list(listed(api)) == [own]


def test_nothing_listens_for_nodes_unless_it_is_set():
    with running() as hearth:
        refused = hearth.run("node", "token", check=False)
        assert refused.returncode != 0
        assert "set cluster.listen" in refused.stderr, refused.stderr
        assert not (hearth.state_dir / "keys" / "cluster-ca.key").exists()
        listening = subprocess.run(
            ["ss", "-Hltn"], capture_output=True, text=True, check=True
        ).stdout
        for port in (5008, 5009):
            assert f":{port} " not in listening
