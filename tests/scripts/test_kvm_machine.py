"""What `scripts/kvm-machine` does about a machine that crashes, and how its tests go on."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "kvm-machine"

# In place of QEMU: each start does the next line of the plan.
MACHINE = """
image() { IMAGE=none; }
payload() { :; }
machine() {
    local dir="$2" starts
    starts=$(($(cat "$PLAN/starts" 2>/dev/null || echo 0) + 1))
    echo "$starts" >"$PLAN/starts"
    sh -c "echo \\$\\$ >'$dir/machine.pid'; cd '$dir/results'; $(sed -n "${starts}p" "$PLAN/plan")" || true
}
"""
PANIC = "echo Kernel panic - not syncing: Fatal exception"
ENDS_WELL = "echo '<testsuite/>' >kvm.pytest.xml; echo 0 >status"


def functions() -> str:
    """The script without its last line, which runs it."""
    text, library = SCRIPT.read_text(), SCRIPT.with_name("lib.sh")
    head, last = text.rstrip("\n").rsplit("\n", 1)
    assert last == 'main "$@"; exit'
    return head.replace('. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"', f'. "{library}"')


@pytest.fixture
def run(tmp_path):
    def run(*plan: str) -> tuple[subprocess.CompletedProcess, int, Path]:
        (tmp_path / "plan").write_text("".join(f"{line}\n" for line in plan))
        results = tmp_path / "results"
        done = subprocess.run(
            ["bash", "-c", f"{functions()}\n{MACHINE}\nrun_tests"],
            env={
                **os.environ,
                "PLAN": str(tmp_path),
                "HEARTH_RESULTS": str(results),
                "HEARTH_KVM_FROZEN_SECONDS": "2",
                "TMPDIR": str(tmp_path),
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=100,
        )
        return done, int((tmp_path / "starts").read_text()), results

    return run


def test_a_machine_that_ends_is_not_started_again(run):
    done, starts, results = run(ENDS_WELL)
    assert (done.returncode, starts) == (0, 1), done.stderr
    assert (results / "kvm.pytest.xml").exists()
    assert not (results / "kvm.pytest.again.txt").exists()


def test_failed_tests_fail_the_run_at_once(run):
    done, starts, _ = run("echo 1 >status", ENDS_WELL)
    assert (done.returncode, starts) == (1, 1)
    assert "tests failed in the machine" in done.stderr


def test_a_machine_that_ends_without_a_word_has_failed(run):
    done, starts, _ = run("true", ENDS_WELL)
    assert (done.returncode, starts) == (1, 1)
    assert "ended before its tests did" in done.stderr


def test_after_a_crash_the_tests_go_on_and_the_run_is_named(run):
    done, starts, results = run(f"echo 1.0 a >>kvm.pytest.passed; {PANIC}", ENDS_WELL)
    assert (done.returncode, starts) == (0, 2), done.stderr
    assert "1 tests have passed" in done.stderr
    assert "kernel crashed" in (results / "kvm.pytest.again.txt").read_text()


def test_a_machine_that_is_silent_is_ended_and_started_again(run):
    done, starts, _ = run("exec sleep 90", ENDS_WELL)
    assert (done.returncode, starts) == (0, 2), done.stderr


def test_crashes_that_bring_the_tests_no_further_end_it(run):
    done, starts, _ = run(*[PANIC] * 5)
    assert (done.returncode, starts) == (1, 3)
    further = [f"echo 1.0 {n} >>kvm.pytest.passed; {PANIC}" for n in range(4)]
    done, starts, _ = run(*further, ENDS_WELL)
    assert done.returncode == 0, done.stderr


SUITE = """
import os, pytest

def test_first():
    with open("ran", "a") as out:
        out.write("first ")

def test_fails_once():
    with open("ran", "a") as out:
        out.write("second ")
    assert os.path.exists("again")

def test_crashes():
    if not os.path.exists("again"):
        os._exit(9)
"""


def test_what_passed_before_a_crash_is_told_and_not_run_again(tmp_path):
    (tmp_path / "test_it.py").write_text(SUITE)

    def suite() -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, "-m", "pytest", "-p", "progress", "-p", "no:cacheprovider"]
            + ["--junitxml=out.pytest.xml", "-rA", "-q", "test_it.py"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT / "tests" / "kvm")},
            capture_output=True,
            text=True,
            timeout=60,
        )

    assert suite().returncode == 9
    assert not (tmp_path / "out.pytest.xml").exists()
    (tmp_path / "again").touch()
    done = suite()
    assert done.returncode == 0, done.stdout
    assert "3 passed" in done.stdout
    assert (tmp_path / "ran").read_text() == "first second second "
    assert 'tests="3"' in (tmp_path / "out.pytest.xml").read_text()
