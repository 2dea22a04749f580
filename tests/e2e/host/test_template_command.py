"""`hearth template`: Dockerfiles become templates, and have names."""

import json
import signal
import subprocess
import uuid
from pathlib import Path

import pytest
from e2b import Sandbox

from support.waiting import until

SMALL = ("--cpus", "1", "--memory-mb", "256")

DOCKERFILE = """\
# What most of them look like.
FROM base
ARG WHO=nobody
ENV APP=/app GREETING="hello $WHO"
WORKDIR $APP
COPY --chown=user:user . ./
COPY --chmod=600 note.txt /etc/note
COPY <<EOF /etc/greeting
$GREETING
EOF
RUN echo "in $(pwd) as $(whoami)" && \\
    # a comment within
    ls -A > /listing
RUN ["sh", "-c", "echo 'exec form' > /exec"]
RUN <<EOF
echo first > /script
echo second >> /script
EOF
USER user
RUN whoami > ~/who
"""


def fresh(prefix: str) -> str:
    return f"{prefix}-{uuid.uuid4().hex[:8]}"


@pytest.fixture(scope="module")
def context(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("context")
    (root / "Dockerfile").write_text(DOCKERFILE)
    (root / ".dockerignore").write_text("Dockerfile\n.dockerignore\n*.secret\nout\n!out/kept\n")
    (root / "note.txt").write_text("a note\n")
    (root / "my.secret").write_text("not for the template\n")
    (root / "sub").mkdir()
    (root / "sub" / "run.sh").write_text("#!/bin/sh\necho ran\n")
    (root / "sub" / "run.sh").chmod(0o755)
    (root / "sub" / "link").symlink_to("../note.txt")
    (root / "out").mkdir()
    (root / "out" / "kept").write_text("k")
    (root / "out" / "left").write_text("l")
    return root


@pytest.fixture(scope="module")
def built(module_hearth, context):
    """The template's name, and what building it printed."""
    name = fresh("made")
    done = build(module_hearth, str(context), "--name", f"{name}:v1", "--build-arg", "WHO=world")
    return name, done.stdout


def build(hearth, *arguments: str, check: bool = True) -> subprocess.CompletedProcess:
    return hearth.run("template", "build", *arguments, *SMALL, check=check)


def test_a_dockerfile_becomes_a_template(module_hearth, built):
    name, printed = built
    assert "    in /app as root\n" in printed, printed
    with Sandbox.create(f"{name}:v1") as sandbox:
        script = """
            cat /etc/greeting /exec /script ~/who /app/sub/link
            cd /app && find . -mindepth 1 | sort | tr '\\n' ' '; echo
            ./sub/run.sh; stat -c '%U %a' /app/note.txt; pwd; whoami
            """
        assert sandbox.commands.run(script).stdout.splitlines() == [
            *("hello world", "exec form", "first", "second", "user", "a note"),
            "./note.txt ./out ./out/kept ./sub ./sub/link ./sub/run.sh ",
            *("ran", "user 644", "/app", "user"),
        ]
        note = sandbox.commands.run("cat /etc/note; stat -c '%U %a' /etc/note", user="root")
        assert note.stdout == "a note\nroot 600\n"


def test_a_second_build_runs_nothing(module_hearth, context, built):
    name, _ = built
    done = build(module_hearth, str(context), "-n", name, "--build-arg", "WHO=world")
    assert "CACHED [finalize]" in done.stdout
    assert "in /app as root" not in done.stdout
    quiet = build(module_hearth, str(context), "-n", name, "--build-arg", "WHO=world", "-q")
    found = json.loads(module_hearth.run("template", "show", name).stdout)
    assert quiet.stdout == found["templateID"] + "\n"
    assert len(found["builds"]) == 3


def test_tags_come_and_go(module_hearth, context, built):
    name, _ = built
    hearth = module_hearth
    hearth.run("template", "tag", f"{name}:v1", "stable", "old")
    hearth.run("template", "untag", name, "old")
    with hearth.client() as client:
        tags = client.get(f"/templates/{name}/tags").json()
    by_name = {tag["tag"]: tag["buildID"] for tag in tags}
    assert by_name["stable"] == by_name["v1"] and "old" not in by_name
    listed = hearth.run("template", "ls").stdout
    line = next(line for line in listed.splitlines() if name in line)
    assert "stable" in line and "v1" in line and "ready" in line
    for wrong in (("tag", f"{name}:none", "x"), ("untag", name, "old"), ("untag", name, "default")):
        done = hearth.run("template", *wrong, check=False)
        assert done.returncode == 1 and "hearth:" in done.stderr, wrong


def test_a_failing_step_is_named_with_its_line(module_hearth, tmp_path):
    (tmp_path / "Dockerfile").write_text("FROM base\n\nRUN true\nRUN echo before; exit 3\n")
    name = fresh("fails")
    done = build(module_hearth, str(tmp_path), "--name", name, check=False)
    assert done.returncode == 1
    assert "    before\n" in done.stdout
    first, second, *_ = done.stderr.splitlines()
    assert first.startswith(f"hearth: {tmp_path}/Dockerfile:4: ") and "exit" in first
    assert second.strip() == "4 | RUN echo before; exit 3"
    assert module_hearth.run("template", "rm", name).stdout == f"{name}\n"
    gone = module_hearth.run("template", "rm", name, check=False)
    assert gone.returncode == 1 and name in gone.stderr


def test_ctrl_c_gives_the_build_up(module_hearth, tmp_path):
    hearth = module_hearth
    file = tmp_path / "Dockerfile"
    file.write_text("FROM base\nRUN echo begun; sleep 100000\n")
    name = fresh("endless")
    printed = tmp_path / "printed"
    with open(printed, "w") as out:
        process = subprocess.Popen(
            hearth.command("template", "build", str(file), "--name", name, *SMALL),
            env=hearth.environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.PIPE,
            text=True,
        )
    try:
        begun = lambda: "    begun" in printed.read_text()
        until(begun, "the step to begin", seconds=120, every=0.2)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 130 and "cancelled" in errors
    with hearth.client() as client:
        found = client.get(f"/templates/{name}").json()
    assert found["buildStatus"] == "error"
    work = hearth.state_dir / "templates" / "work"
    until(lambda: list(work.iterdir()) == [], "the build to be gone", seconds=30)


@pytest.mark.parametrize(
    "text, line, words",
    [
        ("FROM base AS a\nFROM base\n", 2, "several stages"),
        ("FROM base\nRUN a\nCOPY none.txt /x\n", 3, "none.txt"),
        ("FROM base\nCOPY my.secret /x\n", 2, ".dockerignore"),
        ("FROM base\nFETCH x\n", 2, "FETCH"),
        ("FROM base\nENV A\n", 2, "NAME=VALUE"),
        ("RUN x\n", 1, "before FROM"),
    ],
)
def test_wrong_dockerfiles_are_refused_before_anything_begins(
    module_hearth, context, tmp_path, text, line, words
):
    file = tmp_path / "Wrong"
    file.write_text(text)
    name = fresh("wrong")
    done = build(
        module_hearth, str(context), "--file", str(file), "--name", name, check=False
    )
    assert done.returncode == 1
    assert f"{file}:{line}: " in done.stderr and words in done.stderr
    assert module_hearth.run("template", "show", name, check=False).returncode != 0


@pytest.mark.parametrize(
    "arguments, words",
    [
        (("/nonexistent",), "/nonexistent"),
        (("--name", "No Name"), "No Name"),
        (("--cpus", "3"), "CPU count"),
        (("--tag", "a b"), "tag"),
        (("--build-arg", "=x"), "name is missing"),
        (("--registry-user", "me"), "HEARTH_REGISTRY_PASSWORD"),
    ],
)
def test_wrong_arguments(module_hearth, context, arguments, words):
    place = () if arguments[0].startswith("/") else (str(context),)
    done = module_hearth.run("template", "build", *place, *arguments, check=False)
    assert done.returncode != 0 and words in done.stderr, done.stderr
