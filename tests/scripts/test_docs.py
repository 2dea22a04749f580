"""What docs/ says, held against the source: links, commands, settings, error codes, versions."""

import ast
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Iterator

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
# Made from the code, and compared with it by tests of their own.
GENERATED = ("cli.md", "configuration.md")
PAGES = [page for page in sorted(DOCS.glob("*.md")) if page.name not in GENERATED]


def fenced(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.M | re.S)


def site(config: Path, to: Path) -> subprocess.CompletedProcess:
    tool = subprocess.run([ROOT / "scripts/tools", "python-docs"], capture_output=True, text=True, check=True)
    command = [tool.stdout.strip(), "-m", "mkdocs", "build", "--strict"]
    return subprocess.run(
        [*command, "--config-file", config, "--site-dir", to],
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )


# Seconds, but on a machine that does much else.
@pytest.mark.timeout(600)
def test_the_site_is_whole(tmp_path):
    made = site(ROOT / "mkdocs.yml", tmp_path)
    assert made.returncode == 0, made.stdout + made.stderr
    reference = (tmp_path / "api.html").read_text()
    routes = json.loads((DOCS / "openapi.json").read_text())["paths"]
    assert [path for path in routes if f"{path}</code>" not in reference] == []
    assert (tmp_path / "openapi.json").is_file()
    # No page asks another host for anything.
    page = (tmp_path / "index.html").read_text()
    assert re.findall(r'<(?:script|link|img)[^>]*(?:src|href)="https?://[^"]*"', page) == []


@pytest.mark.parametrize("broken", ["[x](nowhere.md)", "[x](index.md#nowhere)"])
def test_a_link_that_leads_nowhere_ends_it(tmp_path, broken):
    (tmp_path / "docs").mkdir()
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts/mkdocs_hooks.py", tmp_path / "scripts")
    (tmp_path / "docs/index.md").write_text(f"# Home\n\n{broken}\n")
    config = (ROOT / "mkdocs.yml").read_text().split("\nnav:")[0] + "\nnav: [index.md]\n"
    (tmp_path / "mkdocs.yml").write_text(config)
    made = site(tmp_path / "mkdocs.yml", tmp_path / "site")
    assert made.returncode != 0 and "nowhere" in made.stdout + made.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_is_python(page):
    for block in fenced(page, "python"):
        ast.parse(block)


def known_commands() -> dict[str, str]:
    """Each command with its part of the reference."""
    parts = re.split(r"^## `(hearth[^`]*)`$", (DOCS / "cli.md").read_text(), flags=re.M)
    return dict(zip(parts[1::2], parts[2::2]))


COMMANDS = known_commands()


def used_commands(page: Path) -> Iterator[str]:
    """What is typed: lines of shell blocks, and inline code that begins with the program."""
    for block in fenced(page, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            found = re.search(r"(?:^|\(|sudo |target/fast/)(hearth [a-z].*)", line.split("  #")[0].strip())
            if found:
                yield found[1]
    prose = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S)
    for code in re.findall(r"`((?:sudo )?hearth [a-z][^`]*)`", prose):
        yield code.removeprefix("sudo ")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_their_options_exist(page):
    wrong = []
    for line in used_commands(page):
        # What follows `--` is the guest's.
        words = re.split(r"\s--(?:\s|$)", line)[0].replace(')"', "").split()
        name = "hearth"
        for word in words[1:]:
            # `pause|resume` are two commands.
            choices = [f"{name} {choice}" for choice in word.split("|")]
            if not all(choice in COMMANDS for choice in choices):
                break
            name = choices[0]
        options = [word.split("=")[0].split("|")[0] for word in words if word.startswith("--")]
        stops = name in ("hearth run", "hearth exec")
        unknown = [] if stops else [option for option in options if f"`{option}" not in COMMANDS[name]]
        if name == "hearth" or unknown:
            wrong.append((line, unknown))
    assert wrong == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_settings_exist(page):
    table = (DOCS / "configuration.md").read_text()
    settings = re.findall(r"^\| `([a-z_]+(?:\.[a-z_]+)+)`", table, re.M)
    # A table within a table is named, too.
    known = {".".join(name.split(".")[:depth]) for name in settings for depth in (2, 3)}
    sections = {name.split(".")[0] for name in known}
    named = set(re.findall(r"`([a-z_]+(?:\.[a-z_]+)+)`", page.read_text()))
    assert {name for name in named if name.split(".")[0] in sections} - known - OTHERS == set()


# Words that look like settings: a file, an entry of the audit log, types of events.
OTHERS = {"audit.log", "template.prepare", "template.build.ready", "template.build.failed"}


def source(path: str) -> str:
    return (ROOT / path).read_text()


def test_every_code_of_an_error_is_told():
    told = source("docs/errors.md")
    codes = re.search(r"mod code \{(.*?)\n\}", source("crates/control/src/error.rs"), re.S)
    assert codes
    words = re.findall(r'= "([a-z_]+)";', codes[1])
    words += re.findall(r'"([A-Z]+(?:_[A-Z]+)*)"', source("crates/api/src/content_failure.rs"))
    assert len(words) > 15
    assert [word for word in words if f"`{word}`" not in told] == []
    listed = re.findall(r"^\| `([A-Za-z_]+)` \| \d", told, re.M)
    assert sorted(set(listed) - set(words)) == [], "codes that the source does not have"


def test_every_status_of_the_api_is_told():
    told = source("docs/errors.md").split("## The content of volumes")[0]
    paths = json.loads(source("docs/openapi.json"))["paths"]
    statuses = {
        status
        for methods in paths.values()
        for route in methods.values()
        if isinstance(route, dict)
        for status in route.get("responses", {})
        if status >= "400"
    }
    assert [status for status in sorted(statuses) if f"\n| {status} |" not in told] == []


def test_every_refusal_of_the_edge_is_told():
    told = source("docs/errors.md")
    found = re.findall(r"#\[error\(\s*\"(.*?)\"\s*\)\]", source("crates/edge/src/refusal.rs"), re.S)
    assert len(found) > 15
    for message in found:
        # The longest piece without a value in it, up to where the text goes on.
        pieces = re.split(r"\{[^}]*\}", message.replace("\\\n", ""))
        longest = max((piece.split(".")[0].split(":")[0].split("(")[0].strip() for piece in pieces), key=len)
        assert longest in told, message


def test_the_versions_are_those_of_the_tests():
    told = source("docs/compatibility.md")
    pins = re.findall(r"^(e2b[a-z-]*)==([0-9.]+)", "".join(
        source(f"tests/e2e/requirements-{name}.txt") for name in ("newest", "2.45", "interpreter")
    ), re.M)
    for folder, name in (("js", "e2b"), ("interpreter/js", "@e2b/code-interpreter"), ("cli", "@e2b/cli")):
        packages = json.loads(source(f"tests/e2e/{folder}/package.json"))["dependencies"]
        for package, version in packages.items():
            if package == name or version.startswith(f"npm:{name}@"):
                pins.append((name, version.split("@")[-1]))
    assert len(pins) >= 7
    missing = [pin for pin in pins if not re.search(rf"^\| `{pin[0]}`[^|]*\| {re.escape(pin[1])} \|", told, re.M)]
    assert missing == []
