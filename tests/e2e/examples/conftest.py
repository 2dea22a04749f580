"""A Hearth for the examples, and a way to run one."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Callable, Iterator

import pytest

from support.daemon import Hearth

ROOT = Path(__file__).resolve().parents[3]
EXAMPLES = ROOT / "examples"
# With the interpreter of a fresh environment, which compiles what it imports first.
RUN_SECONDS = 300


@pytest.fixture(scope="session")
def hearth() -> Iterator[Hearth]:
    with Hearth({"node": {"warm_pool_size": 1}}) as daemon:
        yield daemon


@pytest.fixture
def example(hearth: Hearth, tmp_path: Path) -> Callable[[str], str]:
    """Runs an example with the scripted model, and returns what it prints."""

    def run(name: str) -> str:
        # Made once, and kept in the cache of scripts/tools.
        tool = subprocess.run([ROOT / "scripts/tools", "example", name], capture_output=True, text=True)
        assert tool.returncode == 0, tool.stderr
        command = tool.stdout.strip().splitlines()
        told = re.compile("proxy|^(OPENAI|E2B|LANG[A-Z]*SMITH|LANGCHAIN)_", re.I)
        environment = {name: value for name, value in os.environ.items() if not told.search(name)}
        # Whatever a framework keeps, it keeps here, and none reports on its use.
        quiet = {"OTEL_SDK_DISABLED": "true"}
        done = subprocess.run(
            [sys.executable, EXAMPLES / "scripted_model.py", *command],
            env={**environment, **quiet, "HOME": str(tmp_path), **hearth.exports},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=RUN_SECONDS,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run
