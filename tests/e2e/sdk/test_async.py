"""The asynchronous half of the SDK."""

import asyncio
import os

import pytest
import pytest_asyncio
from e2b import (
    AsyncSandbox,
    CommandExitException,
    SandboxQuery,
    TimeoutException,
)
from e2b.sandbox.commands.command_handle import PtySize

from support.waiting import until_async


@pytest_asyncio.fixture
async def box(hearth):
    sandbox = await AsyncSandbox.create(timeout=300)
    yield sandbox
    await sandbox.kill()


async def test_commands_and_callbacks(box):
    seen = []
    result = await box.commands.run(
        "echo out; echo err >&2", on_stdout=lambda text: seen.append(text)
    )
    assert (result.stdout, result.stderr, "".join(seen)) == ("out\n", "err\n", "out\n")
    with pytest.raises(CommandExitException) as raised:
        await box.commands.run("exit 9")
    assert raised.value.exit_code == 9
    with pytest.raises(TimeoutException):
        await box.commands.run("sleep 600", timeout=2)


async def test_background_stdin_and_kill(box):
    handle = await box.commands.run("cat", background=True, stdin=True)
    await handle.send_stdin("typed\n")
    await handle.close_stdin()
    assert (await handle.wait()).stdout == "typed\n"
    sleeper = await box.commands.run("sleep 600", background=True)
    assert sleeper.pid in {process.pid for process in await box.commands.list()}
    assert await sleeper.kill() is True
    with pytest.raises(CommandExitException):
        await sleeper.wait()


async def test_files(box):
    data = os.urandom(1024 * 1024)
    await box.files.write("/home/user/data", data)
    assert bytes(await box.files.read("/home/user/data", format="bytes")) == data
    pieces = [piece async for piece in await box.files.read("/home/user/data", format="stream")]
    assert b"".join(pieces) == data
    assert {entry.name for entry in await box.files.list("/home/user")} >= {"data"}
    await box.files.remove("/home/user/data")
    assert await box.files.exists("/home/user/data") is False


async def test_watching_streams_events(box):
    events = []
    await box.files.make_dir("/home/user/watched")
    watcher = await box.files.watch_dir("/home/user/watched", on_event=events.append)
    await box.files.write("/home/user/watched/file", "x")

    async def seen():
        return any(event.name == "file" for event in events)

    await until_async(seen, "the event of a new file")
    await watcher.stop()


async def test_terminal(box):
    shown = []
    handle = await box.pty.create(
        PtySize(rows=24, cols=80), on_data=lambda data: shown.append(bytes(data)), timeout=0
    )
    await box.pty.send_stdin(handle.pid, b"echo async-$((40+2))\n")

    async def answered():
        return b"async-42" in b"".join(shown)

    await until_async(answered, "the terminal's answer")
    await box.pty.send_stdin(handle.pid, b"exit 5\n")
    with pytest.raises(CommandExitException) as raised:
        await handle.wait()
    assert raised.value.exit_code == 5


async def test_several_sandboxes_at_once(hearth):
    boxes = await asyncio.gather(*(AsyncSandbox.create(timeout=120) for _ in range(4)))
    try:
        results = await asyncio.gather(
            *(box.commands.run(f"echo {number}") for number, box in enumerate(boxes))
        )
        assert [result.stdout for result in results] == [f"{n}\n" for n in range(4)]
        page = AsyncSandbox.list(query=SandboxQuery(), limit=100)
        listed = {info.sandbox_id for info in await page.next_items()}
        assert listed >= {box.sandbox_id for box in boxes}
    finally:
        killed = await asyncio.gather(*(box.kill() for box in boxes))
    assert killed == [True] * 4
    assert await boxes[0].is_running() is False


async def test_connect_and_timeout(box):
    other = await AsyncSandbox.connect(box.sandbox_id)
    assert (await other.commands.run("echo same")).stdout == "same\n"
    await other.set_timeout(2)

    async def ended():
        return not await box.is_running()

    await until_async(ended, "the sandbox to end at its time")


async def test_the_rest_of_the_calls(box):
    handle = await box.commands.run("echo early; cat", background=True, stdin=True)

    async def is_early() -> bool:
        return handle.stdout == "early\n"

    await until_async(is_early, "the first output")
    # Whoever connects gets what is new.
    again = await box.commands.connect(handle.pid)
    await box.commands.send_stdin(handle.pid, "typed\n")
    await box.commands.close_stdin(handle.pid)
    assert (await again.wait()).stdout == "typed\n"
    assert await box.files.make_dir("/home/user/async/sub") is True
    await box.files.write("/home/user/async/old", "12345")
    moved = await box.files.rename("/home/user/async/old", "/home/user/async/new")
    assert moved.path == "/home/user/async/new"
    assert (await box.files.get_info("/home/user/async/new")).size == 5
    shown = []
    terminal = await box.pty.create(PtySize(rows=24, cols=80), on_data=shown.append, timeout=60)
    await box.pty.resize(terminal.pid, PtySize(rows=10, cols=99))
    await box.pty.send_stdin(terminal.pid, b"stty size\n")

    async def is_shown() -> bool:
        return b"10 99" in b"".join(shown)

    await until_async(is_shown, "the terminal's size")
    assert await box.pty.kill(terminal.pid) is True
