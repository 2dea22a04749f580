"""What a sandbox may reach, tried from inside against an internet of our own."""

import json
import subprocess
from pathlib import Path
from typing import Any, Iterator, Optional

import httpx
import pytest
from e2b import Sandbox, Secret
from e2b.exceptions import SecretException

from support.daemon import Hearth, running
from support.internet import FIRST, HOST, METADATA, SECOND, Internet, internet
from support.machine import tree
from support.waiting import until

EVERYWHERE = "0.0.0.0/0"
# What must not happen is waited for this long; what must happen, far longer.
REFUSAL_SECONDS = 3
PATIENCE_SECONDS = 30


@pytest.fixture(scope="module")
def outside() -> Iterator[Internet]:
    with internet() as there:
        yield there


@pytest.fixture(scope="module")
def hearth(outside: Internet) -> Iterator[Hearth]:
    with running(config=outside.config()) as daemon:
        yield daemon
        daemon.down()
        left = daemon.leftovers()
        assert not left, f"left after `hearth down`: {left}"


@pytest.fixture(scope="module")
def box(hearth: Hearth) -> Iterator[Sandbox]:
    """A sandbox whose rules each test sets as it likes."""
    sandbox = Sandbox.create(timeout=1200)
    # Away with what another test of the file left behind.
    yield sandbox
    sandbox.kill()


def fetch(box: Sandbox, url: str, *options: str, seconds: float = PATIENCE_SECONDS) -> Optional[dict]:
    """What the machine there saw of a request; None if it saw none."""
    command = f"curl -sS -m {seconds} {' '.join(options)} '{url}' || echo failed: $?"
    output = box.commands.run(command, timeout=seconds + 30).stdout
    return None if "failed:" in output else json.loads(output)


def reaches(box: Sandbox, address: str, port: int = 80) -> bool:
    scheme = "https" if port == 443 else "http"
    seen = fetch(box, f"{scheme}://{address}:{port}/", "-k")
    return seen is not None and seen["address"] == address


def blocked(box: Sandbox, url: str, *options: str) -> bool:
    return fetch(box, url, *options, seconds=REFUSAL_SECONDS) is None


def python(box: Sandbox, program: str, timeout: float = 120) -> str:
    box.files.write("/tmp/program.py", program)
    return box.commands.run("python3 /tmp/program.py", timeout=timeout).stdout


def datagram(box: Sandbox, address: str, seconds: float) -> str:
    """What the echo server answers; empty if nothing."""
    return python(
        box,
        f"""
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout({seconds})
s.sendto(b"query", ({address!r}, 5353))
try:
    print(s.recv(100).decode())
except OSError:
    pass
""",
    ).strip()


def test_open_by_default(box: Sandbox):
    box.update_network({})
    assert reaches(box, FIRST) and reaches(box, SECOND, 443)
    seen = fetch(box, "http://first.test/")
    assert seen is not None and seen["address"] == FIRST and seen["client"] == HOST
    assert datagram(box, FIRST, PATIENCE_SECONDS) == f"{FIRST} query"


def test_denied_addresses_change_live(box: Sandbox):
    box.update_network({"deny_out": [SECOND, "2001:db8::/32"]})
    assert reaches(box, FIRST) and blocked(box, f"http://{SECOND}/")
    assert datagram(box, FIRST, PATIENCE_SECONDS) and not datagram(box, SECOND, REFUSAL_SECONDS)
    box.update_network({"deny_out": [FIRST]})
    assert blocked(box, f"http://{FIRST}/") and reaches(box, SECOND)
    assert box.get_info().network["deny_out"] == [FIRST]


def test_allowed_wins_over_denied(box: Sandbox):
    box.update_network({"allow_out": [f"{FIRST}/32"], "deny_out": ["203.0.113.0/24"]})
    assert reaches(box, FIRST) and blocked(box, f"http://{SECOND}/")
    box.update_network({"allow_out": [FIRST], "deny_out": [EVERYWHERE]})
    assert reaches(box, FIRST) and blocked(box, f"http://{SECOND}/")
    # Private networks, the host and the metadata address cannot be allowed.
    always = ["169.254.169.254", "10.0.0.0/8", HOST]
    box.update_network({"allow_out": [EVERYWHERE, *always]})
    assert reaches(box, SECOND)
    for address in ("169.254.169.254", HOST):
        assert blocked(box, f"http://{address}/"), address


