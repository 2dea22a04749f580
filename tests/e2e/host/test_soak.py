"""Random lives of sandboxes through the API, on real VMs, with a daemon that dies now
and then. Opt-in: `HEARTH_SOAK_SECONDS=600 scripts/e2e host host/test_soak.py -s`;
`HEARTH_SOAK_SEED` repeats a run's choices (not its timing)."""

import collections
import os
import random
import threading
import time
import uuid
from typing import Optional

import httpx
import pytest
from e2b import Sandbox

from support import machine
from support.waiting import until

SECONDS = float(os.environ.get("HEARTH_SOAK_SECONDS", "0"))
SEED = int(os.environ.get("HEARTH_SOAK_SEED", "0")) or random.randrange(1 << 32)
WORKERS = 3
# Longer than any soak: nothing is to end by itself.
TIMEOUT = 3600 * 12
# A daemon that comes back on a busy machine takes its time.
PATIENCE = 300.0

pytestmark = [
    pytest.mark.skipif(not SECONDS, reason="opt-in: set HEARTH_SOAK_SECONDS"),
    pytest.mark.timeout(SECONDS + 900),
]


class Life:
    """One sandbox and what its file may hold. After a call without an answer several
    outcomes are possible; looking decides which it was."""

    def __init__(self, hearth, number: int):
        self.hearth = hearth
        self.choose = random.Random(f"{SEED}/{number}")
        self.number = number
        self.sandbox: Optional[Sandbox] = None
        self.may_be_gone = False
        self.holds: set[str] = set()
        # Writes whose call got no answer: the guest may carry them out at any time.
        self.late: set[str] = set()
        self.snapshots: dict[str, str] = {}
        self.writes = 0
        self.done: collections.Counter[str] = collections.Counter()

    def step(self) -> None:
        if self.sandbox is None:
            snapshot = self.choose.choice([None, *sorted(self.snapshots)])
            self.create(snapshot or "base", self.snapshots.get(snapshot or "", ""))
            return
        actions = [
            (6, self.write),
            (4, self.pause),
            (6, self.resume),
            (3, self.snapshot),
            (2, self.roll_back),
            (2, self.fork),
            (2, self.extend),
            (3, self.race),
            (1, self.kill),
        ]
        weights = [weight for weight, _ in actions]
        action = self.choose.choices([action for _, action in actions], weights)[0]
        self.done[action.__name__] += 1
        action()
        self.look()

    def ask(self, method: str, path: str, body=None, **headers) -> Optional[httpx.Response]:
        """None where the daemon died meanwhile. A refusal is an outcome like another."""
        try:
            with self.hearth.client() as client:
                answer = client.request(method, path, json=body, headers=headers)
        except httpx.HTTPError:
            return None
        self.done[f"HTTP {answer.status_code}"] += 1
        assert answer.status_code != 500, f"{method} {path} {body}: {answer.text}"
        return answer

    def path(self, rest: str = "") -> str:
        return f"/sandboxes/{self.sandbox.sandbox_id}{rest}"

    def create(self, template: str, holds: str) -> None:
        body = {"templateID": template, "timeout": TIMEOUT, "secure": True}
        key = str(uuid.uuid4())
        # With a key a lost answer is asked for again, and there is one sandbox.
        send = lambda: self.ask("POST", "/sandboxes", body, **{"Idempotency-Key": key})
        answer = until(send, "an answer", PATIENCE, 0.5)
        if answer.status_code != 201:
            return
        self.done["create"] += 1
        self.sandbox = self.connected(answer.json()["sandboxID"])
        self.holds, self.late, self.may_be_gone = {holds}, set(), False

    def connected(self, sandbox_id: str) -> Sandbox:
        def connect() -> Optional[Sandbox]:
            try:
                return Sandbox.connect(sandbox_id, timeout=TIMEOUT)
            except httpx.HTTPError:
                return None

        return until(connect, "a sandbox to be connected to", PATIENCE, 0.5)

    def write(self) -> None:
        self.writes += 1
        text, bulk = f"{self.number}.{self.writes}", self.choose.choice([1, 40, 3000])
        line = (
            f"head -c {bulk}k /dev/urandom > /home/user/bulk;"
            f" echo -n {text} > /home/user/new && sync && mv /home/user/new /home/user/file && sync"
        )
        self.holds = self.holds | {text}
        try:
            self.sandbox.commands.run(line, timeout=120)
            self.holds = {text} | self.late
        except Exception:
            self.late.add(text)  # It is paused, or the daemon died.

    def pause(self) -> None:
        self.ask("POST", self.path("/pause"), {"memory": self.choose.random() < 0.8})

    def resume(self) -> None:
        self.ask("POST", self.path("/connect"), {"timeout": TIMEOUT})

    def extend(self) -> None:
        self.ask("POST", self.path("/timeout"), {"timeout": TIMEOUT})

    def snapshot(self) -> None:
        answer = self.ask("POST", self.path("/snapshots"), {})
        if answer is not None and answer.status_code == 201 and len(self.holds) == 1:
            (self.snapshots[answer.json()["snapshotID"]],) = self.holds

    def roll_back(self) -> None:
        if self.snapshots:
            snapshot = self.choose.choice(sorted(self.snapshots))
            self.holds = self.holds | {self.snapshots[snapshot]}
            answer = self.ask("POST", self.path("/rollback"), {"snapshotID": snapshot})
            if answer is not None and answer.status_code == 200:
                # The guest of then, with nothing in the middle.
                self.holds, self.late = {self.snapshots[snapshot]}, set()

    def fork(self) -> None:
        answer = self.ask("POST", self.path("/fork"), {"count": 1, "timeout": TIMEOUT})
        if answer is None or answer.status_code != 201:
            return
        for sandbox in filter(None, (result.get("sandbox") for result in answer.json())):
            fork = self.connected(sandbox["sandboxID"])
            held = self.read(fork)
            allowed = {None} | self.holds | self.late
            assert held in allowed, f"a fork holds {held!r}, not {allowed}"
            self.ask("DELETE", f"/sandboxes/{fork.sandbox_id}")

    def race(self) -> None:
        """Two requests at once: both may win, one may; neither may break it."""
        pair = self.choose.sample([self.pause, self.resume, self.extend, self.snapshot], 2)
        failures: list[BaseException] = []

        def run(call) -> None:
            try:
                call()
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=run, args=(call,)) for call in pair]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failures:
            raise failures[0]

    def kill(self) -> None:
        self.may_be_gone = True
        self.ask("DELETE", self.path())

    def read(self, sandbox: Sandbox) -> Optional[str]:
        try:
            line = "cat /home/user/file 2>/dev/null; true"
            return sandbox.commands.run(line, timeout=120).stdout
        except Exception:
            return None

    def look(self) -> None:
        answer = until(lambda: self.ask("GET", self.path()), "an answer", PATIENCE, 0.5)
        if answer.status_code == 404:
            assert self.may_be_gone, f"{self.path()} is gone, and nobody ended it"
            self.sandbox = None
        elif answer.json()["state"] == "running":
            held = self.read(self.sandbox)
            if held is not None:
                allowed = self.holds | self.late
                assert held in allowed, f"{self.path()} holds {held!r}, not {allowed}"
                self.holds = {held} | self.late

    def at_the_end(self) -> None:
        if self.sandbox is None:
            return
        sandbox = self.connected(self.sandbox.sandbox_id)
        # From the disk, not from memory.
        sandbox.commands.run("sync; echo 3 | sudo tee /proc/sys/vm/drop_caches", timeout=120)
        assert self.read(sandbox) in self.holds | self.late


