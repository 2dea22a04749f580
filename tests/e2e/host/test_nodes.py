"""Nodes: what their operator sees of them, and draining one."""

import json

import httpx
import pytest
from e2b import Sandbox
from e2b.exceptions import ServiceBusyException

from support.daemon import running
from support.waiting import until

REFUSED = "Failed to place sandbox: 1 node is draining: it takes no new sandboxes"


def create(api: httpx.Client) -> httpx.Response:
    return api.post("/v2/sandboxes", json={"templateID": "base"})


def test_a_node_is_drained_and_comes_back():
    with running() as hearth, hearth.client() as api:
        node = until(lambda: reported(api), "the node's first heartbeat")
        assert node["sandboxCount"] == 0 and node["maxSandboxes"] > 0
        assert node["metrics"]["memoryTotalBytes"] > node["metrics"]["memoryUsedBytes"] > 0
        assert node["metrics"]["cpuCount"] > 0
        (disk,) = node["metrics"]["disks"]
        assert disk["totalBytes"] >= disk["usedBytes"] > 0
        assert disk["mountPoint"].startswith("/") and disk["filesystemType"]
        assert node["machineInfo"]["cpuArchitecture"]
        path = f"/nodes/{node['id']}"

        # `hearth up` has made one to see that it can.
        before = api.get(path).json()["createSuccesses"]
        sandbox = Sandbox.create()
        now = api.get(path).json()
        assert now["sandboxCount"] == 1 and now["createSuccesses"] == before + 1
        assert now["metrics"]["allocatedCPU"] > 0
        assert now["metrics"]["allocatedMemoryBytes"] > 0

        assert api.post(path, json={"status": "draining"}).status_code == 204
        refused = create(api)
        assert refused.status_code == 503, refused.text
        assert refused.json()["message"] == REFUSED
        assert refused.json()["error_code"] == "sandbox_capacity_unavailable"
        with pytest.raises(ServiceBusyException):
            Sandbox.create()
        assert sandbox.commands.run("echo still here").stdout == "still here\n"

        # The operator's wish outlives the daemon, and so does the sandbox.
        generation = now["generation"]
        hearth.kill()
        hearth.start()
        assert create(api).json()["message"] == REFUSED
        node = until(lambda: reported(api, "draining"), "the node's heartbeat after a restart")
        assert node["generation"] == generation + 1 and node["id"] == now["id"]
        assert sandbox.commands.run("echo and here").stdout == "and here\n"

        assert api.post(path, json={"status": "ready"}).status_code == 204
        assert Sandbox.create().commands.run("echo room").stdout == "room\n"


def reported(api: httpx.Client, status: str = "ready"):
    (node,) = api.get("/nodes").json()
    return node if node["status"] == status else None


def test_nodes_on_the_command_line():
    with running() as hearth, hearth.client() as api:
        node = until(lambda: reported(api), "the node's first heartbeat")
        (listed,) = json.loads(hearth.run("node", "ls", "--json").stdout)
        assert listed["id"] == node["id"] and listed["status"] == "ready"
        table = hearth.run("node", "ls").stdout.splitlines()
        assert table[0].split()[:3] == ["NAME", "NODE", "STATUS"]
        assert node["id"] in table[1] and " ready " in table[1]
        shown = json.loads(hearth.run("node", "show", node["name"], "--json").stdout)
        assert shown["id"] == node["id"] and listed["sandboxStartingCount"] == 0
        assert "problem" not in shown, shown
        assert node["address"] in hearth.run("node", "show", node["id"]).stdout

        sandbox = Sandbox.create()
        hearth.run("node", "cordon", node["name"])
        assert create(api).json()["message"] == REFUSED
        hearth.run("node", "uncordon", node["id"])
        Sandbox.create().kill()

        busy = hearth.run("node", "drain", node["id"], "--timeout", "1", check=False)
        assert busy.returncode != 0
        assert "still runs 1 sandboxes; it takes no new ones" in busy.stderr
        sandbox.kill()
        assert hearth.run("node", "drain", node["id"]).stdout.strip() == node["id"]
        assert api.get(f"/nodes/{node['id']}").json()["status"] == "draining"

        alive = hearth.run("node", "remove", node["id"], check=False)
        assert alive.returncode != 0 and "stop Hearth on it first" in alive.stderr
        unknown = hearth.run("node", "show", "nowhere", check=False)
        assert unknown.returncode != 0 and "hearth node ls" in unknown.stderr


def test_nodes_are_the_operators():
    with running() as hearth, hearth.client() as api:
        key = hearth.create_key("others")
        (node,) = api.get("/nodes").json()
        for method, path in [
            ("GET", "/nodes"),
            ("POST", f"/nodes/{node['id']}"),
            ("DELETE", f"/nodes/{node['id']}"),
        ]:
            body = {"status": "draining"} if method == "POST" else None
            answer = api.request(method, path, json=body, headers={"X-API-Key": key})
            assert answer.status_code == 403, answer.text
        assert httpx.get(f"{hearth.url}/nodes").status_code == 401
        assert api.get(f"/nodes/{node['id']}").json()["status"] != "draining"
