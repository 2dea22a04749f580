#!/usr/bin/env python3
"""Whether this commit is faster or slower than another: both are built, and run in turn on
this machine, so that what else it does meets both alike.

    bench/compare.py REV [--rounds N] [--runs N] [--json]
    bench/compare.py --binaries BASE NEW [...]      two that are built already

In each round each of them starts with a state of its own, answers `hearth bench tti`, and
stops; which one is first alternates. Printed is, for each step, this commit's p50 divided by
REV's: the median of the rounds' quotients, with the smallest and the largest. A difference
is one where all rounds agree, and there are at least five. The row `bare restore` involves no daemon: it says how far the
machine itself was the same for both.

As root. Each commit is built below the cache and kept there.
"""

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
CACHE = Path(
    os.environ.get("HEARTH_DEV_CACHE")
    or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hearth"
)
START_SECONDS = 600
STOP_SECONDS = 60


def git(*arguments: str) -> str:
    return subprocess.run(
        ["git", "-C", str(ROOT), *arguments], check=True, capture_output=True, text=True
    ).stdout.strip()


def build(revision: str) -> Path:
    """The binary of a commit, which is built where it has not been before."""
    commit = git("rev-parse", "--verify", f"{revision}^{{commit}}")
    binary = CACHE / "compare" / commit / "hearth"
    if binary.exists():
        return binary
    print(f"Building {commit[:12]} …", file=sys.stderr)
    tree = Path(tempfile.mkdtemp(prefix="hearth-compare-"))
    target = Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target").resolve()
    try:
        git("worktree", "add", "--detach", "--force", str(tree), commit)
        subprocess.run(
            [tree / "scripts" / "build"],
            check=True,
            stdout=sys.stderr,
            env={**os.environ, "CARGO_TARGET_DIR": str(target)},
        )
        binary.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(target / "fast" / "hearth", binary.with_suffix(".new"))
        binary.with_suffix(".new").rename(binary)
    finally:
        git("worktree", "remove", "--force", str(tree))
    return binary


class Installation:
    """One of the two: its binary and its state."""

    def __init__(self, binary: Path, home: Path):
        self.binary = binary
        self.home = home
        self.home.mkdir(mode=0o755)
        self.log = self.home / "log"
        self.environment = {
            **os.environ,
            "HEARTH_STATE_DIR": str(home / "state"),
            "HEARTH_RUN_DIR": str(home / "run"),
            "HEARTH_CACHE_DIR": os.environ.get("HEARTH_CACHE_DIR", str(CACHE / "artefacts")),
            "NO_COLOR": "1",
        }

    def run(self, *arguments: str) -> str:
        done = subprocess.run(
            [self.binary, *arguments], capture_output=True, text=True, env=self.environment
        )
        if done.returncode:
            raise SystemExit(f"{self.binary} {' '.join(arguments)}: {done.stderr}{self.said()}")
        return done.stdout

    def said(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-20:])

    def measure(self, runs: int) -> dict[str, float]:
        """p50 of each step, in milliseconds."""
        with open(self.log, "ab") as log:
            seen = log.tell()
            daemon = subprocess.Popen(
                [self.binary, "up"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environment,
                start_new_session=True,
            )
        try:
            limit = time.monotonic() + START_SECONDS
            while b"Hearth is up at" not in self.log.read_bytes()[seen:]:
                if daemon.poll() is not None or time.monotonic() > limit:
                    raise SystemExit(f"{self.binary} did not start:\n{self.said()}")
                time.sleep(0.2)
            report = json.loads(self.run("bench", "tti", "--json", "-n", str(runs)))
        finally:
            if daemon.poll() is None:
                subprocess.run(
                    [self.binary, "down"], capture_output=True, env=self.environment
                )
            try:
                daemon.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                daemon.send_signal(signal.SIGKILL)
                daemon.wait()
        return {row["name"]: row["p50_ms"] for row in report["rows"]}


def compare(base: Path, new: Path, rounds: int, runs: int) -> list[dict[str, Any]]:
    home = Path(tempfile.mkdtemp(prefix="hc-", dir="/tmp"))
    home.chmod(0o755)
    try:
        pair = [Installation(base, home / "base"), Installation(new, home / "new")]
        for one in pair:
            one.run("up", "--prepare-only")
        measured: list[tuple[dict[str, float], dict[str, float]]] = []
        for number in range(rounds):
            order = pair if number % 2 == 0 else pair[::-1]
            found = {one.home.name: one.measure(runs) for one in order}
            measured.append((found["base"], found["new"]))
            print(f"round {number + 1} of {rounds} is over", file=sys.stderr)
    finally:
        shutil.rmtree(home, ignore_errors=True)
    rows = []
    for step in measured[0][0]:
        if not all(step in base and step in new for base, new in measured):
            continue
        ratios = [new[step] / base[step] for base, new in measured]
        rows.append(
            {
                "step": step,
                "base_p50_ms": statistics.median(base[step] for base, _ in measured),
                "new_p50_ms": statistics.median(new[step] for _, new in measured),
                "ratio": statistics.median(ratios),
                "ratio_min": min(ratios),
                "ratio_max": max(ratios),
            }
        )
    return rows


def verdict(row: dict[str, Any], rounds: int) -> str:
    # Four rounds of two that are alike agree by chance in one case of eight, five in one of 16.
    if rounds < 5:
        return ""
    if row["ratio_min"] > 1:
        return "slower in all rounds"
    if row["ratio_max"] < 1:
        return "faster in all rounds"
    return ""


def main() -> None:
    parser = argparse.ArgumentParser(description="compares this commit's speed with another's")
    parser.add_argument("revision", nargs="?", help="what this commit is compared with")
    parser.add_argument("--binaries", nargs=2, type=Path, metavar=("BASE", "NEW"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--runs", type=int, default=20, help="sandboxes in each round")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if (given.revision is None) == (given.binaries is None):
        parser.error("name a revision, or two binaries")
    if min(given.rounds, given.runs) < 1:
        parser.error("at least one round with one run")
    if os.geteuid() != 0:
        raise SystemExit("it starts Hearth: run it as root")
    base, new = given.binaries or (build(given.revision), build("HEAD"))
    if not given.inside:
        # With a network and control groups of their own: whoever uses Hearth here goes on.
        own = [sys.executable, __file__, "--inside", "--binaries", str(base), str(new)]
        own += ["--rounds", str(given.rounds), "--runs", str(given.runs)]
        own += ["--json"] if given.json else []
        isolated = str(ROOT / "scripts" / "isolated")
        os.execv(isolated, [isolated, "--internet", *own])
    rows = compare(base.resolve(), new.resolve(), given.rounds, given.runs)
    if given.json:
        print(json.dumps({"rounds": given.rounds, "runs": given.runs, "rows": rows}, indent=2))
        return
    print(f"{'step':<16} {'base p50':>10} {'new p50':>10} {'ratio':>6}   {'min – max':<12}")
    for row in rows:
        print(
            f"{row['step']:<16} {row['base_p50_ms']:>7.1f} ms {row['new_p50_ms']:>7.1f} ms "
            f"{row['ratio']:>6.2f}   {row['ratio_min']:.2f} – {row['ratio_max']:.2f}  "
            f"{verdict(row, given.rounds)}"
        )


if __name__ == "__main__":
    main()
