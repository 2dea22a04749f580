"""A pytest plugin: a run goes on where the one before it was cut short.

The machine in which these tests run is emulated, virtualisation extension included, and its
kernel crashes now and then with no fault of a test (scripts/kvm-machine). What passed by then
is written outside the machine, a line for each test, and is not run once more: it is reported
as passed, in the time that it took. A test that failed leaves no line.
"""

from pathlib import Path
from typing import Optional

import pytest

PASSED = "passed"


class Progress:
    def __init__(self, record: Path) -> None:
        self.record = record
        self.seconds: dict[str, float] = {}
        self.before: dict[str, float] = {}
        lines = record.read_text().splitlines() if record.exists() else []
        for line in lines:
            seconds, _, test = line.partition(" ")
            self.before[test] = float(seconds)

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        # Those first that are not run: what a session's fixtures are torn down after is the
        # last one that is.
        items.sort(key=lambda item: item.nodeid not in self.before)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Optional[bool]:
        seconds = self.before.get(item.nodeid)
        if seconds is None:
            return None
        hook = item.ihook
        hook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        for when, took in (("setup", 0.0), ("call", seconds), ("teardown", 0.0)):
            hook.pytest_runtest_logreport(
                report=pytest.TestReport(
                    nodeid=item.nodeid,
                    location=item.location,
                    keywords={},
                    outcome=PASSED,
                    longrepr=None,
                    when=when,  # type: ignore[arg-type]
                    duration=took,
                )
            )
        hook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        test = report.nodeid
        if test in self.before:
            return
        if report.outcome != PASSED:
            self.seconds.pop(test, None)
        elif report.when == "call":
            self.seconds[test] = report.duration
        elif report.when == "teardown" and test in self.seconds:
            with self.record.open("a") as out:
                out.write(f"{self.seconds.pop(test):.2f} {test}\n")


def pytest_configure(config: pytest.Config) -> None:
    results = getattr(config.option, "xmlpath", None)
    if results:
        path = Path(results)
        record = path.with_name(path.name.removesuffix(".xml") + ".passed")
        config.pluginmanager.register(Progress(record))
