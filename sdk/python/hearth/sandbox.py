"""A sandbox for older scripts: made by its constructor, ended by `with`."""

import textwrap
import uuid
from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional

import e2b_code_interpreter
import httpx

from hearth.filesystem import Filesystem
from hearth.process import DEFAULT_TIMEOUT, ProcessManager

# How long a sandbox lives unless it is told otherwise, in seconds.
LIFETIME = 300
INTERPRETER_PORT = 49999


@dataclass
class RunResult:
    """What code did."""

    stdout: str
    stderr: str
    # 0, or 1 where only "it failed" is known.
    exit_code: int
    # The last line of what went wrong.
    error: Optional[str] = None
    # The value of the last expression; only the code interpreter knows it.
    text: Optional[str] = None
    # Charts, tables, images; only of the code interpreter.
    results: List[Any] = field(default_factory=list)


class Sandbox:
    """A microVM. Whatever is not here is looked up in the official sandbox."""

    def __init__(
        self,
        template: str = "base",
        timeout: int = LIFETIME,
        metadata: Optional[Dict[str, str]] = None,
        envs: Optional[Dict[str, str]] = None,
        **options: Any,
    ) -> None:
        official = e2b_code_interpreter.Sandbox.create(
            template=template, timeout=timeout, metadata=metadata, envs=envs, **options
        )
        self._adopt(official)

    @classmethod
    def connect(cls, sandbox_id: str, **options: Any) -> "Sandbox":
        """A sandbox that runs already."""
        sandbox = cls.__new__(cls)
        sandbox._adopt(e2b_code_interpreter.Sandbox.connect(sandbox_id, **options))
        return sandbox

    def _adopt(self, official: Any) -> None:
        self.official = official
        self.process = ProcessManager(official)
        self.filesystem = Filesystem(official)
        self._interpreter: Optional[bool] = None

    def __enter__(self) -> "Sandbox":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getattr__(self, name: str) -> Any:
        # Only asked for what is not found here; before `_adopt` there is nothing.
        if name.startswith("_") or "official" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self.official, name)

    @property
    def id(self) -> str:
        return self.official.sandbox_id

    def close(self) -> None:
        """Ends the sandbox, with everything in it."""
        self.official.kill()

    def run_code(
        self,
        code: str,
        language: Optional[str] = None,
        envs: Optional[Dict[str, str]] = None,
        timeout: Optional[float] = None,
    ) -> RunResult:
        """Runs code, without the indentation that all its lines share."""
        code = textwrap.dedent(code).strip("\n") + "\n"
        if self._has_interpreter():
            return self._interpret(code, language, envs, timeout)
        if language not in (None, "python"):
            raise ValueError(
                f"this template has no code interpreter, so it cannot run {language}: "
                'use Sandbox(template="code-interpreter-v1")'
            )
        return self._run_python(code, envs, timeout)

    def _has_interpreter(self) -> bool:
        if self._interpreter is None:
            self._interpreter = self._ask_interpreter()
        return self._interpreter

    def _ask_interpreter(self) -> bool:
        official = self.official
        config = official.connection_config
        url = config.get_sandbox_url(
            official.sandbox_id, official.sandbox_domain, port=INTERPRETER_PORT
        )
        headers = {
            "E2b-Sandbox-Id": official.sandbox_id,
            "E2b-Sandbox-Port": str(INTERPRETER_PORT),
        }
        if official.traffic_access_token:
            headers["E2B-Traffic-Access-Token"] = official.traffic_access_token
        try:
            answer = httpx.get(f"{url}/health", headers=headers, timeout=30)
        except httpx.TransportError:
            return False
        return answer.status_code == 200 and answer.text.strip('"\n') == "OK"

    def _interpret(
        self,
        code: str,
        language: Optional[str],
        envs: Optional[Dict[str, str]],
        timeout: Optional[float],
    ) -> RunResult:
        done = self.official.run_code(code, language=language, envs=envs, timeout=timeout)
        error = done.error
        stderr = "".join(done.logs.stderr)
        return RunResult(
            stdout="".join(done.logs.stdout),
            stderr=stderr + (error.traceback if error else ""),
            exit_code=1 if error else 0,
            error=f"{error.name}: {error.value}" if error else None,
            text=done.text,
            results=done.results,
        )

    def _run_python(
        self, code: str, envs: Optional[Dict[str, str]], timeout: Optional[float]
    ) -> RunResult:
        path = f"/tmp/.run-{uuid.uuid4().hex}.py"
        self.filesystem.write(path, code)
        line = f'"$(command -v python3 || command -v python)" {path}; s=$?; rm -f {path}; exit $s'
        done = self.process.start(line, envs=envs, timeout=timeout or DEFAULT_TIMEOUT)
        said = done.stderr.strip().splitlines()
        failed = done.exit_code != 0
        return RunResult(
            stdout=done.stdout,
            stderr=done.stderr,
            exit_code=done.exit_code,
            error=(said[-1] if said else f"status {done.exit_code}") if failed else None,
        )
