"""A gateway that is killed at any call, and whose gateway.db is lost as well: what it may have done
is compared with home, and home comes out as if nothing had happened."""

from __future__ import annotations

import errno
import os
import sqlite3
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from afmfs.gateway.gateway import _Engine
from afmfs.gateway.home.trouble import HomeAway
from afmfs.gateway.state.journal import Journal
from afmfs.gateway.state.journal_file import Known
from afmfs.gateway.state.transfer import push
from tests.gateway.fake_mount import BLOCK, FakeMount
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
    monkeypatch.setattr("afmfs.gateway.home.probe._exchange", lambda home, place: False)


def no_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("afmfs.gateway.home.probe._stable_inodes", lambda *args: False)


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


# -- what is our own, and what is not -------------------------------------------------------------


def numberless(mount: FakeMount, monkeypatch: pytest.MonkeyPatch) -> None:
    no_numbers(monkeypatch)
    mount.db.execute("UPDATE inode SET home_ino=NULL")


def settle(mount: FakeMount, **more: Any) -> dict[str, Any]:
    """Recover from the loss of a journal that had begun everything queued; what the job did."""
    notes = Notes()
    notes.begun = mount.next_id - 1
    run(mount, notes, job=notes.job(**more), known=LOST)
    (done,) = [m for m in notes.log if m["type"] == "progress" and m["phase"] == "done"][-1:]
    summary: dict[str, Any] = done["summary"]
    return summary


def trash(mount: FakeMount) -> list[bytes]:
    top = mount.home / ".afm/.afmtrash/1"
    return [file.read_bytes() for file in sorted(top.glob("[0-9]*"))] if top.exists() else []


def put(mount: FakeMount, name: str, offset: int, data: bytes) -> None:
    """Written into home's file, in place."""
    fd = os.open(mount.home / name, os.O_WRONLY)
    os.pwrite(fd, data, offset)
    os.close(fd)


OLD = b"o" * 3 * BLOCK


def partial(mount: FakeMount) -> int:
    """A file of which the cache has nothing but a change in the middle."""
    (mount.home / "f").write_bytes(OLD)
    ino = mount.adopt(b"f")
    mount.write(ino, BLOCK, b"NEW" * 100)
    return ino


@pytest.mark.parametrize("numbers", [True, False])
def test_a_push_that_was_cut_short_is_gone_on_with(
    mount: FakeMount, monkeypatch: pytest.MonkeyPatch, numbers: bool
) -> None:
    """Its file at home is of no version that is known; its bytes that are not cached are there
    alone, and are not taken for another version's, to be made null."""
    partial(mount)
    if not numbers:
        numberless(mount, monkeypatch)
    put(mount, "f", BLOCK, b"NEW" * 50)
    done = settle(mount)
    wanted = OLD[:BLOCK] + b"NEW" * 100 + OLD[BLOCK + 300 :]
    assert (mount.home / "f").read_bytes() == wanted
    assert (done["nulled"], done["aside"], trash(mount)) == (0, 0, [])


def test_a_cut_that_was_made_already(mount: FakeMount) -> None:
    (mount.home / "f").write_bytes(OLD)
    mount.truncate(mount.adopt(b"f"), 100)
    os.truncate(mount.home / "f", 100)
    done = settle(mount)
    assert (mount.home / "f").read_bytes() == OLD[:100]
    assert (done["lost"], done["adopted"], done["aside"]) == (0, 0, 0)


def test_another_file_in_its_place_is_not_our_push(mount: FakeMount) -> None:
    partial(mount)
    (mount.home / "other").write_bytes(b"x" * 3 * BLOCK)
    os.rename(mount.home / "other", mount.home / "f")
    done = settle(mount)
    assert trash(mount) == [b"x" * 3 * BLOCK]
    assert (mount.home / "f").read_bytes()[BLOCK : BLOCK + 300] == b"NEW" * 100
    assert done["nulled"] == 1


def test_a_file_that_was_not_begun_is_not_taken_for_our_push(mount: FakeMount) -> None:
    """What is queued after the last entry that was begun can't have been pushed."""
    (mount.home / "f").write_bytes(OLD)
    ino = mount.adopt(b"f", cached=True)
    mount.write(ino, BLOCK, b"NEW")
    put(mount, "f", 0, b"a stray write")
    notes = Notes()
    notes.begun = mount.next_id - 2
    with pytest.raises(AssertionError, match="was changed at home"):
        run(mount, notes, job=notes.job(), known=LOST)
    assert mount.get(ino, "retired") == 0 and trash(mount) == []


