"""The README's commands, read out of it and typed in the order in which they stand
there, by somebody who has a checkout and nothing else.

The checkout is a copy that lies where the original does, with what was built; state
and run directory are empty, ports and paths the default ones. Only slow artefacts are
taken from the developer's cache, as on a machine that had a Hearth before.
"""

import os
import re
import shutil
import signal
import subprocess
import threading
from pathlib import Path
from typing import Iterator, NamedTuple

import pytest

from support.waiting import Collector, until

ROOT = Path(__file__).resolve().parents[3]
TARGET = Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target")
CACHE = Path("/var/cache/hearth")
# Its own limit for each: an emulated guest installs a package in a minute or two.
COMMAND_SECONDS = 900
# What runs this test, and is therefore not run by it.
NOT_HERE = "make test"
# Stays in the foreground until the daemon ends.
STAYS = "make up"
UP = "Hearth stays up"


class Block(NamedTuple):
    language: str
    text: str


def blocks() -> list[Block]:
    text = (ROOT / "README.md").read_text()
    return [Block(*found) for found in re.findall(r"^```(\w+)\n(.*?)^```$", text, re.M | re.S)]


def commands(block: Block, number: int) -> list[str]:
    """What is typed for a block: its lines, or a script and the line that runs it."""
    if block.language == "python":
        (ROOT / f"example-{number}.py").write_text(block.text)
        return [f"python3 example-{number}.py"]
    lines = [line.split("  #")[0].strip() for line in block.text.splitlines()]
    # The README says: without sudo when you are root.
    return [line.replace("sudo ", "") for line in lines if line]


class Shell:
    """A shell in which one line is typed after another."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            ["bash"],
            cwd=ROOT,
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.said = Collector()
        self.lines = 0
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout
        while piece := os.read(self.process.stdout.fileno(), 65536):
            self.said(piece)

    def type(self, line: str) -> None:
        assert self.process.stdin
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def run(self, line: str) -> str:
        """What a line prints; it has to succeed."""
        self.lines += 1
        mark = f"-- line {self.lines} ended with "
        before = len(self.said.text)
        self.type(f"{line} </dev/null")
        self.type(f'echo "{mark}$?."')
        ended = re.compile(re.escape(mark) + r"(\d+)\.")
        found = until(
            lambda: ended.search(self.said.text, before) or self.process.poll() is not None,
            f"{line!r} to end",
            seconds=COMMAND_SECONDS,
        )
        printed = self.said.text[before:].split(mark)[0]
        assert found is not True, f"{line!r} ended the shell:\n{printed}"
        assert found.group(1) == "0", f"{line!r} ended with {found.group(1)}:\n{printed}"
        return printed

    def close(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(30)


def environment() -> dict[str, str]:
    """Nothing of this suite's own settings."""
    ours = ("HEARTH_", "E2B_", "VIRTUAL_ENV", "PYTHON", "SSL_CERT_FILE")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}


def left_out(directory: str, names: list[str]) -> set[str]:
    """What no clone has, and is large; a source folder may be called `target`, too."""
    made = {".git", "target", ".venv", "corpus"} if Path(directory) in (ROOT, ROOT / "fuzz") else set()
    return {name for name in names if name in made or name in ("node_modules", "__pycache__")}


def bind(source: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "--bind", str(source), str(target)], check=True)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Puts a copy over the checkout, for the processes of this namespace alone."""
    assert os.environ.get("HEARTH_ISOLATED") == "1", "run this with scripts/e2e readme"
    assert os.geteuid() == 0
    copy = tmp_path_factory.mktemp("readme") / "checkout"
    # With the times of the originals: cargo takes a newer file for a changed one.
    shutil.copytree(ROOT, copy, symlinks=True, ignore=left_out)
    (copy / "target").mkdir()
    # Out of the way before its own place is covered.
    built = copy.parent / "target"
    bind(TARGET, built)
    bind(copy, ROOT)
    bind(built, ROOT / "target")
    bind(Path(os.environ["HEARTH_CACHE_DIR"]), CACHE)
    yield ROOT
    for mount in (CACHE, ROOT / "target", ROOT, built):
        subprocess.run(["umount", "--lazy", str(mount)], check=True)


@pytest.mark.timeout(2100)
def test_every_command_works_in_its_order(checkout: Path) -> None:
    foreground, shell = Shell(), Shell()
    printed: dict[str, str] = {}
    try:
        os.chdir(checkout)
        for number, block in enumerate(blocks()):
            for line in commands(block, number):
                if line == NOT_HERE:
                    continue
                if line == STAYS:
                    foreground.type(f"{line}; exit")
                    until(
                        lambda: UP in foreground.said.text or foreground.process.poll() is not None,
                        "`make up` to be up",
                        seconds=COMMAND_SECONDS,
                    )
                    assert UP in foreground.said.text, foreground.said.text[-5000:]
                    printed[line] = foreground.said.text
                else:
                    printed[line] = shell.run(line)
        # What `make up` started has ended with `make down`, the last command.
        assert foreground.process.wait(120) == 0, foreground.said.text[-2000:]
    finally:
        foreground.close()
        shell.close()

    scripts = [text for line, text in printed.items() if line.startswith("python3 example-")]
    assert "Hello from a microVM" in scripts[0]
    assert "ripgrep" in scripts[1]
    assert "45" in scripts[2]
    (ran,) = [text for line, text in printed.items() if "hearth run" in line]
    assert re.search(r"^42\r?$", ran, re.M), ran
    assert any("template prepare code-interpreter" in line for line in printed)
    # What takes its time is named before it begins.
    for doing in ("Building", "Checking this machine", "Preparing what guests boot from",
                  "Starting a first sandbox"):
        assert doing in printed[STAYS], doing


def test_commands_within_the_text_are_known_ones() -> None:
    """Names of targets and commands in running text exist, too."""
    text = (ROOT / "README.md").read_text()
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"`make ([a-z0-9-]+)`", text)):
        assert re.search(rf"^{target}:", makefile, re.M), target
    program = os.environ["HEARTH_BIN"]
    for words in set(re.findall(r"`hearth ([a-z][a-z -]*[a-z])", text)):
        done = subprocess.run([program, *words.split(), "--help"], capture_output=True, text=True)
        assert done.returncode == 0, f"hearth {words}: {done.stderr}"