def test_a_change_ends_what_is_open(box: Sandbox):
    box.update_network({})
    program = f"""
import socket, time
s = socket.create_connection(({FIRST!r}, 2222), timeout=30)
s.recv(100)
print("open", flush=True)
s.settimeout(3)
try:
    while True:
        s.sendall(b"still here")
        if not s.recv(100):
            break
        time.sleep(0.2)
except OSError:
    pass
print("ended", flush=True)
"""
    box.files.write("/tmp/open.py", program)
    heard: list[str] = []
    handle = box.commands.run("python3 /tmp/open.py", background=True, timeout=120)
    box.commands.list()
    for out, _, _ in handle:
        heard.append(out or "")
        if "open" in (out or ""):
            box.update_network({"deny_out": [FIRST]})
    assert "ended" in "".join(heard)


def test_no_internet(hearth: Hearth):
    box = Sandbox.create(timeout=600, allow_internet_access=False)
    try:
        assert blocked(box, f"http://{FIRST}/") and blocked(box, "http://first.test/")
        assert not datagram(box, FIRST, REFUSAL_SECONDS)
        # What the node itself offers is there.
        who = json.loads(box.commands.run("curl -sS -m 20 http://192.0.2.1/me").stdout)
        assert who == {"sandboxID": box.sandbox_id}
        sent = box.commands.run(
            "curl -sS -m 20 -o /dev/null -w '%{http_code}' -H 'Content-Type: application/json' "
            "-d '{\"message\":\"hello\"}' http://events.e2b.local/logs"
        )
        assert sent.stdout == "201"
        # It is told with the sandbox's own log, and not in the daemon's.
        with hearth.client() as api:
            path = f"/v2/sandboxes/{box.sandbox_id}/logs"
            until(lambda: "hello" in api.get(path).text, "the event in the sandbox's log")
        assert '"hello"' not in hearth.log_tail(lines=100_000)
        # A program that never stops is slowed down, and told so.
        flood = box.commands.run(
            "head -c 60000 /dev/zero | tr '\\0' x > /tmp/x; "
            "printf '{\"message\":\"%s\"}' $(cat /tmp/x) > /tmp/body; "
            "for i in $(seq 20); do curl -sS -m 20 -o /dev/null -w '%{http_code}\\n' "
            "--data-binary @/tmp/body http://events.e2b.local/logs; done",
            timeout=120,
        )
        assert "429" in flood.stdout.split(), flood.stdout
        box.update_network({"allow_internet_access": True})
        assert reaches(box, FIRST)
        box.update_network({"allow_internet_access": False})
        assert blocked(box, f"http://{FIRST}/")
    finally:
        box.kill()


def test_rules_at_create_and_after_a_restart_of_the_daemon(hearth: Hearth):
    box = Sandbox.create(timeout=600, network={"allow_out": [FIRST], "deny_out": [EVERYWHERE]})
    try:
        assert reaches(box, FIRST) and blocked(box, f"http://{SECOND}/")
        hearth.kill()
        hearth.start()
        box = Sandbox.connect(box.sandbox_id)
        assert reaches(box, FIRST) and blocked(box, f"http://{SECOND}/")
    finally:
        box.kill()


def test_names(box: Sandbox):
    box.update_network({"allow_out": ["first.test", "*.first.test"], "deny_out": [EVERYWHERE]})
    for url in ("http://first.test/", "https://first.test/", "https://api.first.test/"):
        seen = fetch(box, url, "-k")
        assert seen is not None and seen["address"] == FIRST, url
    for url in ("http://second.test/", "https://second.test/", f"http://{FIRST}/"):
        assert blocked(box, url, "-k"), url
    assert not datagram(box, FIRST, REFUSAL_SECONDS), "only TCP is allowed by name"
    # Names carry nothing out either.
    lookup = box.commands.run("getent hosts data.second.test || echo none", timeout=60)
    assert lookup.stdout.strip() == "none"


def resolves(box: Sandbox, name: str) -> bool:
    looked_up = box.commands.run(f"getent ahostsv4 {name} || echo none", timeout=60)
    return looked_up.stdout.strip() != "none"


