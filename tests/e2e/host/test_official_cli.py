"""The official command line, in two generations, against a running Hearth."""

import json
import os
import re
import ssl
import subprocess
from pathlib import Path

import httpx
import pytest

from support.daemon import running

DOCKERFILE = "FROM e2bdev/base\nCOPY f.txt /opt/\nRUN echo from the CLI > /opt/made\n"
SMALL = ("--cpu-count", "1", "--memory-mb", "256")


class Cli:
    """`e2b` as its users run it: with what `hearth env` exports, in a project."""

    def __init__(self, hearth, project: Path, generation: str):
        self.project = project
        modules = Path(os.environ["HEARTH_E2E_CLI"]) / "node_modules"
        program = modules / f"cli-{generation}" / "dist" / "index.js"
        self.command = [os.environ["HEARTH_E2E_NODE"], str(program)]
        exports = hearth.read_exports()
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("E2B_")},
            **exports,
            "HOME": str(project / "home"),
            # Older ones ask for it; nothing here reads it.
            "E2B_ACCESS_TOKEN": "sk_e2b_" + "0" * 40,
            "NO_COLOR": "1",
        }

    def run(self, *arguments: str, seconds: float = 60, **options) -> subprocess.CompletedProcess:
        options.setdefault("stdin", subprocess.DEVNULL)
        return subprocess.run(
            [*self.command, *arguments],
            cwd=self.project,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=seconds,
            **options,
        )

    def __call__(self, *arguments: str, **options) -> str:
        done = self.run(*arguments, **options)
        assert done.returncode == 0, f"{arguments}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout


@pytest.fixture(scope="module")
def cli_hearth():
    with running() as hearth:
        yield hearth


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("project")
    (root / "home").mkdir()
    (root / "e2b.Dockerfile").write_text(DOCKERFILE)
    (root / "f.txt").write_text("copied\n")
    return root


@pytest.fixture(scope="module")
def e2b(cli_hearth, project) -> Cli:
    return Cli(cli_hearth, project, "newest")


@pytest.fixture(scope="module")
def older(cli_hearth, project) -> Cli:
    return Cli(cli_hearth, project, "2.2")


@pytest.fixture(scope="module")
def template(e2b) -> str:
    printed = e2b("template", "create", "by-cli", *SMALL, seconds=180)
    assert "Building sandbox template by-cli finished" in printed, printed
    return "by-cli"


@pytest.fixture(scope="module")
def sandbox(e2b, template) -> str:
    printed = e2b("sandbox", "create", template, "--detach", "--timeout", "600")
    found = re.search(r"\bi[a-z0-9]{20}\b", printed)
    assert found, printed
    return found.group()


def test_templates_are_listed_and_published(e2b, older, template):
    listed = {found["aliases"][0]: found for found in json.loads(e2b("template", "list", "-f", "json"))}
    assert listed[template]["buildStatus"] == "ready" and not listed[template]["public"]
    assert "base" not in listed  # the team's own alone
    assert template in older("template", "list")
    assert "Published as: default/by-cli" in e2b("template", "publish", template, "-y")
    assert json.loads(e2b("template", "list", "-f", "json"))[0]["public"]
    older("template", "unpublish", template, "-y")
    assert not json.loads(e2b("template", "list", "-f", "json"))[0]["public"]


def test_sandboxes_run_commands(e2b, sandbox):
    assert e2b("sandbox", "exec", sandbox, "cat", "/opt/made", "/opt/f.txt") == (
        "from the CLI\ncopied\n"
    )
    assert e2b.run("sandbox", "exec", sandbox, "sh", "-c", "exit 3").returncode == 3
    piped = e2b("sandbox", "exec", sandbox, "cat", stdin=None, input="piped\n")
    assert piped == "piped\n"
    listed = json.loads(e2b("sandbox", "list", "-f", "json"))
    assert [found["sandboxId"] for found in listed] == [sandbox]
    assert sandbox in e2b("sandbox", "info", sandbox)


def test_its_link_into_a_dashboard_leads_to_a_page(e2b, sandbox):
    connecting = subprocess.Popen(
        [*e2b.command, "sandbox", "connect", sandbox],
        cwd=e2b.project,
        env=e2b.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert connecting.stdout is not None
        # It comes before the terminal.
        links = (re.search(r"https?://[^\s\x07\x1b]+/inspect/sandbox/\w+", line) for line in connecting.stdout)
        link = next(filter(None, links)).group()
    finally:
        connecting.kill()
        connecting.wait()
    context = ssl.create_default_context(cafile=e2b.environment.get("SSL_CERT_FILE"))
    page = httpx.get(link, verify=context, timeout=60)
    assert page.status_code == 200 and page.headers["content-type"].startswith("text/html")
    assert f"e2b sandbox info {sandbox}" in page.text


def test_what_sandboxes_tell_is_read(e2b, older, sandbox):
    e2b("sandbox", "exec", sandbox, "echo", "a line for the log")
    assert "a line for the log" in e2b("sandbox", "logs", sandbox)
    assert "a line for the log" in older("sandbox", "logs", sandbox)
    assert "Memory:" in e2b("sandbox", "metrics", sandbox)


def test_sandboxes_pause_and_are_kept(e2b, older, sandbox):
    e2b("sandbox", "pause", sandbox)
    assert sandbox in e2b("sandbox", "list", "-s", "paused")
    e2b("sandbox", "resume", sandbox)
    assert "snap" in e2b("sandbox", "snapshot", "create", sandbox, "-n", "snap")
    assert len(json.loads(e2b("sandbox", "snapshot", "list", "-f", "json"))) == 1
    e2b("sandbox", "snapshot", "delete", "snap")
    assert sandbox in older("sandbox", "kill", sandbox)
    assert json.loads(e2b("sandbox", "list", "-f", "json")) == []


def test_the_older_one_builds_too(older, e2b, project):
    # It does not begin as root.
    (project / "older.Dockerfile").write_text("FROM e2bdev/base\nCOPY f.txt made.txt\n")
    options = ("-d", "older.Dockerfile", *SMALL)
    printed = older("template", "build-v2", "by-older", *options, seconds=180)
    assert "by-older finished" in printed, printed
    e2b("template", "delete", "by-older", "-y")
    assert "by-older" not in older("template", "list")


def test_builds_with_docker_are_told_what_works(cli_hearth):
    with cli_hearth.client() as client:
        for path in ("/templates", "/templates/x", "/templates/x/builds/y"):
            answer = client.post(path, json={})
            assert answer.status_code == 501 and "template create" in answer.json()["message"]


def test_projects_are_begun_and_migrated(e2b, tmp_path, project):
    e2b("template", "init", "-n", "made", "-l", "python-sync", "-p", str(tmp_path))
    assert "from_" in (tmp_path / "made" / "template.py").read_text()
    old = tmp_path / "old"
    old.mkdir()
    (old / "e2b.Dockerfile").write_text(DOCKERFILE)
    (old / "e2b.toml").write_text('template_id = "abc"\ndockerfile = "e2b.Dockerfile"\n')
    e2b("template", "migrate", "-l", "python-sync", "-p", str(old))
    assert "from the CLI" in (old / "template.py").read_text()


def test_templates_are_deleted(e2b, template):
    e2b("template", "delete", template, "-y")
    missing = e2b.run("template", "delete", template, "-y")
    assert missing.returncode != 0 and "404" in missing.stdout + missing.stderr
