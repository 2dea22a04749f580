"""How `scripts/e2e` runs suites side by side: its own function, upon suites that are stubs."""

import re
import subprocess
from pathlib import Path

E2E = Path(__file__).resolve().parents[2] / "scripts" / "e2e"
STUBS = """
set -euo pipefail
say() { :; }
warn() { echo "warning: $*"; }
suite() {
    echo "$1" >>"$RESULTS/begun"
    [[ "$1" != slow* ]] || sleep 0.3
    echo "$1 is over"
    [ "$1" != broken ]
}
"""


def run(home: Path, jobs: int, *names: str) -> subprocess.CompletedProcess:
    found = re.search(r"^suites\(\).*?^}$", E2E.read_text(), re.M | re.S)
    assert found, "scripts/e2e has no such function any more"
    return subprocess.run(
        ["bash", "-c", f'{STUBS}\nRESULTS={home} JOBS={jobs}\n{found.group()}\nsuites "$@"', "e2e", *names],
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_every_suite_runs_once_whichever_ends_first(tmp_path):
    names = ["slow-one", "two", "slow-three", "four", "slow-five", "six"]
    for jobs in (1, 2, 9):
        home = tmp_path / str(jobs)
        home.mkdir()
        done = run(home, jobs, *names)
        assert done.returncode == 0, done
        assert sorted((home / "begun").read_text().split()) == sorted(names)
        assert sorted(done.stdout.splitlines()) == sorted(f"{name} is over" for name in names)


def test_a_suite_that_fails_is_named_and_keeps_no_other_away(tmp_path):
    names = ["slow-one", "broken", "three", "slow-four"]
    done = run(tmp_path, 2, *names)
    assert done.returncode == 1
    assert sorted((tmp_path / "begun").read_text().split()) == sorted(names)
    assert "warning: the suite broken failed (1)" in done.stdout
