"""Fixtures of both suites. `sdk/` shares one daemon; `host/` starts its own."""

from pathlib import Path
from typing import Any, Callable, Iterator

import pytest

from support.daemon import Hearth, running

pytest_plugins = ["support.flaky"]


@pytest.fixture(scope="session")
def hearth() -> Iterator[Hearth]:
    """One running Hearth, with the environment pointing the SDK at it."""
    with running(config={"node": {"warm_pool_size": 1}}) as daemon:
        yield daemon
        daemon.down()
        left = daemon.leftovers()
        assert not left, f"left after `hearth down`: {left}"


@pytest.fixture(scope="session")
def sdk_version() -> tuple[int, ...]:
    from importlib.metadata import version

    return tuple(int(part) for part in version("e2b").split(".")[:2])


@pytest.fixture
def create(hearth: Hearth) -> Iterator[Callable[..., Any]]:
    """Creates sandboxes that end with the test."""
    from e2b import Sandbox

    made = []

    def make(**options: Any) -> Sandbox:
        sandbox = Sandbox.create(**options)
        made.append(sandbox)
        return sandbox

    yield make
    for sandbox in made:
        sandbox.kill()


@pytest.fixture(scope="module")
def sandbox(hearth: Hearth) -> Iterator[Any]:
    """One sandbox for the tests of a file that leave it usable."""
    from e2b import Sandbox

    sandbox = Sandbox.create(timeout=900)
    yield sandbox
    sandbox.kill()


@pytest.fixture
def scratch(sandbox: Any, request: pytest.FixtureRequest) -> str:
    """A fresh directory in the shared sandbox."""
    name = "".join(c if c.isalnum() else "-" for c in request.node.name)
    path = f"/home/user/scratch/{name}"
    sandbox.files.make_dir(path)
    return path


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo) -> Iterator[None]:
    """Shows the daemon's last words beside a failure."""
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    if report.failed:
        for value in getattr(item, "funcargs", {}).values():
            if isinstance(value, Hearth) and Path(value.log_path).exists():
                report.sections.append(("hearth's log", value.log_tail()))
                break
