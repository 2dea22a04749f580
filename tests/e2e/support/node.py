"""A second machine: a node in namespaces of its own, with a link to this host."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Optional

from support.daemon import binary, render_toml
from support.waiting import until

ISOLATED = Path(__file__).parents[3] / "scripts" / "isolated"
PORT = 5008
# Prepared from what the cache holds: no machine is booted for it.
START_SECONDS = 180

# Runs on the machine. The host at the other end of its link is the way out.
ON_THE_MACHINE = """
set -eu
control=$(ip -4 route show default | sed -n 's/.* via \\([^ ]*\\).*/\\1/p')
own=$(ip -4 -o address show dev uplink | sed -n 's/.* inet \\([^/]*\\).*/\\1/p')
sed "s/OWN/$own/" "$HOME_DIR/template.toml" > "$HOME_DIR/hearth.toml"
hearth() { "$HEARTH_BIN" --config "$HOME_DIR/hearth.toml" "$@"; }
if [ -n "${TOKEN:-}" ]; then
    hearth up --prepare-only
    printf '%s\\n' "$TOKEN" | hearth node join "https://$control:$CONTROL_PORT"
fi
printf '%s\\n' "$own" > "$HOME_DIR/address"
exec "$HEARTH_BIN" --config "$HOME_DIR/hearth.toml" node run
"""


class RemoteNode:
    """A node's whole life. Use it as a context manager."""

    def __init__(self, control_port: int):
        self.home = Path(tempfile.mkdtemp(prefix="hearth-node-", dir="/tmp"))
        self.home.chmod(0o755)
        self.control_port = control_port
        self.log_path = self.home / "node.log"
        self.process: Optional[subprocess.Popen] = None
        settings = {
            "node": {
                "listen": f"0.0.0.0:{PORT}",
                "advertise": f"OWN:{PORT}",
                "allow_emulation": True,
                "warm_pool_size": 0,
            }
        }
        (self.home / "template.toml").write_text(render_toml(settings))

    def __enter__(self) -> "RemoteNode":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self.home, ignore_errors=True)

    @property
    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "HEARTH_STATE_DIR": str(self.home / "state"),
            "HEARTH_RUN_DIR": str(self.home / "run"),
            "HEARTH_BIN": str(binary()),
            "HOME_DIR": str(self.home),
            "CONTROL_PORT": str(self.control_port),
        }

    def start(self, token: str = "") -> None:
        """Starts it, and joins before where there is a token."""
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                [str(ISOLATED), "--internet", "bash", "-c", ON_THE_MACHINE],
                env={**self.environment, "TOKEN": token},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def stop(self) -> None:
        """The machine is gone at once, with all that runs on it."""
        if self.process is None:
            return
        self.process.terminate()
        self.process.wait(60)
        self.process = None

    def log(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def address(self) -> str:
        """Where it listens, as this host reaches it."""
        path = self.home / "address"
        until(path.exists, "the machine's address", seconds=START_SECONDS, every=0.5)
        return path.read_text().strip()