def test_a_new_file_that_is_there_is_ours_if_it_is_complete(mount: FakeMount) -> None:
    for name, there in (("whole", b"content"), ("half", b"con"), ("other", b"CONTENT")):
        mount.make(name.encode(), b"content")
        (mount.home / name).write_bytes(there)
    before = (mount.home / "whole").stat().st_ino
    settle(mount)
    for name in ("whole", "half", "other"):
        assert (mount.home / name).read_bytes() == b"content"
    assert sorted(trash(mount)) == [b"CONTENT", b"con"], "moved aside once, and not lost"
    assert (mount.home / "whole").stat().st_ino == before


def test_a_new_file_is_not_found_in_one_that_has_another_name(mount: FakeMount) -> None:
    """Pushed into it, its attributes would change another file's."""
    (mount.home / "one").write_bytes(b"content")
    one = mount.adopt(b"one", cached=True)
    mount.make(b"two", b"content")
    os.link(mount.home / "one", mount.home / "two")
    settle(mount)
    inodes = {(mount.home / name).stat().st_ino for name in ("one", "two")}
    assert mount.get(one, "home_ino") in inodes and len(inodes) == 2


def test_only_what_was_changed_is_sent(mount: FakeMount, monkeypatch: pytest.MonkeyPatch) -> None:
    """The queue tells it; a file that was but renamed is not sent at all."""
    for name in (b"written", b"renamed", b"chmod"):
        (mount.home / os.fsdecode(name)).write_bytes(OLD)
        mount.adopt(name, cached=True)
    written = mount.look_up(1, b"written")
    mount.write(written, 10, b"1234")
    mount.rename(b"renamed", b"new name")
    mount.setattr(mount.look_up(1, b"chmod"), mode=stat.S_IFREG | 0o600)
    sent: list[tuple[int, Any]] = []

    def record(view: Any, ino: int, row: Any, ranges: Any, *rest: Any) -> Any:
        sent.append((ino, ranges))
        return push(view, ino, row, ranges, *rest)

    monkeypatch.setattr("afmfs.gateway.replay.pushing.push", record)
    settle(mount)
    assert sent == [(written, ((10, 14),))]
    assert (mount.home / "written").read_bytes() == OLD[:10] + b"1234" + OLD[14:]
    assert (mount.home / "new name").read_bytes() == OLD
    assert (mount.home / "chmod").stat().st_mode & 0o777 == 0o600


def test_an_entry_that_a_later_one_has_overtaken(mount: FakeMount) -> None:
    """Home refused it for now; its inode does not look changed."""
    ino = partial(mount)
    late = mount.rename(b"f", b"g")
    os.rename(mount.home / "f", mount.home / "g")
    mount.db.execute("DELETE FROM queue WHERE id=?", (late,))
    mount.update(ino, retired=late)
    settle(mount)
    assert (mount.home / "g").read_bytes()[BLOCK : BLOCK + 300] == b"NEW" * 100


def test_what_was_queued_later_is_replayed_as_ever(mount: FakeMount) -> None:
    (mount.home / "f").write_bytes(b"f")
    (mount.home / "g").write_bytes(b"g")
    mount.adopt(b"f")
    mount.adopt(b"g")
    mount.make(b"new", b"new")
    notes = Notes()
    notes.begun = mount.next_id - 1
    mount.remove(b"f")
    mount.rename(b"g", b"h")
    run(mount, notes, job=notes.job(), known=LOST)
    assert sorted(os.listdir(mount.home)) == [".afm", "h", "new"]
    assert trash(mount) == [], "it was removed, not moved aside"


def test_a_removed_name_that_has_been_used_again(mount: FakeMount) -> None:
    """What is there is moved aside only if nobody here has that name, or that object."""
    for name in ("gone", "again", "moved"):
        (mount.home / name).write_bytes(name.encode())
        mount.adopt(name.encode())
    (mount.home / "new").write_bytes(b"old")
    mount.adopt(b"new")
    mount.remove(b"gone")
    mount.remove(b"new")
    mount.make(b"new", b"new")
    (mount.home / "new").unlink()
    (mount.home / "new").write_bytes(b"new")
    mount.remove(b"again")
    mount.rename(b"moved", b"again")
    os.unlink(mount.home / "again")
    os.rename(mount.home / "moved", mount.home / "again")
    settle(mount)
    assert sorted(os.listdir(mount.home)) == [".afm", "again", "new"]
    assert (mount.home / "again").read_bytes() == b"moved"
    assert trash(mount) == [b"gone"]