def test_names_of_allowed_addresses_resolve(box: Sandbox):
    box.update_network({"allow_out": [EVERYWHERE], "deny_out": [EVERYWHERE]})
    for url in ("http://first.test/", "http://second.test/"):
        assert fetch(box, url) is not None, url
    box.update_network({"allow_out": [f"{FIRST}/32"], "deny_out": [EVERYWHERE]})
    assert fetch(box, "http://first.test/") is not None
    assert resolves(box, "second.test") and blocked(box, "http://second.test/")
    box.update_network({"deny_out": [EVERYWHERE]})
    assert not resolves(box, "first.test")
    both = {"allow_out": [EVERYWHERE], "deny_out": [EVERYWHERE]}
    made = Sandbox.create(timeout=600, network=both)
    try:
        assert fetch(made, "http://first.test/") is not None
    finally:
        made.kill()


def test_lies_about_names_gain_nothing(box: Sandbox):
    box.update_network({"allow_out": ["first.test"], "deny_out": [EVERYWHERE]})
    # An allowed name with another machine's address: the name decides where it goes.
    for port in (80, 443):
        scheme = "https" if port == 443 else "http"
        url = f"{scheme}://first.test/"
        seen = fetch(box, url, "-k", "--resolve", f"first.test:{port}:{SECOND}")
        assert seen is not None and seen["address"] == FIRST
        # And the right address under a name that is not allowed.
        url = f"{scheme}://second.test/"
        assert blocked(box, url, "-k", "--resolve", f"second.test:{port}:{FIRST}")
    # A server that speaks first is judged by the names that were looked up.
    greeting = f"""
import socket
def hear(host):
    try:
        return socket.create_connection((host, 2222), timeout=5).recv(100).decode().strip() or "nothing"
    except OSError:
        return "nothing"
print(hear({SECOND!r}))
print(hear("first.test"))
"""
    assert python(box, greeting).split("\n")[:2] == ["nothing", f"hello from {FIRST}"]


def test_names_that_point_inside(box: Sandbox):
    names = ["rebind-metadata.test", "rebind-loopback.test", "rebind-host.test"]
    for allowed in ([], names, ["*"]):
        deny = [EVERYWHERE] if allowed else []
        box.update_network({"allow_out": allowed, "deny_out": deny})
        for name in ("rebind-metadata.test", "rebind-host.test"):
            assert blocked(box, f"http://{name}/"), (name, allowed)
    # To its own loopback a sandbox may talk; by way of the node it meets nobody's.
    for name in names:
        assert blocked(box, f"http://{name}/", "--resolve", f"{name}:80:{FIRST}"), name


def keep_secret(hearth: Hearth, name: str, value: str) -> None:
    subprocess.run(
        hearth.command("secret", "set", name),
        env=hearth.environment,
        input=value,
        text=True,
        check=True,
        capture_output=True,
    )


def test_headers_are_set_without_the_sandbox_seeing_them(hearth: Hearth, box: Sandbox):
    keep_secret(hearth, "api-key", "s3cr3t-value")
    headers = {"Authorization": "Bearer ${e2b.secrets.api-key}", "X-Plain": "yes"}
    box.update_network({"rules": {"*.first.test": [{"transform": {"headers": headers}}]}})
    # The sandbox trusts its own authority: no -k. What it sets itself is replaced.
    own = ("-H", "'Authorization: mine'", "-H", "'x-lower: 1'")
    seen = fetch(box, "https://api.first.test/path?q=1", *own)
    assert seen is not None and seen["address"] == FIRST and seen["path"] == "/path?q=1"
    assert seen["headers"]["authorization"] == "Bearer s3cr3t-value"
    assert seen["headers"]["x-plain"] == "yes"
    # Old servers look for names as they are usually written.
    assert {"Host", "Authorization", "X-Plain", "x-lower"} <= set(seen["names"])
    # Other hosts, and the host without TLS, get nothing.
    for url in ("https://second.test/", "https://first.test/", "http://api.first.test/"):
        other = fetch(box, url, "-k")
        assert other is not None and "x-plain" not in other["headers"], url
    # Nor does another host behind the same connection.
    status = box.commands.run(
        "curl -sS -o /dev/null -w '%{http_code}' -H 'Host: second.test' https://api.first.test/"
    )
    assert status.stdout == "421"
    log = (hearth.state_dir / "hearth.log").read_text()
    lines = [line for line in log.splitlines() if "set headers of a request" in line]
    assert len(lines) == 1, "one line for each request whose headers were set"
    for part in (box.sandbox_id, 'host="api.first.test"', 'path="/path"', '"authorization"'):
        assert part in lines[0]
    assert "s3cr3t-value" not in log
    # Neither files, nor any process's variables, nor what the node tells of it.
    search = "grep -rsl s3cr3t-[v]alue /etc /run /home /tmp /proc/[0-9]*/environ; true"
    assert box.commands.run(search, user="root", timeout=120).stdout == ""
    assert "s3cr3t-value" not in json.dumps(box.get_info().network)
    # A secret that is not there is no reason to send the request without it.
    hearth.run("secret", "remove", "api-key")
    status = box.commands.run("curl -sS -o /dev/null -w '%{http_code}' https://api.first.test/")
    assert status.stdout == "502"


