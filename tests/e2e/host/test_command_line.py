"""`hearth` as a person types it."""

import json
import os
import re
import subprocess
from pathlib import Path

import httpx
from e2b import Sandbox

from support import machine
from support.daemon import KEY_PATTERN, Hearth
from support.waiting import until


def test_up_detached_env_and_down():
    hearth = Hearth()
    hearth.prepare_host()
    try:
        printed = hearth.run("up", "--detach", seconds=1500).stdout
        assert hearth.url in printed and "from e2b import Sandbox" in printed
        exports = hearth.read_exports()
        assert KEY_PATTERN.fullmatch(exports["E2B_API_KEY"])
        assert exports["E2B_DOMAIN"] == f"localhost:{hearth.tls_port}"
        exports = hearth.read_exports("--http")
        assert exports["E2B_API_URL"] == exports["E2B_SANDBOX_URL"] == hearth.url
        assert httpx.get(f"{hearth.url}/health").is_success
        # A second `up` finds it running.
        assert "up already" in hearth.run("up", "--detach").stdout
        hearth.run("down")
        try:
            httpx.get(f"{hearth.url}/health")
            raise AssertionError("it still answers")
        except httpx.ConnectError:
            pass
        assert hearth.leftovers() == {}
        # Down again is no error.
        hearth.run("down")
    finally:
        hearth.run("down", check=False)
        hearth.close()


def test_second_start_keeps_keys_and_is_another_daemon(own_hearth):
    key = own_hearth.api_key
    own_hearth.down()
    own_hearth.start()
    assert own_hearth.api_key == key
    with own_hearth.client() as api:
        assert api.get("/v2/sandboxes").json() == []


def test_lists_for_people_and_for_programs(own_hearth):
    (team,) = json.loads(own_hearth.run("team", "ls", "--json").stdout)
    with own_hearth.client() as api:
        (told,) = api.get("/teams").json()
        made = api.post("/secrets", json={"name": "listed", "value": "hidden"})
        assert made.status_code == 201, made.text
    assert told["teamID"] == team["teamID"] and told["apiKey"] == own_hearth.api_key
    keys = json.loads(own_hearth.run("key", "ls", "--json").stdout)
    assert {key["teamID"] for key in keys} == {team["teamID"]}
    for command in (["team", "ls"], ["key", "ls"], ["key", "list"]):
        printed = own_hearth.run(*command).stdout
        assert team["teamID"] in printed and re.search(r"(now|ago)", printed), printed
    (secret,) = json.loads(own_hearth.run("secret", "ls", "--json").stdout)
    assert secret["name"] == "listed" and "hidden" not in json.dumps(secret)
    templates = json.loads(own_hearth.run("template", "ls", "--json").stdout)
    assert [template["names"] for template in templates] == [["base"]]
    (build,) = json.loads(own_hearth.run("snapshot", "ls", "--json").stdout)
    assert build["buildID"] == templates[0]["buildID"]


def test_key_file_is_roots_alone(own_hearth):
    def holds_the_key(path: Path) -> bool:
        try:
            small = path.is_file() and path.stat().st_size < 65536
            return small and own_hearth.api_key in path.read_text(errors="replace")
        except FileNotFoundError:  # It was listed, and ended since.
            return False

    found = [path for path in machine.tree(own_hearth.state_dir) if holds_the_key(path)]
    assert found, "the key is in no file"
    for path in found:
        assert path.stat().st_mode & 0o077 == 0, f"{path} is readable by others"
        assert path.suffix != ".log"


def test_key_is_in_no_argument_list_and_log(own_hearth):
    sandbox = Sandbox.create(envs={"SECRET": "very-secret-value"})
    secrets = [own_hearth.api_key, "very-secret-value", sandbox._envd_access_token]
    lines = " ".join(machine.command_lines().values())
    log = own_hearth.log_tail(lines=1_000_000)
    for secret in secrets:
        assert secret and secret not in lines and secret not in log


def test_sandbox_list_and_kill(own_hearth):
    sandbox = Sandbox.create()
    listed = own_hearth.run("sandbox", "ls").stdout
    (line,) = [line for line in listed.splitlines() if sandbox.sandbox_id in line]
    assert re.match(rf"{sandbox.sandbox_id} +running +base +(now|\d+ seconds? ago) +in \d", line)
    (listed,) = json.loads(own_hearth.run("sandbox", "ls", "--json").stdout)
    assert listed["sandboxID"] == sandbox.sandbox_id and listed["state"] == "running"
    own_hearth.run("sandbox", "kill", sandbox.sandbox_id)
    assert sandbox.sandbox_id not in own_hearth.run("sandbox", "ls").stdout
    missing = own_hearth.run("sandbox", "kill", sandbox.sandbox_id, check=False)
    assert missing.returncode != 0 and sandbox.sandbox_id in missing.stderr


def test_doctor():
    hearth = Hearth()
    try:
        done = hearth.run("doctor")
        assert done.returncode == 0
        text = done.stdout.lower()
        assert "kvm" in text or "tcg" in text
    finally:
        hearth.close()


def test_doctor_names_a_port_in_use_and_fails():
    import socket

    hearth = Hearth()
    try:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", hearth.port))
            taken.listen()
            done = hearth.run("doctor", check=False)
        assert done.returncode != 0
        assert str(hearth.port) in done.stdout + done.stderr
    finally:
        hearth.close()


def test_doctor_without_tools_says_what_to_install():
    hearth = Hearth()
    try:
        done = subprocess.run(
            hearth.command("doctor"),
            env={**hearth.environment, "PATH": "/nonexistent"},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode != 0
        assert "qemu-system-x86" in done.stdout + done.stderr
    finally:
        hearth.close()


def test_bench_measures_the_real_thing(own_hearth):
    done = own_hearth.run("bench", "tti", "-n", "2", "--json", seconds=600)
    report = json.loads(done.stdout)
    flat = json.dumps(report)
    for name in ("create", "tti", "exec", "kill", "p50", "p95", "p99"):
        assert name in flat.lower()
    until(lambda: own_hearth.listed() == set(), "the bench's sandboxes to be gone")


def test_misspelt_settings_are_refused():
    hearth = Hearth(config={"api": {"prot": 1}})
    try:
        done = hearth.run("env", check=False)
        assert done.returncode != 0
        assert "prot" in done.stderr
    finally:
        hearth.close()


def test_commands_without_a_daemon_fail_in_words():
    hearth = Hearth()
    try:
        for arguments in (["sandbox", "ls"], ["env"]):
            done = hearth.run(*arguments, check=False)
            assert done.returncode != 0
            assert "hearth" in done.stderr and "panicked" not in done.stderr
            assert "hearth up" in done.stderr or hearth.url in done.stderr
    finally:
        hearth.close()
    assert not os.path.exists(hearth.home)
