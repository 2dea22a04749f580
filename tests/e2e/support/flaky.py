"""A pytest plugin: a test that fails is run once more, and one that passes then is named.

These suites drive real microVMs on hosts that do other things meanwhile, where one test of
hundreds fails for a reason of the moment. Its second run tells such a failure from a defect;
that it needed one is told at the end of the whole run (scripts/totals.py), to be looked into.
"""

from pathlib import Path

import pytest


class Flaky:
    def __init__(self, report: Path) -> None:
        self.report = report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.outcome == "rerun":
            with self.report.open("a") as out:
                out.write(f"{report.nodeid}\n")


def pytest_configure(config: pytest.Config) -> None:
    results = getattr(config.option, "xmlpath", None)
    if results:
        path = Path(results)
        report = path.with_name(path.name.removesuffix(".xml") + ".again.txt")
        report.unlink(missing_ok=True)
        config.pluginmanager.register(Flaky(report), "flaky")