def test_secrets_by_the_sdk(hearth: Hearth, box: Sandbox):
    made = Secret.create("Weather Key", "w-1", metadata={"owner": "ops"})
    assert (made.name, made.version, made.metadata) == ("weather key", 1, {"owner": "ops"})
    with pytest.raises(SecretException) as refused:
        Secret.create("weather key", "other")
    assert "already exists" in str(refused.value)
    headers = {"X-Key": Secret.fill("Weather Key")}
    box.update_network({"rules": {"api.first.test": [{"transform": {"headers": headers}}]}})

    def injected() -> str:
        seen = fetch(box, "https://api.first.test/")
        assert seen is not None
        return seen["headers"]["x-key"]

    assert injected() == "w-1"
    updated = Secret.update(made.secret_id, "w-2")
    assert (updated.version, updated.metadata) == (2, {"owner": "ops"})
    assert injected() == "w-2", "the next request has the new value"
    assert Secret.get_info("weather key") == updated and Secret.exists("WEATHER KEY")
    others = [Secret.create(f"other-{number}", "x").secret_id for number in range(3)]
    pages, listed = Secret.list(limit=2), []
    while pages.has_next:
        listed += pages.next_items()
    assert {secret.secret_id for secret in listed} >= {made.secret_id, *others}
    raw = httpx.get(f"{hearth.url}/secrets", headers={"X-API-Key": hearth.api_key})
    assert raw.headers["cache-control"] == "no-store" and "w-2" not in raw.text
    for secret in [made.secret_id, *others]:
        assert Secret.destroy(secret)
    assert not Secret.destroy("weather key") and not Secret.exists("weather key")
    status = box.commands.run("curl -sS -o /dev/null -w '%{http_code}' https://api.first.test/")
    assert status.stdout == "502"
    assert "w-2" not in (hearth.state_dir / "hearth.log").read_text()


def test_rules_over_a_pause_and_a_restart(hearth: Hearth):
    keep_secret(hearth, "over-pause", "k3pt-value")
    headers = {"X-Key": "${e2b.secrets.over-pause}"}
    box = Sandbox.create(
        timeout=600,
        network={
            "allow_out": ["*.first.test", FIRST],
            "deny_out": [EVERYWHERE],
            "rules": {"api.first.test": [{"transform": {"headers": headers}}]},
        },
    )

    def in_force() -> bool:
        seen = fetch(box, "https://api.first.test/")
        assert seen is not None and seen["headers"]["x-key"] == "k3pt-value"
        return blocked(box, f"http://{SECOND}/") and blocked(box, "http://second.test/")

    try:
        assert in_force()
        box.pause()
        box = Sandbox.connect(box.sandbox_id)
        assert in_force()
        hearth.kill()
        hearth.start()
        box = Sandbox.connect(box.sandbox_id)
        assert in_force()
        # What was changed since the create is kept, too.
        box.update_network({"deny_out": [FIRST]})
        box.pause()
        box = Sandbox.connect(box.sandbox_id)
        assert blocked(box, f"http://{FIRST}/") and reaches(box, SECOND)
    finally:
        box.kill()


