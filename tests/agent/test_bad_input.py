"""Requests that no client should make: each gets a typed error within bounds, and
the agent goes on."""

import gzip
import json
import os
import pathlib
import re
import socket
import threading
import time

import httpx
import pytest

from conftest import connect_stream


@pytest.fixture
def web(agent):
    with httpx.Client(base_url=agent.url, timeout=60) as client:
        yield client
        assert client.get("/health").status_code == 204


def call(web, method, body, user=None, **more):
    headers = {"Content-Type": "application/json", **more}
    auth = (user, "") if user else None
    answer = web.post(f"/{method}", content=json.dumps(body), headers=headers, auth=auth)
    return answer.status_code, answer.json()


def start(web, config, **more):
    """A Start stream's error, or None."""
    request = {"process": config, "stdin": False}
    url = str(web.base_url).rstrip("/")
    return connect_stream(url, "process.Process/Start", request, **more)[-1].get("error")


@pytest.mark.parametrize(
    "method", ["SendInput", "SendSignal", "CloseStdin", "Update"]
)
@pytest.mark.parametrize("selector", [{"pid": 4_000_000}, {"tag": "no such"}, {}, None])
def test_nobody_is_selected(web, method, selector):
    body = {"process": selector, "signal": "SIGNAL_SIGKILL", "input": {"stdin": "YQ=="}}
    body.pop({"SendInput": "signal", "SendSignal": "input"}.get(method, "signal"))
    if method in ("CloseStdin", "Update"):
        body = {"process": selector}
    status, error = call(web, f"process.Process/{method}", body)
    expected = ("not_found", 404) if selector else ("invalid_argument", 400)
    assert (error["code"], status) == expected


def test_a_signal_that_is_none(web, sandbox):
    handle = sandbox.commands.run("sleep 100", background=True)
    for signal in (0, 1, 19, 99):
        body = {"process": {"pid": handle.pid}, "signal": signal}
        status, error = call(web, "process.Process/SendSignal", body)
        assert error["code"] in ("unimplemented", "invalid_argument"), error
    handle.kill()


@pytest.mark.parametrize("size", [140_000, 10 << 20])
def test_an_argument_that_is_too_long(web, size):
    error = start(web, {"cmd": "/bin/echo", "args": ["x" * size]})
    assert error["code"] == "invalid_argument"


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"cmd": ""},
        {"cmd": "a\0b"},
        {"cmd": "echo", "args": ["\0"]},
        {"cmd": "echo", "envs": {"A=B": "c"}},
        {"cmd": "echo", "envs": {"": "c"}},
        {"cmd": "echo", "cwd": "/no/such"},
        {"cmd": "echo", "cwd": "/etc/passwd"},
        {"cmd": "echo", "cwd": "~nobody/x"},
        {"cmd": "echo", "cwd": "/" + "x" * 5000},
    ],
)
def test_commands_that_cannot_be(web, config):
    assert start(web, config)["code"] == "invalid_argument"


@pytest.mark.parametrize("interval", ["0", "-1", "nonsense", "99999999999999999999", "1e9"])
def test_nonsense_keepalive_intervals(web, interval):
    assert start(web, {"cmd": "true"}, **{"Keepalive-Ping-Interval": interval}) is None


@pytest.mark.parametrize("timeout", ["0", "-5", "soon", "99999999999999999999"])
def test_nonsense_timeouts_are_none_or_refused(web, timeout):
    error = start(web, {"cmd": "true"}, **{"Connect-Timeout-Ms": timeout})
    assert error is None or error["code"] == "invalid_argument"


def test_files_are_reached_whoever_the_user_is(web, tmp_path):
    if os.geteuid() != 0:
        pytest.skip("only root may do everything")
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    (closed / "file").write_bytes(b"root's")
    where = {"path": str(closed / "file"), "username": "daemon"}
    assert web.get("/files", params=where).content == b"root's"
    raw = {"Content-Type": "application/octet-stream"}
    for name in ("file", "new/file"):
        where["path"] = str(closed / name)
        answer = web.post("/files", params=where, content=b"x", headers=raw)
        assert answer.status_code == 200, answer.text
    for path in ("file", "new", "new/file"):
        assert (closed / path).owner() == "daemon"
    assert closed.owner() == "root"
    for method, body in {
        "MakeDir": {"path": str(closed / "made/too")},
        "ListDir": {"path": str(closed)},
        "Stat": {"path": "/root"},
        "Move": {"source": str(closed / "file"), "destination": str(closed / "b/file")},
        "Remove": {"path": str(closed / "b")},
    }.items():
        status, answer = call(web, f"filesystem.Filesystem/{method}", body, user="daemon")
        assert status == 200, (method, answer)
    assert sorted(path.name for path in closed.iterdir()) == ["made", "new"]
    assert (closed / "made").owner() == (closed / "made/too").owner() == "daemon"
    # What not even root can do is still refused.
    refused = web.post("/files", params={"path": "/proc/new"}, content=b"x", headers=raw)
    assert refused.status_code in (400, 403, 404), refused.text


def test_directories_are_no_files_and_files_no_directories(web, tmp_path):
    (tmp_path / "file").touch()
    assert web.get("/files", params={"path": str(tmp_path)}).status_code == 400
    raw = {"Content-Type": "application/octet-stream"}
    for path in (tmp_path, tmp_path / "file" / "below"):
        answer = web.post("/files", params={"path": str(path)}, content=b"x", headers=raw)
        assert answer.status_code in (400, 404), answer.text
    listed = call(web, "filesystem.Filesystem/ListDir", {"path": str(tmp_path / "file")})
    assert listed[1]["code"] == "invalid_argument"