def test_a_name_that_another_has_had_for_a_while(mount: FakeMount) -> None:
    """Home has seen some of the changes: what is under the removed name now goes on from there."""
    for name in ("x", "y"):
        (mount.home / name).write_bytes(name.encode())
        mount.adopt(name.encode())
    mount.remove(b"x")
    mount.rename(b"y", b"x")
    mount.rename(b"x", b"z")
    os.rename(mount.home / "y", mount.home / "x")
    done = settle(mount)
    assert sorted(os.listdir(mount.home)) == [".afm", "z"]
    assert (mount.home / "z").read_bytes() == b"y"
    assert (done["lost"], trash(mount)) == (0, [])


def test_changes_that_were_merged_or_not(mount: FakeMount) -> None:
    """A name that a merged change passes over is where the object is, if it was not merged."""
    (mount.home / "a").write_bytes(b"a")
    mount.adopt(b"a")
    mount.rename(b"a", b"b")
    mount.rename(b"b", b"c")
    os.rename(mount.home / "a", mount.home / "b")
    mount.make(b"tmp", b"saved")
    mount.rename(b"tmp", b"name")
    (mount.home / "tmp").write_bytes(b"saved")
    before = (mount.home / "tmp").stat().st_ino
    assert settle(mount)["lost"] == 0
    assert sorted(os.listdir(mount.home)) == [".afm", "c", "name"]
    assert (mount.home / "name").stat().st_ino == before


# -- before the cache has taken note --------------------------------------------------------------


def test_nothing_is_found_out_or_done_until_the_cache_knows(
    mount: FakeMount, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of our own interrupted push is no inconsistency; and no doubtful name is followed."""
    monkeypatch.setattr("afmfs.gateway.fetch.PATIENCE_S", 0.1)
    ino = partial(mount)
    mount.rename(b"f", b"g")
    (mount.home / "still").write_bytes(b"still")
    still = mount.adopt(b"still")
    (mount.home / "d").mkdir()
    d = mount.adopt(b"d")
    entry = mount.rename(b"d", b"e")
    put(mount, "f", BLOCK, b"NEW" * 50)
    (mount.home / "h").write_bytes(OLD)
    h = mount.adopt(b"h")
    mount.write(h, len(OLD), b"more")
    put(mount, "h", len(OLD), b"mo")
    gateway = mount.start(journal={"id": "an earlier one", "turn": 9, "seq": 9})
    said = mount.await_message("journal")
    assert (said["reason"], said["begun"]) == ("gateway.db was lost", 0)
    mount.await_message("connected")
    gateway.receive({"type": "flush", "through": mount.next_id - 1})
    assert mount.request("fetch", ino=ino, start=0, end=BLOCK)[0]["errno"] == errno.EAGAIN
    assert mount.request("fetch", ino=h, start=0, end=BLOCK)[0]["errno"] == errno.EAGAIN
    assert mount.request("list", ino=d)[0]["errno"] == errno.EAGAIN
    assert mount.request("drop", id=entry)[0]["ok"] is False
    assert mount.request("fetch", ino=still, start=0, end=5)[1] == b"still"
    mount.await_message("status", in_doubt=1)
    assert mount.points == 0 and sorted(os.listdir(mount.home)) == [".afm", "d", "f", "h", "still"]
    last = mount.next_id - 1
    job = {"id": 1, "kind": "recovery", "bound": last, "doubt": last}
    gateway.receive({"type": "job", "job": job})
    gateway.receive({"type": "journal_known", "id": "another"})
    assert mount.points == 0
    gateway.receive({"type": "journal_known", "id": said["id"]})
    mount.await_message("progress", phase="done")
    gateway.receive({"type": "job_taken", "id": 1})
    mount.settle()
    assert sorted(os.listdir(mount.home)) == [".afm", "e", "g", "h", "still"]
    assert mount.request("list", ino=d)[0]["count"] == 0
    assert not [m for m in mount.log if m["type"] == "inconsistent"]
    mount.stop()
    mount.start(journal={"id": said["id"], "turn": gateway._engine.journal.turn, "seq": 0})  # type: ignore[union-attr]
    mount.settle()
    assert len([m for m in mount.log if m["type"] == "journal"]) == 1
