#!/usr/bin/env python3
"""Adds up what every test runner said about its own run.

    totals.py RESULTS_DIR [FAILED_STAGE...]

Reads `*.pytest.xml` (JUnit), `*.nextest.log`, `*.cargo-test.log` and
`*.node.tap`. The last line is `N passed, N failed, N skipped`. A stage that
failed without any failed test (a build, a lint, a runner that died) counts as
one failure, so the line never looks better than the run was. Exits non-zero
when anything failed or no test ran.
"""

import re
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import NamedTuple


class Totals(NamedTuple):
    passed: int = 0
    failed: int = 0
    skipped: int = 0

    def __add__(self, other):  # type: ignore[override]
        return Totals(*(a + b for a, b in zip(self, other)))

    def __str__(self):
        return f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped"


def pytest_totals(path: Path) -> Totals:
    """An error in a fixture is a failure, whatever the runner calls it."""
    total = Totals()
    for suite in ElementTree.parse(path).getroot().iter("testsuite"):
        tests, failures, errors, skipped = (
            int(suite.get(name, 0)) for name in ("tests", "failures", "errors", "skipped")
        )
        failed = failures + errors
        total += Totals(max(tests - failed - skipped, 0), failed, skipped)
    return total


def nextest_totals(path: Path) -> Totals:
    summary = None
    for line in path.read_text(errors="replace").splitlines():
        if re.match(r"\s*Summary \[", line):
            summary = line
    if summary is None:
        return Totals(failed=1)
    passed = count(summary, r"(\d+) passed")
    run = count(summary, r"(\d+)(?:/\d+)? tests? run")
    return Totals(passed, run - passed, count(summary, r"(\d+) skipped"))


def cargo_test_totals(path: Path) -> Totals:
    total = Totals()
    for line in path.read_text(errors="replace").splitlines():
        if line.startswith("test result:"):
            total += Totals(
                count(line, r"(\d+) passed"),
                count(line, r"(\d+) failed"),
                count(line, r"(\d+) ignored"),
            )
    return total


def node_totals(path: Path) -> Totals:
    text = path.read_text(errors="replace")
    if not re.search(r"^# tests \d+$", text, re.MULTILINE):
        return Totals(failed=1)

    def last(name: str) -> int:
        found = re.findall(rf"^# {name} (\d+)$", text, re.MULTILINE)
        return int(found[-1]) if found else 0

    return Totals(last("pass"), last("fail") + last("cancelled"), last("skipped") + last("todo"))


def count(line: str, pattern: str) -> int:
    found = re.search(pattern, line)
    return int(found.group(1)) if found else 0


READERS = {
    ".pytest.xml": pytest_totals,
    ".nextest.log": nextest_totals,
    ".cargo-test.log": cargo_test_totals,
    ".node.tap": node_totals,
}


def main(results: Path, failed_stages: list[str]) -> int:
    total = Totals()
    for path in sorted(results.iterdir()):
        for suffix, read in READERS.items():
            if path.name.endswith(suffix):
                part = read(path)
                print(f"{path.name.removesuffix(suffix):>10}  {part}")
                total += part
    for stage in failed_stages:
        print(f"stage failed: {stage}")
    if failed_stages and total.failed == 0:
        total += Totals(failed=len(failed_stages))
    print(total)
    return 1 if total.failed or not total.passed else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