def test_proxies_of_the_users(box: Sandbox):
    credentials = {"username": "user", "password": "secret"}
    by_address = {"address": f"{SECOND}:1080", **credentials}
    proxies = {
        "SOCKS5": by_address,
        "SOCKS5 by name, inside TLS": {
            "address": "second.test:1081",
            "tls": True,
            **credentials,
        },
        "HTTP": {"address": f"http://{SECOND}:3128", **credentials},
    }
    for name, proxy in proxies.items():
        box.update_network({"egress_proxy": proxy})
        seen = fetch(box, "https://first.test/", "-k")
        assert seen is not None and (seen["address"], seen["client"]) == (FIRST, SECOND), name
        box.update_network({"egress_proxy": {**proxy, "password": "wrong"}})
        assert blocked(box, "https://first.test/", "-k"), name
    box.update_network({"egress_proxy": by_address, "deny_out": [FIRST]})
    assert blocked(box, "https://first.test/", "-k"), "filtering comes first"
    # A proxy at an address that no sandbox may reach is reached through nobody.
    box.update_network({"egress_proxy": {**by_address, "address": f"{METADATA}:1080"}})
    assert blocked(box, "https://first.test/", "-k")
    assert "password" not in json.dumps(box.get_info().network)


def test_another_sandboxs_url(hearth: Hearth, box: Sandbox):
    box.update_network({})
    other = Sandbox.create(timeout=600)
    try:
        other.files.write("/home/user/www/hello.txt", "from next door")
        other.commands.run("cd /home/user/www && python3 -m http.server 8080", background=True)
        # Names below localhost never leave a guest, so the request goes straight to
        # where the forwarder points other domains, at the edge's plain port.
        host = f"8080-{other.sandbox_id}.localhost:{hearth.port}"
        program = (
            "import urllib.request as u\n"
            f"request = u.Request('http://192.0.2.2:{hearth.port}/hello.txt', headers={{'Host': {host!r}}})\n"
            "print(u.urlopen(request, timeout=20).read().decode())"
        )

        def visit() -> str:
            try:
                return python(box, program)
            except Exception:
                return ""

        assert until(visit, "the neighbour's page", every=0.5) == "from next door\n"
    finally:
        other.kill()


VISITED = '''
import http.server, json
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(dict(self.headers.items())).encode())
http.server.ThreadingHTTPServer(("", 8080), Handler).serve_forever()
'''


def test_rules_about_another_sandboxs_host(hearth: Hearth, box: Sandbox):
    other = Sandbox.create(timeout=600)
    try:
        other.files.write("/tmp/server.py", VISITED)
        other.commands.run("python3 /tmp/server.py", background=True)
        host = other.get_host(8080)
        name, port = host.split(":")
        # Names below localhost are not asked for; so curl is told the edge's address.
        at = ("--resolve", f"{name}:{port}:192.0.2.2", "--cacert", "/tmp/edge-ca.pem")
        authority = Path(hearth.exports["NODE_EXTRA_CA_CERTS"]).read_text()
        box.files.write("/tmp/edge-ca.pem", authority)
        url = f"https://{host}/"

        def status(*options: str) -> str:
            asked = f"curl -sS -m 20 -o /dev/null -w '%{{http_code}}' {' '.join(options)} || true"
            return box.commands.run(asked, timeout=60).stdout

        box.update_network({})
        until(lambda: status(*at, url) == "200", "the neighbour's server", every=0.5)
        box.update_network({"deny_out": [host]})
        assert status(*at, url) == "403"
        # However the sandbox is named.
        plain = f"http://192.0.2.2:{hearth.port}/"
        headers = ("-H", f"'E2b-Sandbox-Id: {other.sandbox_id}'", "-H", "'E2b-Sandbox-Port: 8080'")
        assert status(*headers, plain) == "403"
        assert status("-H", f"'Host: 8080-{other.sandbox_id}-6532622b.localhost'", plain) == "403"
        assert status(f"{plain}health") == "200", "the API is another's"
        box.update_network({"allow_out": [host], "deny_out": [EVERYWHERE]})
        assert status(*at, url) == "200"
        # Not at another port, nor another host once the connection stands.
        by_name = f"http://{name}:{hearth.port}/"
        assert status("--resolve", f"{name}:{hearth.port}:192.0.2.2", by_name) == "000"
        assert status(*at, "-H", f"'Host: api.localhost:{port}'", f"{url}health") == "403"
        # Requests to it are changed; the guest trusts its own authority, so no --cacert.
        headers = {"X-Key": "s3cr3t-value"}
        box.update_network({"rules": {host: [{"transform": {"headers": headers}}]}})
        seen = fetch(box, url, *at[:2])
        assert seen is not None and seen["X-Key"] == "s3cr3t-value" and seen["Host"] == host
    finally:
        other.kill()


