"""One file is all that a machine needs."""

import os
import shutil
import signal
import subprocess
from pathlib import Path

from support.daemon import Hearth, binary


class AloneHearth(Hearth):
    """Started from a copy of the binary in a folder that has nothing else."""

    def command(self, *arguments: str) -> list[str]:
        program = self.home / "alone" / "hearth"
        if not program.exists():
            program.parent.mkdir()
            shutil.copy2(binary(), program)
        return [str(program), *super().command(*arguments)[1:]]

    @property
    def environment(self) -> dict[str, str]:
        named = ("HEARTH_ENVD", "HEARTH_CODE_INTERPRETER")
        return {name: value for name, value in super().environment.items() if name not in named}


def test_the_binary_alone_prepares_and_starts():
    with AloneHearth() as hearth:
        [agent] = (hearth.state_dir / "guest-programs").glob("envd-*/envd")
        assert agent.stat().st_mode & 0o777 == 0o700
        version = subprocess.run([agent, "--version"], capture_output=True, text=True).stdout
        assert version.strip()
        doctor = hearth.run("doctor").stdout
        assert "envd embedded, code-interpreter embedded" in doctor

        # Up to where the interpreter's server has been read: the root file system that
        # it goes into takes minutes, and other suites make it.
        command = hearth.command("template", "prepare", "code-interpreter", "--small", "--image-only")
        said = []
        with subprocess.Popen(
            command,
            env=hearth.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        ) as preparation:
            assert preparation.stdout
            for line in preparation.stdout:
                said.append(line)
                if "root file system:" in line:
                    break
            else:
                raise AssertionError("".join(said))
            os.killpg(preparation.pid, signal.SIGKILL)
        directory = hearth.state_dir / "guest-programs"
        [server] = directory.glob("code-interpreter-*/code-interpreter")
        version = subprocess.run([server, "--version"], capture_output=True, text=True).stdout
        assert version.startswith("code-interpreter ")


def test_a_named_file_that_is_missing_is_said_at_once(tmp_path):
    done = subprocess.run(
        [binary(), "up", "--prepare-only"],
        env={
            **os.environ,
            "HEARTH_STATE_DIR": str(tmp_path / "state"),
            "HEARTH_RUN_DIR": "/tmp/hearth-e2e-named",
            "HEARTH_ENVD": str(Path(tmp_path) / "nowhere"),
        },
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode != 0
    said = done.stdout + done.stderr
    assert "nowhere is no file" in said and "HEARTH_ENVD" in said, said
