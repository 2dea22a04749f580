#!/usr/bin/env python3
"""Adds up what every test runner said about its own run.

    totals.py RESULTS_DIR [FAILED_STAGE...]

Reads `*.pytest.xml`, `*.vitest.xml` and `*.nextest.xml` (JUnit), `*.nextest.log`,
`*.cargo-test.log` and `*.node.tap`, and the wall time of each in `*.seconds`. The
last line is `N passed, N failed, N skipped`. A stage that failed without any failed
test (a build, a lint, a runner that died) counts as one failure, so the line never
looks better than the run was. Exits non-zero when anything failed or no test ran.

Each failed test is shown once more before the totals, with the end of what it said:
a log that is kept only in part usually keeps its end.

A test that failed and then passed when it was run once more counts as passed, and is named.

A Rust test that finds this host without what it needs prints `skipped: <reason>` at
the start of a line and returns, which its runner takes for success. Here it counts as
skipped, and its reason is shown.
"""

import re
import sys
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path
from typing import Iterator, NamedTuple, Optional

# libtest writes a test's name first where it runs one at a time.
SKIPPED = re.compile(r"^(?:test .* \.\.\. )?skipped: (.+)$", re.MULTILINE)


class Totals(NamedTuple):
    passed: int = 0
    failed: int = 0
    skipped: int = 0

    def __add__(self, other):  # type: ignore[override]
        return Totals(*(a + b for a, b in zip(self, other)))

    def __str__(self):
        return f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped"


class Part(NamedTuple):
    """What one file says: totals, and how often which reason to skip was given."""

    totals: Totals
    reasons: Counter = Counter()


def junit_part(path: Path) -> Part:
    """An error in a fixture is a failure, whatever the runner calls it."""
    total = Totals()
    root = ElementTree.parse(path).getroot()
    for suite in root.iter("testsuite"):
        tests, failures, errors, skipped = (
            int(suite.get(name, 0)) for name in ("tests", "failures", "errors", "skipped")
        )
        failed = failures + errors
        total += Totals(max(tests - failed - skipped, 0), failed, skipped)
    reasons = Counter(skip.get("message") or "no reason" for skip in root.iter("skipped"))
    return Part(total, reasons)


def nextest_part(path: Path) -> Part:
    summary = None
    for line in path.read_text(errors="replace").splitlines():
        if re.match(r"\s*Summary \[", line):
            summary = line
    if summary is None:
        return Part(Totals(failed=1))
    passed = count(summary, r"(\d+) passed")
    run = count(summary, r"(\d+)(?:/\d+)? tests? run")
    return Part(Totals(passed, run - passed, count(summary, r"(\d+) skipped")))


def nextest_skips(path: Path) -> Part:
    """Moves tests that passed because they skipped themselves; the log has the rest."""
    reasons: Counter = Counter()
    for case in ElementTree.parse(path).getroot().iter("testcase"):
        if case.find("failure") is not None or case.find("error") is not None:
            continue
        said = "\n".join(case.findtext(name) or "" for name in ("system-out", "system-err"))
        found = SKIPPED.search(said)
        if found:
            reasons[found.group(1).strip()] += 1
    return Part(Totals(passed=-reasons.total(), skipped=reasons.total()), reasons)


def cargo_test_part(path: Path) -> Part:
    total = Totals()
    for line in path.read_text(errors="replace").splitlines():
        if line.startswith("test result:"):
            total += Totals(
                count(line, r"(\d+) passed"),
                count(line, r"(\d+) failed"),
                count(line, r"(\d+) ignored"),
            )
    return Part(total)


def node_part(path: Path) -> Part:
    text = path.read_text(errors="replace")
    if not re.search(r"^# tests \d+$", text, re.MULTILINE):
        return Part(Totals(failed=1))

    def last(name: str) -> int:
        found = re.findall(rf"^# {name} (\d+)$", text, re.MULTILINE)
        return int(found[-1]) if found else 0

    reasons = Counter(re.findall(r"^\s*ok .* # SKIP ?(.*)$", text, re.MULTILINE))
    totals = Totals(last("pass"), last("fail") + last("cancelled"), last("skipped") + last("todo"))
    return Part(totals, reasons)


