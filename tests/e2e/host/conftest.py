"""Each of these tests owns a daemon, because it breaks or limits it."""

from typing import Iterator

import pytest

from support.daemon import Hearth, running


@pytest.fixture
def own_hearth() -> Iterator[Hearth]:
    """A daemon for one test."""
    with running() as hearth:
        yield hearth


@pytest.fixture(scope="module")
def module_hearth() -> Iterator[Hearth]:
    """A daemon for the tests of one file, none of which harms it."""
    with running() as hearth:
        yield hearth
