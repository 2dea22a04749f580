"""The Firecracker engine's own tests (`crates/machine/tests/firecracker.rs`), in the one place
where there is KVM for them. Skipped where the host that made the machine has no Firecracker:
`HEARTH_FIRECRACKER`, then `PATH`."""

import os
import subprocess
from pathlib import Path

import pytest

PLACE = Path("/kvm-machine")
TESTS = PLACE / "bin/firecracker-tests"


def names() -> list[str]:
    if not TESTS.exists():
        return []
    listed = subprocess.run(
        [TESTS, "--list", "--ignored"], capture_output=True, text=True, check=True
    )
    found = [line.removesuffix(": test") for line in listed.stdout.splitlines() if ": test" in line]
    assert found, listed.stdout
    return found


@pytest.mark.skipif(not TESTS.exists(), reason="the host has no Firecracker")
@pytest.mark.parametrize("name", names() or ["none"])
def test_the_engine(name: str) -> None:
    (kernel,) = (PLACE / "cache").glob("kernel-*/vmlinux")
    environment = {
        **os.environ,
        "HEARTH_FIRECRACKER": str(PLACE / "bin/firecracker"),
        "HEARTH_TEST_KERNEL": str(kernel),
        "HEARTH_TEST_GUEST": str(PLACE / "bin/firecracker-guest"),
    }
    done = subprocess.run(
        [TESTS, "--ignored", "--exact", name],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout, done.stdout
