#!/usr/bin/env python3
"""Measures the guest agent, beside a baseline in the same run.

    bench/agent.py native --envd PATH       the agent on this machine, no VM
    bench/agent.py sandbox                  in a new sandbox, through the edge
                                            (E2B_* as `hearth env` prints them;
                                            needs the `e2b` package)

`--nginx PATH` names an nginx to compare downloads with; `--size MIB` the bytes of
the big transfers. Only the standard library is used for what is timed. Results are
printed as a table, and as JSON with `--json FILE`.
"""

import argparse
import contextlib
import http.client
import json
import os
import pathlib
import re
import shutil
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time

MIB = 1024 * 1024
CHUNK = 1 * MIB
RESULTS = []


def report(name, value, unit, target=None, **more):
    RESULTS.append({"name": name, "value": value, "unit": unit, "target": target, **more})
    wanted = f"   (wanted: {target})" if target else ""
    print(f"  {name:<58} {value:>10.4g} {unit}{wanted}", flush=True)


# Talking HTTP.


class Place:
    """Where the agent is reached, and how its machine is looked into."""

    def __init__(self, host, port, headers):
        self.host, self.port, self.headers = host, port, headers

    def connect(self):
        connection = http.client.HTTPConnection(self.host, self.port, timeout=3600)
        connection.connect()
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def request(self, connection, method, path, body=None, headers=None):
        connection.request(method, path, body, {**self.headers, **(headers or {})})
        return connection.getresponse()


def envelope(message):
    data = json.dumps(message).encode()
    return struct.pack(">BI", 0, len(data)) + data


START = "/process.Process/Start"
STREAM = {"Content-Type": "application/connect+json", "Connect-Protocol-Version": "1"}


def start(place, connection, cmd, *args):
    body = envelope({"process": {"cmd": cmd, "args": list(args)}, "stdin": False})
    return place.request(connection, "POST", START, body, STREAM)


def execute(place, connection, cmd, *args):
    """Start to end of a command; its output as it came."""
    answer = start(place, connection, cmd, *args)
    content = answer.read()
    assert answer.status == 200 and b'"end"' in content, content[:500]
    return content


def shell(place, script):
    """A script's standard output."""
    connection = place.connect()
    content = execute(place, connection, "/bin/sh", "-c", script)
    connection.close()
    import base64

    pieces = re.findall(rb'"stdout":"([^"]*)"', content)
    return b"".join(base64.b64decode(piece) for piece in pieces).decode()


def milliseconds(samples):
    ordered = sorted(samples)
    return {
        "median": statistics.median(ordered) * 1000,
        "p95": ordered[int(len(ordered) * 0.95)] * 1000,
        "n": len(ordered),
    }


def timed(count, action):
    samples = []
    for _ in range(count):
        begun = time.perf_counter()
        action()
        samples.append(time.perf_counter() - begun)
    return samples


# What is measured.


def exec_round_trips(place, count, bare=None):
    connection = place.connect()
    timed(20, lambda: execute(place, connection, "/bin/true"))
    kept = milliseconds(timed(count, lambda: execute(place, connection, "/bin/true")))
    report("exec of `true`, kept connection, median", kept["median"], "ms", p95=kept["p95"])
    idle = milliseconds(timed(count, lambda: health(place, connection)))
    report("health, kept connection, median", idle["median"], "ms", p95=idle["p95"])
    connection.close()

    def on_a_new_one():
        fresh = place.connect()
        execute(place, fresh, "/bin/true")
        fresh.close()

    new = milliseconds(timed(count, on_a_new_one))
    report("exec of `true`, new connection, median", new["median"], "ms", p95=new["p95"])
    if bare is not None:
        spawned = milliseconds(timed(count, bare))
        report("spawn and wait of `true` by the client itself, median", spawned["median"], "ms")
        share = kept["median"] - spawned["median"]
        report("the agent's own share of an exec (HTTP and client included)", share, "ms", "≤ 2")


def health(place, connection):
    place.request(connection, "GET", "/health").read()


def rate(size, seconds):
    return size / MIB / seconds


