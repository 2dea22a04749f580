"""What a guest is like inside: names, users, environment, clock, limits."""

import time
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from e2b import CommandExitException, Sandbox
from e2b.sandbox.commands.command_handle import PtySize

from support.waiting import until

OWN = {"GREETING": "from the sandbox", "E2B_TEST_SECRET": "not for root"}


@pytest.fixture(scope="module")
def guest(hearth):
    sandbox = Sandbox.create(timeout=600, envs=OWN)
    yield sandbox
    sandbox.kill()


def say(guest, command, **options):
    return guest.commands.run(command, **options).stdout.strip()


def test_the_machine_is_named_after_the_sandbox_and_knows_its_name(guest):
    assert say(guest, "hostname") == guest.sandbox_id
    assert say(guest, "cat /etc/hostname") == guest.sandbox_id
    assert guest.sandbox_id in say(guest, "getent hosts $(hostname)")
    assert "127.0.0.1" in say(guest, "getent ahostsv4 localhost")


def test_sudo_is_silent_and_lets_no_environment_through(guest):
    result = guest.commands.run("sudo env", envs={"REQUESTED": "too"})
    assert result.stderr == ""
    names = {line.split("=", 1)[0] for line in result.stdout.splitlines()}
    assert not names & {"GREETING", "E2B_TEST_SECRET", "REQUESTED"}, names
    assert say(guest, "sudo hostname") == guest.sandbox_id


def test_every_command_sees_the_environment(guest):
    script = "echo $GREETING, $E2B_SANDBOX, $E2B_SANDBOX_ID"
    expected = f"from the sandbox, true, {guest.sandbox_id}"
    assert say(guest, script) == expected
    assert say(guest, script, user="root") == expected
    assert say(guest, "echo $GREETING", envs={"GREETING": "mine"}) == "mine"
    marker = say(guest, "cat /run/e2b/.E2B_SANDBOX_ID")
    assert marker == guest.sandbox_id


def test_the_clock_is_right_and_stays_so(guest):
    before = time.time()
    shown = say(guest, "date +%s.%N; sleep 1; date +%s.%N")
    after = time.time()
    first, second = (float(line) for line in shown.split())
    assert before - 2 < first < second < after + 2
    # It runs at the host's speed, to what the way there and back takes.
    assert 1 <= second - first <= after - before


def test_commands_and_terminals_have_groups_and_scores_of_their_own(guest):
    assert say(guest, "cat /proc/self/cgroup") == "0::/user"
    assert say(guest, "cat /proc/self/oom_score_adj") == "100"
    assert say(guest, "cat /proc/1/oom_score_adj", user="root") == "-1000"
    assert int(say(guest, "ulimit -n")) >= 65536
    assert say(guest, "nice") == "0"
    shown = []
    terminal = guest.pty.create(PtySize(rows=24, cols=80), timeout=60)
    for line in (b"cat /proc/self/cgroup\n", b"exit 0\n"):
        guest.pty.send_stdin(terminal.pid, line)
    terminal.wait(on_pty=lambda data: shown.append(data))
    assert b"0::/ptys" in b"".join(shown)


def test_orphans_are_waited_for(guest):
    say(guest, "for i in 1 2 3 4 5; do (sleep 0.1 &) ; done; sleep 0.5")
    zombies = "ps -eo stat,comm | grep -c ^Z || true"
    until(lambda: say(guest, zombies) == "0", "all children to be waited for")


def test_a_guest_out_of_memory_keeps_its_agent(guest):
    eat = "import os\nkept = []\nwhile True: kept.append(os.urandom(1) * (8 << 20))"
    with pytest.raises(CommandExitException) as ended:
        guest.commands.run(f'python3 -c "{eat}"', timeout=180)
    assert ended.value.exit_code != 0
    assert say(guest, "echo alive") == "alive"
    assert guest.is_running()


