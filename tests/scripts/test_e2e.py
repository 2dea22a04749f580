"""How `scripts/e2e` runs suites side by side: its own function, upon suites that are stubs."""

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

E2E = Path(__file__).resolve().parents[2] / "scripts" / "e2e"
STUBS = """
set -euo pipefail
say() { :; }
warn() { echo "warning: $*"; }
suite() {
    echo "$1" >>"$RESULTS/begun"
    [[ "$1" != slow* ]] || sleep 0.3
    [[ "$1" != endless* ]] || { echo $BASHPID >>"$RESULTS/pids"; sleep 1000; }
    echo "$1 is over"
    [ "$1" != broken ]
}
"""


def command(home: Path, jobs: int, *names: str) -> list[str]:
    found = re.search(r"^suites\(\).*?^}$", E2E.read_text(), re.M | re.S)
    assert found, "scripts/e2e has no such function any more"
    script = f'{STUBS}\nRESULTS={home} JOBS={jobs}\n{found.group()}\nsuites "$@"'
    return ["bash", "-c", script, "e2e", *names]


def run(home: Path, jobs: int, *names: str) -> subprocess.CompletedProcess:
    return subprocess.run(command(home, jobs, *names), capture_output=True, text=True, timeout=60)


def test_every_suite_runs_once_and_is_shown_in_its_turn(tmp_path):
    names = ["slow-one", "two", "slow-three", "four", "slow-five", "six"]
    for jobs in (1, 2, 9):
        home = tmp_path / str(jobs)
        home.mkdir()
        done = run(home, jobs, *names)
        assert done.returncode == 0, done
        assert sorted((home / "begun").read_text().split()) == sorted(names)
        assert done.stdout.splitlines() == [f"{name} is over" for name in names]


def test_a_suite_that_fails_is_named_and_keeps_no_other_away(tmp_path):
    names = ["slow-one", "broken", "three", "slow-four"]
    done = run(tmp_path, 2, *names)
    assert done.returncode == 1
    assert sorted((tmp_path / "begun").read_text().split()) == sorted(names)
    assert "warning: the suite broken failed (1)" in done.stdout


@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_what_runs_in_the_background(tmp_path, number, status):
    running = subprocess.Popen(
        command(tmp_path, 2, "endless-one", "endless-two", "three"), stdout=subprocess.DEVNULL
    )
    pids = tmp_path / "pids"
    deadline = time.monotonic() + 30
    while not pids.exists() or len(pids.read_text().split()) < 2:
        assert time.monotonic() < deadline and running.poll() is None
        time.sleep(0.05)
    running.send_signal(number)
    assert running.wait(60) == status
    for group in pids.read_text().split():
        with pytest.raises(ProcessLookupError):
            os.killpg(int(group), 0)
    assert "three" not in (tmp_path / "begun").read_text()


def test_every_test_of_a_host_is_in_one_of_the_two_suites():
    listed = re.search(r"^HOST_NETWORK=\((.*?)^\)", E2E.read_text(), re.M | re.S)
    assert listed
    folder = E2E.parent.parent / "tests" / "e2e"
    names = listed.group(1).split()
    assert len(names) == len(set(names))
    for name in names:
        assert (folder / name).is_file(), name


def test_a_script_that_is_edited_while_it_runs_goes_on_as_it_was(tmp_path):
    """Bash reads a script bit by bit: only what one line calls and ends is safe."""
    for path in sorted(E2E.parent.iterdir()):
        text = path.read_text(errors="replace")
        if text.startswith("#!/usr/bin/env bash"):
            assert text.endswith('\n}\nmain "$@"; exit\n'), path.name