def upload(place, path, size):
    block = os.urandom(CHUNK)

    def pieces():
        for _ in range(size // CHUNK):
            yield block

    connection = place.connect()
    begun = time.perf_counter()
    headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
    answer = place.request(connection, "POST", f"/files?path={path}", pieces(), headers)
    content = answer.read()
    seconds = time.perf_counter() - begun
    assert answer.status == 200, content
    connection.close()
    return rate(size, seconds)


def download(place, path, size):
    connection = place.connect()
    begun = time.perf_counter()
    answer = place.request(connection, "GET", path)
    assert answer.status == 200, answer.read()
    buffer = bytearray(CHUNK)
    total = 0
    while length := answer.readinto(buffer):
        total += length
    seconds = time.perf_counter() - begun
    assert total == size, total
    connection.close()
    return rate(size, seconds)


def transfers(place, nginx, directory, size, rounds):
    path = f"{directory}/bench-big"
    before = place.memory()
    report(f"upload of {size // MIB} MiB", upload(place, path, size), "MiB/s")
    # Or whoever reads first reads while the upload is still being written.
    shell(place, "sync")
    ours, theirs = [], []
    for _ in range(rounds):
        ours.append(download(place, f"/files?path={path}", size))
        if nginx is not None:
            theirs.append(download(nginx, "/bench-big", size))
    report(f"download of {size // MIB} MiB, median", statistics.median(ours), "MiB/s")
    if theirs:
        report("the same from nginx, median", statistics.median(theirs), "MiB/s")
        share = statistics.median(ours) / statistics.median(theirs) * 100
        report("the agent's download beside nginx's", share, "%", "≥ 80")
    else:
        print("  (no nginx to compare with: --nginx)")
    return before, path


def small_files(place, directory, count):
    batch = 250
    connection = place.connect()
    begun = time.perf_counter()
    for first in range(0, count, batch):
        boundary = "bench-boundary"
        parts = [
            f"--{boundary}\r\nContent-Disposition: form-data; name=\"file\"; "
            f"filename=\"{directory}/bench-small/{number // 1000}/{number}\"\r\n\r\n"
            f"content of {number}\r\n"
            for number in range(first, min(first + batch, count))
        ]
        body = ("".join(parts) + f"--{boundary}--\r\n").encode()
        headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
        answer = place.request(connection, "POST", "/files", body, headers)
        content = answer.read()
        assert answer.status == 200, content[:500]
    seconds = time.perf_counter() - begun
    report(f"{count} small files written ({batch} a request)", count / seconds, "files/s")
    body = json.dumps({"path": f"{directory}/bench-small", "depth": 2})
    begun = time.perf_counter()
    headers = {"Content-Type": "application/json"}
    answer = place.request(connection, "POST", "/filesystem.Filesystem/ListDir", body, headers)
    listed = len(json.loads(answer.read())["entries"])
    seconds = time.perf_counter() - begun
    assert listed >= count, listed
    report(f"{listed} entries listed in one call", seconds * 1000, "ms")
    connection.close()


def standard_output(place, size):
    connection = place.connect()
    begun = time.perf_counter()
    answer = start(place, connection, "/usr/bin/head", "-c", str(size), "/dev/zero")
    buffer = bytearray(CHUNK)
    total = 0
    while length := answer.readinto(buffer):
        total += length
    seconds = time.perf_counter() - begun
    assert total > size, total
    connection.close()
    report(f"{size // MIB} MiB of standard output (as base64 in JSON)", rate(size, seconds), "MiB/s")


def memory(place, idle):
    after = place.memory()
    report("memory of the idle agent (RSS)", idle["VmRSS"], "MiB", "≤ 8")
    report("its peak after all of the above", after["VmHWM"], "MiB")


def measure(place, nginx, directory, options, bare=None):
    idle = place.memory()
    exec_round_trips(place, options.execs, bare)
    _, big = transfers(place, nginx, directory, options.size * MIB, options.rounds)
    small_files(place, directory, options.files)
    standard_output(place, options.size * MIB)
    memory(place, idle)
    shell(place, f"rm -rf {big} {directory}/bench-small")


def status(text):
    found = re.findall(r"^(VmRSS|VmHWM):\s+(\d+) kB", text, re.M)
    return {name: int(value) / 1024 for name, value in found}


# Where it is measured.


NGINX = """
daemon off; master_process off; pid {dir}/nginx.pid; error_log {dir}/error.log;
{user}
events {{ worker_connections 128; }}
http {{
    access_log off; sendfile on; tcp_nopush on;
    client_body_temp_path {dir}/a; proxy_temp_path {dir}/b; fastcgi_temp_path {dir}/c;
    uwsgi_temp_path {dir}/d; scgi_temp_path {dir}/e;
    server {{ listen {address}:{port}; root {root}; }}
}}
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(place, path):
    deadline = time.monotonic() + 60
    while True:
        with contextlib.suppress(OSError, http.client.HTTPException):
            answer = place.request(place.connect(), "GET", path)
            answer.read()
            if answer.status == 404:
                return
        assert time.monotonic() < deadline, "nginx does not answer"
        time.sleep(0.1)


def native(options):
    report("size of the binary", os.path.getsize(options.envd) / MIB, "MiB", "≤ 10")
    agent = subprocess.Popen(
        [options.envd, "--no-init", "--listen", "127.0.0.1:0"], stdout=subprocess.PIPE, text=True
    )
    port = int(agent.stdout.readline().rsplit(":", 1)[1])
    place = Place("127.0.0.1", port, {})
    place.memory = lambda: status(pathlib.Path(f"/proc/{agent.pid}/status").read_text())
    home = tempfile.mkdtemp(dir=options.directory)
    server = None
    try:
        nginx = None
        if options.nginx:
            root = f"{home}/nginx"
            os.mkdir(root)
            nginx = Place("127.0.0.1", free_port(), {})
            user = "user root;" if os.geteuid() == 0 else ""
            pathlib.Path(f"{root}/conf").write_text(
                NGINX.format(
                    dir=root, root=home, address="127.0.0.1", port=nginx.port, user=user
                )
            )
            server = subprocess.Popen([options.nginx, "-p", root, "-c", f"{root}/conf"])
            wait_for(nginx, "/no-such")

        def bare():
            os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0)

        measure(place, nginx, home, options, bare)
    finally:
        for process in (agent, server):
            if process is not None:
                process.terminate()
                process.wait()
        shutil.rmtree(home, ignore_errors=True)


def sandbox(options):
    from e2b import Sandbox

    api = os.environ["E2B_SANDBOX_URL"]
    host, port = re.fullmatch(r"http://([^/:]+):(\d+)/?", api).groups()
    box = Sandbox.create(timeout=3600)
    try:
        common = {"E2b-Sandbox-Id": box.sandbox_id}
        token = {"X-Access-Token": box._envd_access_token}
        place = Place(host, int(port), {**common, **token, "E2b-Sandbox-Port": "49983"})
        as_root = {"Authorization": "Basic cm9vdDo="}
        root = Place(host, int(port), {**place.headers, **as_root})
        place.memory = lambda: status(shell(root, "cat /proc/1/status"))
        home = "/home/user/bench"
        shell(place, f"mkdir -p {home}/nginx")
        nginx = None
        if options.nginx:
            box.files.write("/usr/local/bin/nginx", open(options.nginx, "rb"), user="root")
            text = NGINX.format(
                dir=f"{home}/nginx", root=home, address="0.0.0.0", port=8080, user=""
            )
            box.files.write(f"{home}/nginx/conf", text)
            box.commands.run("chmod 755 /usr/local/bin/nginx", user="root")
            command = f"nginx -p {home}/nginx -c {home}/nginx/conf"
            box.commands.run(command, background=True, timeout=0)
            nginx = Place(host, int(port), {**common, "E2b-Sandbox-Port": "8080"})
            wait_for(nginx, "/no-such")
        measure(place, nginx, home, options)
    finally:
        box.kill()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("where", choices=["native", "sandbox"])
    parser.add_argument("--envd", help="the agent's binary (native)")
    parser.add_argument("--nginx", default=shutil.which("nginx"))
    parser.add_argument("--size", type=int, default=1024, help="MiB of the big transfers")
    parser.add_argument("--execs", type=int, default=500)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--directory", default="/var/tmp", help="for files (native)")
    parser.add_argument("--json", help="write the results there, too")
    options = parser.parse_args()
    if options.where == "native" and not options.envd:
        parser.error("--envd is needed")
    print(f"guest agent, {options.where}:")
    {"native": native, "sandbox": sandbox}[options.where](options)
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps(RESULTS, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