def test_random_lives(own_hearth):
    hearth = own_hearth
    ends = time.monotonic() + SECONDS
    failures: list[BaseException] = []
    lives = [Life(hearth, number) for number in range(WORKERS)]

    def over() -> bool:
        return bool(failures) or time.monotonic() > ends

    def live(life: Life) -> None:
        try:
            while not over():
                life.step()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=live, args=(life,)) for life in lives]
    for thread in threads:
        thread.start()
    chance, deaths = random.Random(f"{SEED}/daemon"), 0
    while not over():
        # Not a wait for anything: the deaths come at any moment.
        time.sleep(min(chance.uniform(5, 40), max(0.0, ends - time.monotonic())))
        if not over():
            hearth.kill()
            hearth.start()
            deaths += 1
    for thread in threads:
        thread.join(PATIENCE * 2)
    done = sum((life.done for life in lives), collections.Counter())
    print(f"\nseed {SEED}, {deaths} deaths of the daemon, {dict(sorted(done.items()))}")
    if failures:
        raise failures[0]

    for life in lives:
        life.at_the_end()
    verified = hearth.run("snapshot", "verify", seconds=1200).stdout
    assert "sound" in verified
    with hearth.client() as client:
        for sandbox_id in hearth.listed():
            client.delete(f"/sandboxes/{sandbox_id}")
        for snapshot in {name for life in lives for name in life.snapshots}:
            client.delete(f"/templates/{snapshot.replace('/', '%2F')}")
    until(lambda: machine.vm_processes(hearth.run_dir) == [], "the VMs to be gone")
    hearth.down()
    assert hearth.leftovers() == {}
