"""A private Hearth: its own state, run directory and ports, and a clean end."""

import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterator, Optional

import httpx

from support import machine
from support.waiting import until

KEY_PATTERN = re.compile(r"e2b_[0-9a-f]{40}")

# Printed by `hearth up` when it is up and has run a first sandbox.
UP_LINE = "Hearth is up at"

# The base template is in the cache by then: scripts/e2e prepares it. Where it is not
# (tests/kvm), a machine is booted first.
START_SECONDS = int(os.environ.get("HEARTH_E2E_START_SECONDS", "180"))
STOP_SECONDS = 60


def binary() -> Path:
    path = Path(os.environ.get("HEARTH_BIN", ""))
    assert path.is_file(), "HEARTH_BIN names no file: run these suites with scripts/e2e"
    return path


def free_port() -> int:
    """A port that nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def render_toml(values: dict[str, Any]) -> str:
    """Tables of what TOML has, inline where they are nested: all a config needs."""

    def scalar(value: Any) -> str:
        if isinstance(value, bool):
            return "true" if value else "false"
        if isinstance(value, (int, float)):
            return str(value)
        if isinstance(value, list):
            return "[" + ", ".join(scalar(item) for item in value) + "]"
        if isinstance(value, dict):
            return "{" + ", ".join(f"{key} = {scalar(item)}" for key, item in value.items()) + "}"
        return '"' + str(value).replace("\\", "\\\\").replace('"', '\\"') + '"'

    plain = [f"{key} = {scalar(v)}" for key, v in values.items() if not isinstance(v, dict)]
    tables = [
        f"\n[{name}]\n" + "\n".join(f"{key} = {scalar(v)}" for key, v in table.items())
        for name, table in values.items()
        if isinstance(table, dict)
    ]
    return "\n".join(plain + tables) + "\n"


def with_defaults(config: dict[str, Any]) -> dict[str, Any]:
    """No warm pool unless a test is about it: counts stay exact, cores free."""
    return {**config, "node": {"warm_pool_size": 0, **config.get("node", {})}}


class Hearth:
    """One daemon's whole life. Use it as a context manager."""

    def __init__(self, config: Optional[dict[str, Any]] = None, state_dir: Optional[Path] = None):
        # Short, because paths of unix sockets are.
        self.home = Path(tempfile.mkdtemp(prefix="hearth-e2e-", dir="/tmp"))
        # VM processes run as users of their own and look for their sockets below.
        self.home.chmod(0o755)
        self.run_dir = self.home / "run"
        self.state_dir = state_dir or self.home / "state"
        self.port = free_port()
        self.edge_port = free_port()
        self.tls_port = free_port()
        self.metrics_port = free_port()
        self.config_path = self.home / "hearth.toml"
        self.config_path.write_text(render_toml(with_defaults(config or {})))
        self.log_path = self.home / "hearth.log"
        self.process: Optional[subprocess.Popen] = None
        self.exports: dict[str, str] = {}
        self.traces_before = machine.Traces()

    # Life.

    def prepare_host(self) -> None:
        """Makes sure to be alone on this host, and remembers how it is."""
        self._refuse_company()
        self.traces_before = machine.Traces.now(self.state_dir, self.run_dir)

    def __enter__(self) -> "Hearth":
        try:
            self.prepare_host()
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _refuse_company(self) -> None:
        """Slots and rules have host-wide names: a second daemon would take them over.
        Under scripts/isolated there is no other to be seen."""
        others = [
            (pid, line)
            for pid, line in machine.command_lines().items()
            if re.match(r"\S*/hearth (.* )?(up|serve)\b", line)
        ]
        assert not others, f"another Hearth runs here; run these with scripts/e2e: {others}"

    @property
    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "HEARTH_STATE_DIR": str(self.state_dir),
            "HEARTH_RUN_DIR": str(self.run_dir),
            "HEARTH_API_PORT": str(self.port),
            "HEARTH_EDGE_PORT": str(self.edge_port),
            "HEARTH_TLS_PORT": str(self.tls_port),
            "HEARTH_METRICS_PORT": str(self.metrics_port),
            "NO_COLOR": "1",
        }

    def command(self, *arguments: str) -> list[str]:
        return [str(binary()), "--config", str(self.config_path), *arguments]

    def start(self) -> None:
        """Starts the daemon and waits until it answers and has proved itself."""
        printed_before = self.printed()
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                self.command("up"),
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._await_up(len(printed_before))
        self.exports = self.read_exports("--http")

    def _await_up(self, printed_before: int) -> None:
        def healthy() -> bool:
            if self.process is not None and self.process.poll() is not None:
                raise AssertionError(
                    f"hearth ended with {self.process.returncode} while starting:\n{self.log_tail()}"
                )
            try:
                # Read first: it costs nothing, and a request has a TLS context made.
                said = UP_LINE in self.printed()[printed_before:]
                return said and httpx.get(f"{self.url}/health", timeout=5).is_success
            except httpx.HTTPError:
                return False

        try:
            until(healthy, f"hearth to answer on {self.url}", seconds=START_SECONDS, every=0.2)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log_tail()}") from None

    def printed(self) -> str:
        """What `hearth up` wrote to its terminal so far."""
        if not self.log_path.exists():
            return ""
        return self.log_path.read_text(errors="replace")

    def kill(self) -> None:
        """`kill -9`: no chance to tidy anything."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(STOP_SECONDS)

    def stop(self) -> int:
        """Ctrl-C, which leaves the sandboxes running; returns the exit status."""
        assert self.process is not None
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(STOP_SECONDS)

    def down(self) -> None:
        """`hearth down`: the daemon and all its sandboxes."""
        self.run("down")
        if self.process is not None:
            self.process.wait(STOP_SECONDS)

    def close(self) -> None:
        """Ends whatever is left and removes the files."""
        try:
            if self.process is not None and self.process.poll() is None:
                try:
                    self.down()
                except Exception:
                    self.process.kill()
                    self.process.wait(STOP_SECONDS)
        finally:
            for pid in machine.vm_processes(self.run_dir):
                os.kill(pid, signal.SIGKILL)
            keep = os.environ.get("HEARTH_E2E_KEEP_LOGS")
            if keep:
                Path(keep).mkdir(parents=True, exist_ok=True)
                (Path(keep) / f"{self.home.name}.log").write_text(self.log_tail(lines=100_000))
            shutil.rmtree(self.home, ignore_errors=True)

    # Use.

    @property
    def url(self) -> str:
        return f"http://localhost:{self.port}"

    @property
    def api_key(self) -> str:
        return self.exports["E2B_API_KEY"]

    def run(
        self, *arguments: str, check: bool = True, seconds: float = 300, typed: str = ""
    ) -> subprocess.CompletedProcess:
        """Runs a `hearth` command against this daemon; `typed` is its standard input."""
        done = subprocess.run(
            self.command(*arguments),
            env=self.environment,
            input=typed,
            capture_output=True,
            text=True,
            timeout=seconds,
        )
        if check and done.returncode != 0:
            raise AssertionError(
                f"hearth {' '.join(arguments)} ended with {done.returncode}:\n"
                f"{done.stdout}{done.stderr}\n{self.log_tail()}"
            )
        return done

    def read_exports(self, *arguments: str) -> dict[str, str]:
        """What `eval "$(hearth env)"` sets, as the shell understands it."""
        printed = self.run("env", *arguments).stdout
        shell = subprocess.run(
            ["sh", "-c", 'eval "$1" && env', "sh", printed],
            env={"PATH": os.environ["PATH"]},
            capture_output=True,
            text=True,
            check=True,
        )
        exports = dict(line.split("=", 1) for line in shell.stdout.splitlines() if "=" in line)
        return {key: value for key, value in exports.items() if f"export {key}=" in printed}

    def create_key(self, team: str) -> str:
        printed = self.run("key", "create", "--team", team).stdout
        found = KEY_PATTERN.search(printed)
        assert found, f"no key in: {printed!r}"
        return found.group()

    def client(self, api_key: Optional[str] = None, **options: Any) -> httpx.Client:
        """Raw HTTP to the API, as an SDK would speak it."""
        return httpx.Client(
            base_url=self.url,
            headers={"X-API-KEY": self.api_key if api_key is None else api_key},
            timeout=60,
            **options,
        )

    def listed(self) -> set[str]:
        """The ids of all sandboxes that the API lists."""
        with self.client() as client:
            response = client.get("/v2/sandboxes")
        response.raise_for_status()
        return {sandbox["sandboxID"] for sandbox in response.json()}

    def vm_pid(self, sandbox_id: str) -> int:
        pids = machine.vm_processes(self.run_dir, sandbox_id)
        assert len(pids) == 1, f"VM processes of {sandbox_id}: {pids}"
        return pids[0]

    def leftovers(self) -> dict[str, list]:
        """What is on the host now that was not before this daemon."""
        return machine.Traces.now(self.state_dir, self.run_dir).beyond(self.traces_before)

    def log_tail(self, lines: int = 60) -> str:
        """The last words of `hearth up` and of the daemon's log."""
        parts = []
        for path in (self.log_path, self.state_dir / "hearth.log"):
            if path.exists():
                tail = path.read_text(errors="replace").splitlines()[-lines:]
                parts.append("\n".join([f"--- {path.name}", *tail]))
        return "\n".join(parts) or "(no log)"


@contextmanager
def running(**options: Any) -> Iterator[Hearth]:
    """A Hearth that the SDK in this process talks to."""
    with Hearth(**options) as hearth:
        before = dict(os.environ)
        os.environ.update(hearth.exports)
        try:
            yield hearth
        finally:
            os.environ.clear()
            os.environ.update(before)