def test_depths_of_nothing_and_everything(web, tmp_path):
    deep = tmp_path
    for _ in range(60):
        deep = deep / "d"
    deep.mkdir(parents=True)
    (tmp_path / "loop").symlink_to(tmp_path)

    def entries(depth):
        body = {"path": str(tmp_path), "depth": depth}
        return len(call(web, "filesystem.Filesystem/ListDir", body)[1]["entries"])

    assert entries(0) == entries(1) == 2
    assert entries(4_294_967_295) == 61
    status, error = call(web, "filesystem.Filesystem/ListDir", {"path": "/", "depth": -1})
    assert (status, error["code"]) == (400, "invalid_argument")


def test_traversal_stays_in_the_file_system(web):
    body = {"path": "../../../../../../../etc/passwd"}
    entry = call(web, "filesystem.Filesystem/Stat", body)[1]["entry"]
    assert entry["path"] == "/etc/passwd"
    for path in ("a\0b", "~other/x", "/" + "y" * 5000):
        status, error = call(web, "filesystem.Filesystem/Stat", {"path": path})
        assert (status, error["code"]) == (400, "invalid_argument"), path


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x1f\x8b\x08",
        gzip.compress(b"x" * 100_000)[:-10],
        gzip.compress(b"x" * 100_000)[: 10],
        b"no gzip at all",
        gzip.compress(b"good") + b"trailing nonsense",
    ],
)
def test_bad_gzip(web, tmp_path, content):
    headers = {"Content-Type": "application/octet-stream", "Content-Encoding": "gzip"}
    params = {"path": str(tmp_path / "unpacked")}
    answer = web.post("/files", params=params, content=content, headers=headers)
    assert answer.status_code == 400, answer.text


def raw(agent, head, body=b""):
    connection = socket.create_connection(agent.url.removeprefix("http://").split(":"), timeout=60)
    connection.sendall(head.replace("\n", "\r\n").encode() + body)
    return connection


@pytest.mark.parametrize(
    "head",
    [
        "GET\n\n",
        "GET / HTTP/9.9\n\n",
        "POST /files?path=/x HTTP/1.1\nHost: x\nContent-Length: -1\n\n",
        "POST /files?path=/x HTTP/1.1\nHost: x\nTransfer-Encoding: chunked\n\nzz\n",
        "POST /init HTTP/1.1\nHost: x\nContent-Length: 5\n\n{nope",
        "GET /" + "a" * 100_000 + " HTTP/1.1\nHost: x\n\n",
        "CONNECT localhost:99999 HTTP/1.1\nHost: x\n\n",
        "CONNECT example.com:80 HTTP/1.1\nHost: x\n\n",
        "PRI * HTTP/2.0\n\nSM\n\nnonsense that is no frame at all, for sure",
    ],
)
def test_malformed_http(agent, web, head):
    with raw(agent, head) as connection:
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    assert not answer.startswith((b"HTTP/1.1 2", b"HTTP/1.1 5"))


def resident(agent, field="VmRSS"):
    text = pathlib.Path(f"/proc/{agent.pid}/status").read_text()
    return int(re.search(rf"{field}:\s+(\d+)", text)[1]) * 1024


def test_clients_that_stop_reading_cost_nothing(own_agent):
    """Sixteen readers of endless output that read nothing, beside one that works."""
    agent = own_agent
    body = json.dumps({"process": {"cmd": "/bin/cat", "args": ["/dev/zero"]}}).encode()
    enveloped = b"\0" + len(body).to_bytes(4, "big") + body
    head = (
        "POST /process.Process/Start HTTP/1.1\nHost: x\n"
        f"Content-Type: application/connect+json\nContent-Length: {len(enveloped)}\n\n"
    )
    before = resident(agent)
    asleep = [raw(agent, head, enveloped) for _ in range(16)]
    with httpx.Client(base_url=agent.url, timeout=60) as web:
        deadline = time.monotonic() + 60
        while len(call(web, "process.Process/List", {})[1].get("processes", [])) < 16:
            assert time.monotonic() < deadline
        for _ in range(50):
            assert start(web, {"cmd": "echo", "args": ["x"]}) is None
        # A window of output each, and what the kernel's sockets take.
        assert resident(agent) - before < 64 << 20
        for process in call(web, "process.Process/List", {})[1]["processes"]:
            body = {"process": {"pid": process["pid"]}, "signal": "SIGNAL_SIGKILL"}
            assert call(web, "process.Process/SendSignal", body)[0] == 200
    for connection in asleep:
        connection.close()


def test_many_connections_and_half_requests(own_agent):
    connections = [raw(own_agent, "POST /files?path=/tmp/x HTTP/1.1\nHost: x\nCo") for _ in range(500)]
    assert httpx.get(f"{own_agent.url}/health", timeout=30).status_code == 204
    for connection in connections:
        connection.close()


def test_starting_and_forgetting_leaks_nothing(own_agent):
    agent = own_agent

    def descriptors():
        return len(os.listdir(f"/proc/{agent.pid}/fd"))

    def run_many(count):
        with httpx.Client(base_url=agent.url, timeout=60) as web:
            for _ in range(count):
                assert start(web, {"cmd": "true"}) is None

    run_many(20)
    before = descriptors()
    threads = [threading.Thread(target=run_many, args=(50,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    deadline = time.monotonic() + 30
    while descriptors() > before + 4:
        assert time.monotonic() < deadline, descriptors()
        time.sleep(0.05)