def test_isolation(hearth: Hearth, box: Sandbox):
    """Everything that a guest, as root, tries against what is not its own."""
    box.update_network({})
    other = Sandbox.create(timeout=600)
    try:
        other.commands.run("python3 -m http.server 8080", background=True)
        box.files.write("/tmp/attack.py", ATTACK)
        targets = {
            "host": HOST,
            "ports": [22, 53, 80, 443, hearth.port, hearth.edge_port, 5008, 8080, 49983],
            "slots": [f"10.11.0.{n}" for n in range(1, 12)],
            "links": [f"10.12.0.{n}" for n in range(0, 12)],
            "outside": FIRST,
        }
        run = f"python3 /tmp/attack.py '{json.dumps(targets)}'"
        report = json.loads(box.commands.run(run, user="root", timeout=300).stdout)
        assert report.pop("control"), "what must work does"
        assert report == {name: [] for name in report}, report
    finally:
        other.kill()


ATTACK = '''
import json, socket, struct, subprocess, sys, threading

targets = json.loads(sys.argv[1])
report = {}


def tcp(address, port, seconds=2.0):
    try:
        with socket.create_connection((address, port), timeout=seconds):
            return True
    except OSError:
        return False


def scan(pairs):
    found, lock = [], threading.Lock()
    def try_one(pair):
        if tcp(*pair):
            with lock:
                found.append(list(pair))
    threads = [threading.Thread(target=try_one, args=(pair,)) for pair in pairs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sorted(found)


# What works, so that what follows does not fail for another reason.
report["control"] = tcp(targets["outside"], 80, 30) and tcp("192.0.2.1", 80, 30)

own = "169.254.0.22"
report["host"] = scan([(targets["host"], port) for port in targets["ports"]])
report["gateway"] = scan([(own, port) for port in targets["ports"]])
report["guests"] = scan([(a, p) for a in targets["slots"] for p in (22, 8080, 49983)])
report["links"] = scan([(a, p) for a in targets["links"] for p in (22, targets["ports"][4])])
report["metadata"] = scan([("169.254.169.254", 80), ("169.254.170.2", 80), ("100.100.100.200", 80)])
report["services"] = scan([("192.0.2.1", p) for p in (22, 443, 3000, 5008, 49983)])

# Raw frames: sources, machines and protocols that are not the guest's own.
GUEST, GATEWAY_MAC = b"\\xa9\\xfe\\x00\\x15", bytes.fromhex("02fc00000006")
MAC = bytes.fromhex("02fc00000005")
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
wire.bind(("eth0", 0))
wire.settimeout(1.0)


def checksum(data):
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ip(source, target, protocol, payload, fragment=0):
    head = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 20 + len(payload), 77, fragment, 64, protocol, 0, source, target)
    return head[:10] + struct.pack(">H", checksum(head)) + head[12:] + payload


def echo_request(number):
    body = struct.pack(">BBHHH", 8, 0, 0, 0x4845, number) + b"hearthhearth"
    return body[:2] + struct.pack(">H", checksum(body)) + body[4:]


def answered(frames, seconds=1.5):
    """Whether an answer to one of our echo requests arrives."""
    import time
    for frame in frames:
        wire.send(frame)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            frame = wire.recv(4096)
        except OSError:
            continue
        if frame[12:14] == b"\\x08\\x00" and frame[23] == 1 and frame[34] == 0 and frame[38:40] == b"HE":
            return True
    return False


outside = socket.inet_aton(targets["outside"])
ether = GATEWAY_MAC + MAC + b"\\x08\\x00"
report["control"] = report["control"] and answered([ether + ip(GUEST, outside, 1, echo_request(1))], 20)
forged = []
for name, source in [("neighbour", "169.254.0.20"), ("slot", "10.11.0.1"), ("link", "10.12.0.0"), ("host", targets["host"]), ("outside", "203.0.113.77")]:
    if answered([ether + ip(socket.inet_aton(source), outside, 1, echo_request(2))]):
        forged.append(name)
if answered([GATEWAY_MAC + bytes.fromhex("02fc00000099") + b"\\x08\\x00" + ip(GUEST, outside, 1, echo_request(3))]):
    forged.append("mac")
if answered([GATEWAY_MAC + MAC + b"\\x81\\x00\\x00\\x07\\x08\\x00" + ip(GUEST, outside, 1, echo_request(4))]):
    forged.append("vlan")
report["forged"] = forged

# Fragments: no way around what is looked at in the first one.
host = socket.inet_aton(targets["host"])
request = echo_request(5)
parts = [ip(GUEST, host, 1, request[:8], 0x2000), ip(GUEST, host, 1, request[8:], 1)]
report["fragments"] = ["host"] if answered([ether + part for part in parts]) else []

# A forged ARP answer and an IPv6 router advertisement change nobody's mind.
arp = b"\\xff" * 6 + MAC + b"\\x08\\x06" + struct.pack(">HHBBH", 1, 0x0800, 6, 4, 2)
wire.send(arp + MAC + socket.inet_aton(own) + MAC + GUEST)
wire.send(arp + MAC + socket.inet_aton("10.12.0.0") + MAC + GUEST)
router = struct.pack(">BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0)
source = socket.inet_pton(socket.AF_INET6, "fe80::bad")
everyone = socket.inet_pton(socket.AF_INET6, "ff02::1")
six = struct.pack(">IHBB", 0x60000000, len(router), 58, 255) + source + everyone + router
wire.send(bytes.fromhex("333300000001") + MAC + b"\\x86\\xdd" + six)
report["after"] = [] if answered([ether + ip(GUEST, outside, 1, echo_request(6))], 20) else ["cut off"]

# IPv6 leads nowhere.
subprocess.run("ip -6 addr add fd00::21/64 dev eth0 nodad; ip -6 route add default dev eth0", shell=True, capture_output=True)
six_found = []
for address in ("fd00::22", "2001:db8::1", "fe80::fc:ff:fe00:6%eth0"):
    for port in (22, targets["ports"][4], 49983):
        try:
            with socket.create_connection((address, port), timeout=1):
                six_found.append(address)
        except OSError:
            pass
report["ipv6"] = six_found
print(json.dumps(report))
'''


