"""What is said of a home that is slow, that hangs, or that answers some calls and others not."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from afmfs.gateway.home import contact as module
from afmfs.gateway.home.contact import Contact
from afmfs.gateway.home.home import Home
from afmfs.gateway.protocol import Message
from afmfs.gateway.threads import Threads


class Clock:
    """Goes on when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "monotonic", clock)
    return clock


@pytest.fixture
def said() -> list[Message]:
    return []


@pytest.fixture
def contact(root: Path, said: list[Message]) -> Contact:
    hello = {
        "target": str(root), "identity": "i", "counter": 1, "token": "t", "first": True,
        "fileset": "f", "owner": {},
    }  # fmt: skip
    return Contact(hello, said.append, lambda call_s: None)


def slowed(
    monkeypatch: pytest.MonkeyPatch, clock: Clock, seconds: float, then: Callable[[], None]
) -> None:
    """Each look at something at home takes so long; `then` is called after it has returned."""
    real = Home.lstat

    def lstat(self: Home, dirfd: int, name: bytes) -> os.stat_result:
        clock.now += seconds
        found = real(self, dirfd, name)
        then()
        return found

    monkeypatch.setattr(Home, "lstat", lstat)


def test_a_home_that_needs_long_for_each_call_is_there(
    contact: Contact, said: list[Message], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    slowed(monkeypatch, clock, 0.8 * module.HANGS_S, contact.tick)
    assert contact._connect()
    assert clock.now > 1000 + 3 * module.HANGS_S
    assert [m["type"] for m in said if m["type"] != "alive"] == ["connected"]


def test_a_call_that_does_not_return_is_a_home_that_is_away(
    contact: Contact, said: list[Message], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def look() -> None:
        clock.now += 1.2 * module.HANGS_S  # the next call is under way
        contact.tick()

    slowed(monkeypatch, clock, 0.1, look)
    assert contact._connect()
    told = [m["type"] for m in said if m["type"] != "alive"]
    assert told == ["away", "connected"]
    assert "does not answer" in next(m["reason"] for m in said if m["type"] == "away")


def test_one_call_that_does_not_return_is_told_of(contact: Contact, clock: Clock) -> None:
    assert contact._connect()
    with contact.opened():
        clock.now += 2 * module.STALLS_S
        contact._prober = threading.get_ident() + 1
        assert contact.stalled_s == 2 * module.STALLS_S
        contact.pulse()
        assert contact.stalled_s == 0.0
        clock.now += 2 * module.STALLS_S
        worker = threading.Thread(target=contact.pulse)  # works for the one that has home open
        worker.start()
        worker.join()
        assert contact.stalled_s == 0.0
        clock.now += 2 * module.STALLS_S
    assert contact.stalled_s == 0.0


def test_a_probe_is_no_sign_of_life_of_what_stalls(contact: Contact, clock: Clock) -> None:
    assert contact._connect()
    with contact.opened():
        clock.now += 2 * module.STALLS_S

        def probe() -> None:
            contact._prober = threading.get_ident()
            contact._probe()

        prober = threading.Thread(target=probe)
        prober.start()
        prober.join()
        assert contact.is_up
        assert contact.stalled_s == 2 * module.STALLS_S


def test_what_is_said_last_is_what_came_last(
    contact: Contact, said: list[Message], root: Path
) -> None:
    """One thread finds home gone while another finds it back, as somebody else's."""
    assert contact._connect()
    (root / ".afm/home.json").write_text("not a marker")
    prober = threading.Thread(target=contact._connect)

    def send(message: Message) -> None:
        if message["type"] == "away":
            prober.start()
            prober.join(0.5)  # it goes on only when this has been said
        said.append(message)

    contact._send = send
    contact.lost(module.HomeAway("Unmounted", "home now belongs to another"))
    prober.join()
    assert [m["type"] for m in said if m["type"] != "alive"] == ["connected", "away", "refused"]


def test_a_home_is_not_tried_out_again_where_it_was_not_mounted_anew(
    contact: Contact, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That takes over a hundred round trips."""
    assert contact._connect()
    monkeypatch.setattr("afmfs.gateway.home.connection.probe", lambda home, previous: pytest.fail())
    contact.lost(module.HomeAway("Disconnected", "for a moment"))
    assert contact._connect()


class Waits:
    """Takes the place of the condition that the prober sleeps on: how long it wanted to."""

    def __init__(self, contact: Contact, count: int) -> None:
        self.pauses: list[float | None] = []
        self._contact, self._count = contact, count

    def __enter__(self) -> None: ...
    def __exit__(self, *_: object) -> None: ...

    def wait(self, timeout: float | None = None) -> None:
        self.pauses.append(timeout)
        self._contact._stopping = len(self.pauses) == self._count


def test_a_home_that_stays_away_is_looked_for_for_ever_and_ever_more_rarely(
    contact: Contact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contact, "_connect", lambda: False)
    waits = Waits(contact, 50)
    monkeypatch.setattr(contact, "_changed", waits)
    contact.run()
    pauses = [pause or 0.0 for pause in waits.pauses]
    assert 0 < pauses[0] < 1
    assert pauses == sorted(pauses)
    assert pauses[20:] == [10.0] * 30


def test_a_probe_says_at_once_that_home_is_very_slow() -> None:
    threads = Threads(4)
    threads.learn(0.01)
    assert threads.latency == 0.001  # it may have been the machine
    threads.learn(0.5)
    assert threads.latency == 0.5
    threads.learn(0.001)
    assert threads.latency == 0.001
    threads.learn(77)
    assert threads.latency == 5.0
