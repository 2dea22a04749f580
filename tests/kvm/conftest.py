"""One daemon and one sandbox for the whole suite, in a machine that runs nothing else."""

import os
from pathlib import Path
from typing import Any, Iterator

import pytest

from support.daemon import Hearth, running
from support.internet import Internet, internet

pytest_plugins = ["support.flaky", "progress"]


@pytest.fixture(scope="session")
def outside() -> Iterator[Internet]:
    """The internet that sandboxes reach: the machine itself has none."""
    with internet() as there:
        yield there


@pytest.fixture(scope="session")
def hearth(outside: Internet) -> Iterator[Hearth]:
    with running(config=outside.config()) as daemon:
        # Whoever knows how Hearth has been started by hand can look into it as well.
        Path("/root/.hearth-exports").write_text(
            "".join(f"export {name}='{value}'\n" for name, value in daemon.exports.items())
        )
        yield daemon
        daemon.down()
        left = daemon.leftovers()
        assert not left, f"left after `hearth down`: {left}"


@pytest.fixture(scope="session")
def sandbox(hearth: Hearth) -> Iterator[Any]:
    """The sandbox of all tests; each leaves it usable."""
    from e2b import Sandbox

    sandbox = Sandbox.create(timeout=3000, envs={"KEPT": "yes"}, metadata={"of": "the suite"})
    yield sandbox
    sandbox.kill()


@pytest.fixture(scope="session", autouse=True)
def in_the_machine() -> None:
    """These tests are about a host with KVM; scripts/kvm-machine makes one."""
    assert os.path.exists("/dev/kvm"), "run these tests with scripts/kvm-machine"


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo) -> Iterator[None]:
    """Shows the daemon's last words beside a failure."""
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    if report.failed:
        for value in getattr(item, "funcargs", {}).values():
            if isinstance(value, Hearth):
                report.sections.append(("hearth's log", value.log_tail()))
                break
