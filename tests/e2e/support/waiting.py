"""Waiting for conditions, always with a bound. Tests never just sleep."""

import asyncio
import threading
import time
from typing import Awaitable, Callable, Optional, TypeVar

T = TypeVar("T")

# Generous on purpose: it only decides how long a broken run takes to fail.
DEFAULT_SECONDS = 60.0


def until(
    condition: Callable[[], T],
    what: str,
    seconds: float = DEFAULT_SECONDS,
    every: float = 0.05,
) -> T:
    """Calls `condition` until it returns something true, and returns that."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() >= deadline:
            raise AssertionError(f"waited {seconds:g} s in vain: {what} (last: {value!r})")
        time.sleep(every)


async def until_async(
    condition: Callable[[], Awaitable[T]],
    what: str,
    seconds: float = DEFAULT_SECONDS,
    every: float = 0.05,
) -> T:
    """The same for a condition that is awaited."""
    deadline = time.monotonic() + seconds
    while True:
        value = await condition()
        if value:
            return value
        if time.monotonic() >= deadline:
            raise AssertionError(f"waited {seconds:g} s in vain: {what} (last: {value!r})")
        await asyncio.sleep(every)


class Collector:
    """Gathers a stream's pieces from another thread and waits for a text in it."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._changed = threading.Condition()

    def __call__(self, piece: "str | bytes") -> None:
        if isinstance(piece, (bytes, bytearray)):
            piece = bytes(piece).decode("utf-8", errors="replace")
        with self._changed:
            self._pieces.append(piece)
            self._changed.notify_all()

    @property
    def text(self) -> str:
        with self._changed:
            return "".join(self._pieces)

    def wait_for(self, text: str, seconds: float = DEFAULT_SECONDS) -> str:
        """Returns everything gathered once `text` is in it."""
        with self._changed:
            found = self._changed.wait_for(lambda: text in "".join(self._pieces), timeout=seconds)
            gathered = "".join(self._pieces)
        if not found:
            raise AssertionError(f"waited {seconds:g} s in vain for {text!r} in {gathered!r}")
        return gathered


class Background:
    """Runs a blocking call in a thread and hands over its result or error."""

    def __init__(self, call: Callable[[], T]) -> None:
        self._result: Optional[T] = None
        self._error: Optional[BaseException] = None
        self._thread = threading.Thread(target=self._run, args=(call,), daemon=True)
        self._thread.start()

    def _run(self, call: Callable[[], T]) -> None:
        try:
            self._result = call()
        except BaseException as error:  # handed to the caller of `result`
            self._error = error

    def result(self, seconds: float = DEFAULT_SECONDS) -> T:
        self._thread.join(seconds)
        if self._thread.is_alive():
            raise AssertionError(f"the call did not end within {seconds:g} s")
        if self._error is not None:
            raise self._error
        return self._result  # type: ignore[return-value]