def count(line: str, pattern: str) -> int:
    found = re.search(pattern, line)
    return int(found.group(1)) if found else 0


READERS = {
    ".pytest.xml": junit_part,
    ".vitest.xml": junit_part,
    ".nextest.log": nextest_part,
    ".nextest.xml": nextest_skips,
    ".cargo-test.log": cargo_test_part,
    ".node.tap": node_part,
}


# How much of a failure is shown again: its last lines, and no more of them than this.
SHOWN_LINES, SHOWN_CHARACTERS = 25, 2500


def junit_failures(path: Path) -> Iterator[tuple[str, str]]:
    """Name and words of each failed test."""
    for case in ElementTree.parse(path).getroot().iter("testcase"):
        for kind in ("failure", "error"):
            for found in case.findall(kind):
                name = f"{case.get('classname', '')} {case.get('name', '')}".strip()
                yield name, f"{found.text or ''}\n{found.get('message') or ''}"


def node_failures(path: Path) -> Iterator[tuple[str, str]]:
    """A `not ok` line and the indented or commented block that follows it."""
    text = path.read_text(errors="replace")
    for found in re.finditer(r"^\s*not ok \d+ - (.*)\n((?:\s+.*\n)*)", text, re.MULTILINE):
        yield found.group(1), found.group(2)


FAILURES = {".xml": junit_failures, ".node.tap": node_failures}


def show_failures(results: Path) -> None:
    for path in sorted(results.iterdir()):
        for suffix, read in FAILURES.items():
            if path.name.endswith(suffix):
                for name, said in read(path):
                    lines = [line for line in said.splitlines() if line.strip()]
                    end = "\n".join(lines[-SHOWN_LINES:])[-SHOWN_CHARACTERS:]
                    print(f"--- failed, {path.name.split('.')[0]}: {name}\n{end}")


def second_runs(results: Path) -> Iterator[tuple[str, str]]:
    """Suite and name of each test that passed only when it was run again."""
    for path in sorted(results.glob("*.nextest.xml")):
        for case in ElementTree.parse(path).getroot().iter("testcase"):
            if case.find("flakyFailure") is not None:
                yield path.name.split(".nextest")[0], case.get("name", "")
    for path in sorted(results.glob("*.pytest.again.txt")):
        failed = path.with_name(path.name.replace(".again.txt", ".xml"))
        names = [name for name, _ in junit_failures(failed)] if failed.exists() else []
        for test in dict.fromkeys(path.read_text().splitlines()):
            if not any(name.endswith(test.split("::", 1)[-1]) for name in names):
                yield path.name.split(".pytest")[0], test


def wall_time(results: Path, name: str) -> Optional[int]:
    path = results / f"{name}.seconds"
    return int(path.read_text()) if path.exists() else None


def main(results: Path, failed_stages: list[str]) -> int:
    parts: dict[str, Totals] = {}
    reasons: Counter = Counter()
    for path in sorted(results.iterdir()):
        for suffix, read in READERS.items():
            if path.name.endswith(suffix):
                part = read(path)
                name = path.name.removesuffix(suffix)
                parts[name] = parts.get(name, Totals()) + part.totals
                reasons += part.reasons
    total = sum(parts.values(), Totals())
    show_failures(results)
    for reason, times in sorted(reasons.items()):
        print(f"   skipped  {times} x {reason}")
    for suite, test in second_runs(results):
        print(f"     flaky  {suite}: {test} passed at its second run")
    for name, totals in parts.items():
        seconds = wall_time(results, name)
        print(f"{name:>12}  {'' if seconds is None else f'{seconds} s':>7}  {totals}")
    for stage in failed_stages:
        print(f"stage failed: {stage}")
    if failed_stages and total.failed == 0:
        total += Totals(failed=len(failed_stages))
    print(total)
    return 1 if total.failed or not total.passed else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
