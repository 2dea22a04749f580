"""Programs in a sandbox."""

import shlex
from dataclasses import dataclass
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Union

from e2b import CommandExitException

# A program in the foreground may take this long, in seconds.
DEFAULT_TIMEOUT = 300


@dataclass
class ProcessResult:
    """A program that has ended."""

    stdout: str
    stderr: str
    exit_code: int
    error: Optional[str] = None


@dataclass
class ProcessOutput:
    """A piece of what a program writes; one of the two is empty."""

    stdout: str = ""
    stderr: str = ""


class Process:
    """A program in the background."""

    def __init__(self, commands: Any, handle: Any) -> None:
        self._commands = commands
        self._handle = handle

    @property
    def pid(self) -> int:
        return self._handle.pid

    def stream(self) -> Iterator[ProcessOutput]:
        """What the program writes, as it comes, until it ends."""
        for stdout, stderr, _ in self._handle:
            if stdout or stderr:
                yield ProcessOutput(stdout or "", stderr or "")

    def send_stdin(self, data: str) -> None:
        self._commands.send_stdin(self.pid, data)

    def wait(self) -> ProcessResult:
        """Waits for the end; the result holds what was not streamed as well."""
        return result_of(self._handle.wait)

    def kill(self) -> bool:
        """False when it had ended already."""
        return self._commands.kill(self.pid)


class ProcessManager:
    def __init__(self, official: Any) -> None:
        self._commands = official.commands

    def start(
        self,
        cmd: str,
        args: Optional[Sequence[str]] = None,
        background: bool = False,
        envs: Optional[Dict[str, str]] = None,
        cwd: Optional[str] = None,
        user: Optional[str] = None,
        timeout: Optional[float] = None,
        on_stdout: Optional[Callable[[str], None]] = None,
        on_stderr: Optional[Callable[[str], None]] = None,
    ) -> Union[ProcessResult, Process]:
        """Runs a line of shell, or with `args` a program with arguments.

        In the foreground it returns the result, also of a program that failed. In
        the background it returns at once, and the program ends with the sandbox.
        """
        options: Dict[str, Any] = {
            # Python writes line by line then, as to a terminal.
            "envs": {"PYTHONUNBUFFERED": "1", **(envs or {})},
            "cwd": cwd,
            "user": user,
        }
        line = command_line(cmd, args)
        if background:
            handle = self._commands.run(
                line, background=True, stdin=True, timeout=timeout or 0, **options
            )
            return Process(self._commands, handle)
        return result_of(
            lambda: self._commands.run(
                line,
                timeout=DEFAULT_TIMEOUT if timeout is None else timeout,
                on_stdout=on_stdout,
                on_stderr=on_stderr,
                **options,
            )
        )

    def list(self) -> List[Any]:
        return self._commands.list()

    def kill(self, pid: int) -> bool:
        return self._commands.kill(pid)


def command_line(cmd: str, args: Optional[Sequence[str]]) -> str:
    """A line for the shell; with `args`, `cmd` is a program and not a line."""
    return cmd if args is None else shlex.join([cmd, *args])


def result_of(run: Callable[[], Any]) -> ProcessResult:
    try:
        done = run()
    except CommandExitException as failed:
        done = failed
    return ProcessResult(done.stdout, done.stderr, done.exit_code, getattr(done, "error", None))
