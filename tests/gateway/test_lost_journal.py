"""A gateway that is killed at any call, and whose gateway.db is lost as well: what it may have done
is compared with home, and home comes out as if nothing had happened."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from afmfs.gateway.gateway import _Engine
from afmfs.gateway.journal import Journal
from afmfs.gateway.journal_file import Known
from afmfs.gateway.trouble import HomeAway
from tests.gateway.fake_mount import FakeMount
from tests.gateway.test_doubt import (
    Interrupter,
    Killed,
    change,
    check_wanted,
    image,
    prepare,
)

LOST = Known("an earlier journal")


class Notes:
    """What the cache is told to remember."""

    def __init__(self) -> None:
        self.begun = 0
        self.log: list[dict[str, Any]] = []

    def job(self, **more: Any) -> dict[str, Any]:
        return {
            "id": 1, "kind": "recovery", "bound": self.begun, "doubt": self.begun, "reason": "",
        } | more  # fmt: skip


def run(
    mount: FakeMount,
    notes: Notes,
    counter: Interrupter | None = None,
    *,
    job: dict[str, Any] | None = None,
    known: Known | None = None,
) -> None:
    """A gateway from its start until there is nothing left to do; with a job, after it has said
    that its journal is another one."""
    log = notes.log = []

    def send(message: dict[str, Any], fds: Any = ()) -> None:
        log.append(message)
        if message["type"] == "point":
            notes.begun = max(notes.begun, message["begun"])
            engine.replay.point_done(message["rid"], True)
        assert message["type"] != "inconsistent", message

    hello = {
        "type": "hello", "identity": "i", "target": str(mount.home), "counter": 1, "first": True,
        "token": "t", "tokens": ["t"], "owner": {"host": "h"}, "cache": str(mount.cache),
        "tunables": mount.tunables, "block_size": 4096,
    }  # fmt: skip
    directory = mount.cache / "gateway" / "1"
    engine = _Engine(mount.cache, directory, Journal(directory, known), hello, send)
    replay = engine.replay
    replay._wait = lambda seconds: None  # type: ignore[method-assign]
    replay._changed.wait = lambda *_: True  # type: ignore[method-assign]
    replay.introduce()
    try:
        for n in range(400):
            if not engine.contact.is_up:
                assert engine.contact._connect()
            if job is not None and n == 3:
                assert not any(m["type"] == "point" for m in log), "it did not wait"
                replay.take_job(job)
                replay.journal_known(engine.journal.id)
            if counter is not None:
                counter.armed = counter.at >= 0 and counter.count < counter.at
            try:
                replay.step()
            except HomeAway:
                replay._break_off()
            finally:
                if counter is not None:
                    counter.armed = False
            if job is not None and replay.priority.phase == "done" and n > 3:
                replay.job_taken(job["id"])
            if replay.settled and (job is None or replay.priority.job is None):
                return
        raise AssertionError(f"not settled: {log[-5:]}")
    finally:
        engine.stop(1.0)


def lose(mount: FakeMount) -> None:
    for path in (mount.cache / "gateway" / "1").glob("gateway.db*"):
        path.unlink()


def retire(mount: FakeMount, count: int) -> None:
    """The first of the outcomes that are recorded were taken over before."""
    db = sqlite3.connect(mount.cache / "gateway" / "1" / "gateway.db")
    rows = db.execute("SELECT * FROM outcome ORDER BY seq LIMIT ?", (count,)).fetchall()
    db.close()
    for _, entry, ino, size, mtime, home_ino, _, _ in rows:
        mount.db.execute("DELETE FROM queue WHERE id=?", (entry,))
        if mtime is not None:
            mount.update(ino, home_size=size, home_mtime=mtime, home_ino=home_ino)
        mount.db.execute("UPDATE inode SET retired=max(retired,?) WHERE ino=?", (entry, ino))


def no_exchange(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("afmfs.gateway.probe._exchange", lambda home, place: False)


def no_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("afmfs.gateway.probe._stable_inodes", lambda *args: False)


HOMES: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "a local one": lambda monkeypatch: None,
    "without exchange": no_exchange,
    "without inode numbers": no_numbers,
}


@pytest.mark.parametrize("kind", HOMES)
def test_every_interruption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    HOMES[kind](monkeypatch)
    counter = Interrupter(monkeypatch)
    mount = prepare(tmp_path / "model")
    change(mount)
    counter.at = 10**9
    run(mount, Notes(), counter)
    wanted, calls = image(mount.home), counter.count
    mount.close()
    check_wanted(wanted)
    step = int(os.environ.get("AFMFS_EVERY", "12"))
    for at in range(1 + len(tmp_path.name) % step, calls + 1, step):
        for after in (False, True):
            mount, notes = prepare(tmp_path / f"{at}-{after}"), Notes()
            if kind == "without inode numbers":
                mount.db.execute("UPDATE inode SET home_ino=NULL")
            change(mount)
            counter.count, counter.at, counter.after = 0, at, after
            with suppress(Killed):
                run(mount, notes, counter)
            counter.at = -1
            retire(mount, at % 7)
            lose(mount)
            run(mount, notes, job=notes.job(), known=LOST)
            assert image(mount.home) == wanted, f"killed at call {at}, after: {after}"
            mount.close()
