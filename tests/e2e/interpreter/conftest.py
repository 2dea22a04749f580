"""A Hearth with the code interpreter's template, and a server without a sandbox."""

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Callable, Iterator, Optional

import httpx
import pytest

from support.daemon import Hearth, free_port
from support.internet import internet
from support.waiting import until

ROOT = Path(__file__).resolve().parents[3]
RECIPE = ROOT / "template" / "code-interpreter"
# Which one scripts/e2e has prepared: `small` or `full`.
EDITION = os.environ.get("HEARTH_E2E_EDITION", "small")
# Kernels start slowly beside other tests.
START_SECONDS = 120


class InterpreterHearth(Hearth):
    """Has the template before it starts; scripts/prepare left it in the cache."""

    def prepare_host(self) -> None:
        super().prepare_host()
        small = [] if EDITION == "full" else ["--small"]
        self.run("template", "prepare", "code-interpreter", *small, seconds=1200)


@pytest.fixture(scope="session")
def hearth() -> Iterator[Hearth]:
    """Behind a site with a certificate authority of its own."""
    with internet() as outside:
        config = {
            "node": {"ca_file": str(outside.authority)},
            "network": {"name_servers": outside.config()["network"]["name_servers"]},
        }
        yield from serving(config)


def serving(config: dict[str, Any]) -> Iterator[Hearth]:
    with InterpreterHearth(config) as daemon:
        before = dict(os.environ)
        os.environ.update(daemon.exports)
        yield daemon
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture(scope="module")
def box(hearth: Hearth) -> Iterator[Any]:
    from e2b_code_interpreter import Sandbox

    # Two emulated kernels of Java take minutes to start beside other work.
    with Sandbox.create(timeout=3000, envs={"OF_SANDBOX": "sandbox"}) as sandbox:
        yield sandbox


class FakeAgent:
    """The one call of the agent that the server makes."""

    def __init__(self) -> None:
        self.variables: dict[str, dict[str, str]] = {}
        agent = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                known = agent.variables.get(self.headers.get("X-Access-Token", ""))
                body = json.dumps(known).encode()
                self.send_response(401 if known is None or self.path != "/envs" else 200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


class Server:
    """The code interpreter's server on this host."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.agent = FakeAgent()
        self.port = free_port()
        self.log = open(home / "server.log", "wb")
        self._write_kernels(home / "jupyter" / "kernels")
        program = os.environ.get("HEARTH_E2E_INTERPRETER_SERVER", "")
        assert Path(program).is_file(), "run these with scripts/e2e"
        self.process = subprocess.Popen(
            [program, "--listen", f"127.0.0.1:{self.port}", "--agent", self.agent.address,
             "--home", str(home), "--run-dir", str(home / "run"),
             "--kernels", str(home / "jupyter")],
            stdout=self.log,
            stderr=self.log,
            env={**os.environ, "HOME": str(home), "OUTER": "outer"},
        )
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=120)

        def healthy() -> bool:
            try:
                return self.client.get("/health").text == "OK"
            except httpx.HTTPError:
                return False

        until(healthy, "the server to be ready", seconds=START_SECONDS, every=0.1)

    def _write_kernels(self, directory: Path) -> None:
        kernels = {
            "python3": {
                "argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}",
                         "--ext=hearth_kernel", "--HistoryManager.enabled=False"],
                "language": "python",
                "metadata": {"hearth": {"takes_environment": True}},
                "env": {"PYTHONPATH": str(RECIPE / "python")},
            },
            "bash": {
                "argv": [sys.executable, "-m", "bash_kernel", "-f", "{connection_file}"],
                "language": "bash",
            },
            "javascript": {
                "argv": [os.environ["HEARTH_E2E_NODE"],
                         f"{os.environ['HEARTH_E2E_KERNEL']}/kernel.mjs", "{connection_file}"],
                "language": "javascript",
                "interrupt_mode": "message",
            },
        }
        for name, spec in kernels.items():
            (directory / name).mkdir(parents=True)
            (directory / name / "kernel.json").write_text(json.dumps(spec))

    def close(self) -> None:
        self.client.close()
        self.process.terminate()
        self.process.wait(30)
        self.agent.server.shutdown()

    def stream(self, code: str, token: Optional[str] = None, **body: Any):
        headers = {} if token is None else {"X-Access-Token": token}
        return self.client.stream("POST", "/execute", json={"code": code, **body}, headers=headers)

    def run(self, code: str, token: Optional[str] = None, **body: Any) -> list[dict[str, Any]]:
        with self.stream(code, token, **body) as response:
            response.read()
            assert response.status_code == 200, response.text
            return [json.loads(line) for line in response.iter_lines()]

    def text(self, code: str, **body: Any) -> Optional[str]:
        """The value of the last expression."""
        for line in self.run(code, **body):
            assert line["type"] != "error", line
            if line["type"] == "result" and line["is_main_result"]:
                return line["text"]
        return None

    def context(self, **body: Any) -> str:
        response = self.client.post("/contexts", json=body)
        assert response.status_code == 200, response.text
        return response.json()["id"]


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server"))
    yield server
    server.close()


@pytest.fixture
def context(server: Server) -> Iterator[str]:
    """A fresh Python context."""
    made = server.context()
    yield made
    server.client.delete(f"/contexts/{made}")


def kinds(lines: list[dict[str, Any]]) -> list[str]:
    return [line["type"] for line in lines if line["type"] != "keepalive"]


@pytest.fixture(scope="session")
def of_type() -> Callable[[list[dict[str, Any]], str], list[dict[str, Any]]]:
    return lambda lines, kind: [line for line in lines if line["type"] == kind]