# Runs as a user of the host who is nobody; prints what of its input it can read.
LOOKER = """
import os, sys
os.setgroups([]); os.setgid(65534); os.setuid(65534)
for path in sys.stdin.read().split("\\0"):
    try:
        os.listdir(path) if os.path.isdir(path) else open(path, "rb").read(1)
        print(path)
    except OSError:
        pass
"""


def test_other_users_of_the_host_read_nothing(hearth: Hearth, box: Sandbox):
    box.commands.run("echo seen-by-nobody")
    with hearth.client() as api:
        path = f"/v2/sandboxes/{box.sandbox_id}/logs"
        until(lambda: "seen-by-nobody" in api.get(path).text, "the log")
    state = hearth.state_dir
    paths = [str(path) for path in tree(state) if not path.is_symlink()]
    paths += [str(path) for path in tree(hearth.run_dir) if not path.is_socket()]
    assert any("telemetry" in path for path in paths)
    looker = subprocess.run(
        ["python3", "-c", LOOKER], input="\0".join(paths), capture_output=True, text=True, check=True
    )
    # What guests boot from, and what anybody may know.
    public = ("artefacts", "ca.crt", "ca-bundle.crt", "hearth.pid", "emulation", "network.json", "guest.json")
    private = ("telemetry", "builds", "templates", "sandboxes", "keys", "secrets", "hearth.db", "hearth.log")
    seen = [path.removeprefix(f"{state}/").removeprefix(f"{hearth.run_dir}/") for path in looker.stdout.split()]
    assert [path for path in seen if path.split("/")[0].startswith(private)] == []
    assert [path for path in seen if not path.split("/")[0].startswith(public)] == []
