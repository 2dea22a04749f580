"""Templates, built by the published SDK: steps, cache, failures, names."""

import subprocess
import uuid
from pathlib import Path

import pytest
from e2b import Sandbox, Template
from e2b.exceptions import BuildException

from support.builds import output
from support.waiting import until

pytestmark = pytest.mark.usefixtures("hearth")

SMALL = {"cpu_count": 1, "memory_mb": 256}


class Build:
    """One build and all that it said."""

    def __init__(self, template, name: str, **options):
        self.name = name
        self.lines: list[str] = []
        self.entries: list = []
        options = {**SMALL, **options}
        self.info = Template.build(template, alias=name, on_build_logs=self._log, **options)

    def _log(self, entry) -> None:
        self.entries.append(entry)
        self.lines.append(entry.message)

    def has(self, text: str) -> bool:
        return any(text in line for line in self.lines)

    def output(self) -> list[str]:
        return output(self.lines)

    def cached(self) -> list[str]:
        return [line for line in self.lines if line.startswith("CACHED ")]


def fresh(prefix: str) -> str:
    return f"{prefix}-{uuid.uuid4().hex[:8]}"


@pytest.fixture(scope="module")
def context(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("context")
    (root / "folder" / "sub").mkdir(parents=True)
    (root / "f.txt").write_text("one file\n")
    (root / "folder" / "a.txt").write_text("a\n")
    (root / "folder" / "sub" / "b.sh").write_text("#!/bin/sh\necho b\n")
    (root / "folder" / "sub" / "b.sh").chmod(0o755)
    (root / "folder" / "link").symlink_to("a.txt")
    return root


def recipe(context: Path, last: str = "echo last > last.txt"):
    return (
        Template(file_context_path=context)
        .from_base_image()
        .set_envs({"GREETING": "hello", "BOTH": "${GREETING}-there"})
        .copy("f.txt", "copied/")
        .copy("f.txt", "/opt/renamed.txt", user="root", mode=0o600)
        .copy("folder", "tree")
        .copy("folder/*", "/srv/glob")
        .run_cmd("pwd; whoami; echo $BOTH; echo to-stderr >&2; echo $BOTH > env.txt")
        .run_cmd("id -u > /root/uid", user="root")
        .set_workdir("/app")
        .run_cmd("touch here && pwd > where")
        .run_cmd(last)
    )


@pytest.fixture(scope="module")
def built(context: Path):
    name = fresh("steps")
    build = Build(recipe(context), name)
    with Sandbox.create(name, timeout=600) as sandbox:
        yield build, sandbox


def run(sandbox: Sandbox, line: str, **options) -> str:
    return sandbox.commands.run(line, **options).stdout


def test_steps_run_as_the_right_user_in_the_right_place(built):
    build, sandbox = built
    for line in ("/home/user", "user", "hello-there", "to-stderr"):
        assert line in build.output()
    assert "[builder 1/10] ENV GREETING hello BOTH ${GREETING}-there" in build.lines
    assert any(line.startswith("[builder 6/10] RUN pwd; whoami;") for line in build.lines)
    assert "[builder 6/10] [stderr]: to-stderr" in build.lines
    assert run(sandbox, "cat /home/user/env.txt") == "hello-there\n"
    assert run(sandbox, "cat /root/uid", user="root") == "0\n"
    assert run(sandbox, "cat /app/where /app/last.txt") == "/app\nlast\n"
    assert run(sandbox, "stat -c %U /app /app/here") == "user\nuser\n"


def test_copies_keep_names_modes_links_and_get_owners(built):
    _, sandbox = built
    assert run(sandbox, "cat /home/user/copied/f.txt") == "one file\n"
    shown = run(sandbox, "stat -c '%U %a' /opt/renamed.txt /home/user/tree/sub/b.sh")
    assert shown == "root 600\nuser 755\n"
    assert run(sandbox, "readlink /home/user/tree/link; cat /home/user/tree/link") == "a.txt\na\n"
    assert run(sandbox, "ls /srv/glob; /srv/glob/sub/b.sh") == "a.txt\nlink\nsub\nb\n"


def test_commands_start_in_the_templates_directory(built):
    _, sandbox = built
    assert run(sandbox, "pwd") == "/app\n"


def test_a_changed_step_is_built_anew_and_only_from_there(built, context):
    build, _ = built
    again = Build(recipe(context, "echo other > last.txt"), build.name)
    steps = [line for line in again.lines if "[builder " in line and "] [std" not in line]
    assert steps[0] == "CACHED [builder 1/10] ENV GREETING hello BOTH ${GREETING}-there"
    assert all(line.startswith("CACHED ") for line in steps[:-1]), again.lines
    assert not steps[-1].startswith("CACHED ")
    assert "to-stderr" not in again.output()
    with Sandbox.create(build.name) as sandbox:
        assert run(sandbox, "cat /app/last.txt /home/user/env.txt") == "other\nhello-there\n"
    whole = Build(recipe(context, "echo other > last.txt"), build.name)
    assert {"CACHED [finalize]", "Template is ready"} <= set(whole.lines)
    assert whole.info.build_id != again.info.build_id
    with Sandbox.create(build.name) as sandbox:
        assert run(sandbox, "cat /app/last.txt") == "other\n"


def test_a_failing_step_points_at_the_users_line():
    template = Template().from_base_image().run_cmd("true").run_cmd("echo before; exit 3")
    lines: list[str] = []
    with pytest.raises(BuildException) as caught:
        Template.build(
            template, alias=fresh("fails"), on_build_logs=lambda e: lines.append(e.message), **SMALL
        )
    assert "exit 3" in str(caught.value) and "before" in output(lines)
    # The second command's line is in this file.
    import traceback

    frames = traceback.extract_tb(caught.value.__traceback__)
    assert any(frame.filename == __file__ and "exit 3" in (frame.line or "") for frame in frames)


def test_start_command_runs_and_ready_command_gates():
    template = (
        Template()
        .from_base_image()
        .set_start_cmd(
            "echo starting; sleep 2; touch /tmp/ready; exec sleep 100000", "test -f /tmp/ready"
        )
    )
    name = fresh("start")
    build = Build(template, name)
    said = [
        "Running start command: echo starting; sleep 2; touch /tmp/ready; exec sleep 100000",
        "Waiting for template to be ready: test -f /tmp/ready",
        "[start] [stdout]: starting",
        "Template is ready",
    ]
    assert set(said) <= set(build.lines), build.lines
    assert build.lines.index(said[0]) < build.lines.index(said[1]) < build.lines.index(said[3])
    with Sandbox.create(name) as sandbox:
        assert run(sandbox, "pgrep -f 'sleep 100000' > /dev/null && ls /tmp/ready") == "/tmp/ready\n"


LOCAL_CERTIFICATES = "/usr/local/share/ca-certificates"


def authority(folder: Path, name: str) -> str:
    """A certificate authority of the user's own."""
    path = folder / f"{name}.crt"
    command = f"""openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes
        -days 30 -subj /CN={name} -keyout {folder}/{name}.key -out {path}"""
    subprocess.run(command.split(), check=True, capture_output=True)
    return path.name


@pytest.fixture(scope="module")
def child(tmp_path_factory):
    """A sandbox of a template upon a template, and what building the upper one said."""
    folder = tmp_path_factory.mktemp("authorities")
    built_in, started = authority(folder, "built-in"), authority(folder, "started")
    below = fresh("below")
    start = f"sudo cp /opt/{started} {LOCAL_CERTIFICATES}/; echo $A > /dev/shm/started; exec sleep 200000"
    Build(
        Template(file_context_path=folder)
        .from_base_image()
        .copy(built_in, f"{LOCAL_CERTIFICATES}/", user="root")
        .copy(started, "/opt/", user="root")
        .set_envs({"A": "1", "B": "below", "PATH": "/opt/tools:$PATH"})
        .set_workdir("/below")
        .set_start_cmd(start, "test -s /dev/shm/started"),
        below,
    )
    above = fresh("above")
    # By its name alone, as a Dockerfile has it.
    template = Template().from_image(f"{below}:latest").set_envs({"B": "above"})
    build = Build(template.run_cmd('echo "$A $B in $(pwd)"'), above)
    with Sandbox.create(above, envs={"C": "create"}, timeout=600) as sandbox:
        yield build, sandbox


def test_a_template_upon_a_template_keeps_what_it_set(child):
    build, sandbox = child
    assert "1 above in /below" in build.output()
    assert any(line.startswith("Running start command: sudo cp /opt/started.crt") for line in build.lines)
    # It runs again: what the lower one left in memory is not there.
    assert run(sandbox, "pgrep -x sleep > /dev/null && cat /dev/shm/started; pwd") == "1\n/below\n"


def test_commands_have_the_templates_variables_under_their_own(child):
    _, sandbox = child
    show = 'echo "$A $B $C"; echo ${PATH%%:*}'
    assert run(sandbox, show) == "1 above create\n/opt/tools\n"
    assert run(sandbox, show, envs={"A": "mine", "PATH": "/mine:/bin"}) == "mine above create\n/mine\n"
    # One that the agent did not start has them, too.
    login = "env -i HOME=/root bash -lc 'echo $A $B'"
    assert run(sandbox, login) == "1 above\n"


def test_authorities_of_steps_and_start_command_are_trusted_for_good(child):
    _, sandbox = child
    show = 'echo "$A $B $C"'
    check = f"cd {LOCAL_CERTIFICATES} && for name in built-in started; do \
        openssl verify -CAfile /etc/ssl/certs/ca-certificates.crt $name.crt; done"
    trusted = "built-in.crt: OK\nstarted.crt: OK\n"
    assert run(sandbox, check) == trusted
    sandbox.pause(keep_memory=False)
    again = Sandbox.connect(sandbox.sandbox_id, timeout=600)
    assert run(again, check) == trusted
    assert run(again, show) == "1 above create\n"


def test_names_tags_and_deletion():
    name = fresh("names")
    build = Build(Template().from_dockerfile("FROM base:latest"), f"{name}:v1", tags=["v2"])
    assert any(line.startswith("[base] FROM template build ") for line in build.lines)
    assert Template.exists(name) and not Template.exists(fresh("absent"))
    assert Template.exists("base:latest") and not Template.exists(f"{name}:latest")
    tags = {tag.tag: tag.build_id for tag in Template.get_tags(name)}
    assert tags == {"v1": build.info.build_id, "v2": build.info.build_id}
    assert Template.assign_tags(f"{name}:v1", ["stable"]).tags == ["stable"]
    with Sandbox.create(f"{name}:stable") as sandbox:
        assert run(sandbox, "echo up") == "up\n"
    Template.remove_tags(name, ["v2"])
    assert {tag.tag for tag in Template.get_tags(name)} == {"v1", "stable"}


def test_a_build_in_the_background_can_be_given_up(hearth):
    name = fresh("endless")
    template = Template().from_base_image().run_cmd("echo begun; sleep 100000")
    info = Template.build_in_background(template, alias=name, **SMALL)

    def has_begun() -> bool:
        entries = Template.get_build_status(info).log_entries
        return "begun" in output(entry.message for entry in entries)

    until(has_begun, "the step to begin", seconds=120, every=0.5)
    with hearth.client() as client:
        path = f"/templates/{info.template_id}"
        assert client.delete(f"{path}/builds/{info.build_id}").status_code == 204
        answer = client.get(f"{path}/builds/{info.build_id}/status").json()
        assert answer["status"] == "error" and "cancelled" in answer["reason"]["message"]
        assert client.delete(path).status_code == 204
        assert client.get(path).status_code == 404
    work = hearth.state_dir / "templates" / "work"
    assert list(work.iterdir()) == []