def test_programs_inside_cannot_use_what_is_the_orchestrators(guest):
    token = guest._envd_access_token
    for path in ("init", "freeze", "collapse", "upgrade", "telemetry"):
        method = "GET" if path == "telemetry" else "POST"
        for address in ("127.0.0.1", "169.254.0.21"):
            status = say(
                guest,
                "curl -s -o /dev/null -w '%{http_code}' "
                f"-X {method} -H 'X-Access-Token: {token}' http://{address}:49983/{path}",
            )
            assert status == "403", (path, address)


# Calls that the other files leave out.


@pytest.fixture
def web(hearth):
    with httpx.Client(base_url=hearth.url, timeout=60) as client:
        yield client


def signed(guest, web, method, url, **more):
    parts = urlsplit(url)
    headers = {"E2b-Sandbox-Id": guest.sandbox_id, "E2b-Sandbox-Port": "49983"}
    query = {name: values[0] for name, values in parse_qs(parts.query).items()}
    return web.request(method, parts.path, params=query, headers=headers, **more)


def test_signed_urls(guest, web):
    upload = guest.upload_url("/home/user/signed", user="user")
    form = {"file": ("signed", b"uploaded by URL")}
    answer = signed(guest, web, "POST", upload, files=form)
    assert answer.status_code == 200, answer.text
    download = guest.download_url("/home/user/signed", user="user", use_signature_expiration=60)
    assert signed(guest, web, "GET", download).text == "uploaded by URL"
    # Good for what was signed and nothing else.
    assert signed(guest, web, "GET", upload).status_code == 401
    other = download.replace("%2Fsigned", "%2Fothers").replace("/signed", "/others")
    assert signed(guest, web, "GET", other).status_code == 401
    past = guest.download_url("/home/user/signed", user="user", use_signature_expiration=-60)
    assert signed(guest, web, "GET", past).status_code == 401


def test_ranges_and_heads(guest, web):
    guest.files.write("/home/user/ranged", "0123456789")
    headers = {
        "E2b-Sandbox-Id": guest.sandbox_id,
        "E2b-Sandbox-Port": "49983",
        "X-Access-Token": guest._envd_access_token,
    }
    params = {"path": "/home/user/ranged", "username": "user"}
    part = web.get("/files", params=params, headers={**headers, "Range": "bytes=2-4"})
    assert (part.status_code, part.text) == (206, "234")
    assert part.headers["content-range"] == "bytes 2-4/10"
    head = web.head("/files", params=params, headers=headers)
    assert (head.status_code, head.headers["content-length"]) == (200, "10")


def test_metadata_of_files(guest, sdk_version):
    if sdk_version < (2, 60):
        pytest.skip("this SDK knows no metadata")
    guest.files.write("/home/user/tagged", "x", metadata={"purpose": "test"})
    assert guest.files.get_info("/home/user/tagged").metadata == {"purpose": "test"}
    guest.files.write("/home/user/tagged", "y")
    assert not guest.files.get_info("/home/user/tagged").metadata


def test_a_watch_tells_what_is_there(guest, sdk_version):
    if sdk_version < (2, 60):
        pytest.skip("this SDK asks for no entries")
    guest.files.make_dir("/home/user/entries")
    watcher = guest.files.watch_dir("/home/user/entries", include_entry=True)
    guest.files.write("/home/user/entries/one", "12345")
    events = []

    def written():
        events.extend(watcher.get_new_events())
        return [e for e in events if e.name == "one" and e.entry is not None and e.entry.size == 5]

    until(written, "an event with the file's entry")
    watcher.stop()


def test_a_full_disk_is_said_so(guest, web):
    say(guest, "mkdir -p /mnt/small && mount -t tmpfs -o size=1m,mode=777 tmpfs /mnt/small", user="root")
    answer = web.post(
        "/files",
        params={"path": "/mnt/small/big", "username": "user"},
        content=b"x" * (3 << 20),
        headers={
            "E2b-Sandbox-Id": guest.sandbox_id,
            "E2b-Sandbox-Port": "49983",
            "X-Access-Token": guest._envd_access_token,
            "Content-Type": "application/octet-stream",
        },
    )
    assert answer.status_code == 507, answer.text
