"""Entries of the queue that are gone: noticed, and made up for; seen from the mount process."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio

from afmfs.cache.fileset import Fileset
from afmfs.cache.home import lost_entries
from afmfs.cache.job.jobs import put_job, stored_job
from afmfs.gateway.protocol import Message
from afmfs.model.entry import ROOT, Op
from tests.cache.parts import Parts, parts
from tests.harness.fake_gateway import Office, open_office

__all__ = ["parts"]


@pytest.fixture
async def office() -> AsyncIterator[Office]:
    async with open_office() as office:
        yield office


async def make(fileset: Fileset, *names: bytes) -> list[int]:
    made = [await fileset.make(ROOT, name, mode=0o100644, uid=0, gid=0) for name in names]
    for inode in made:
        await fileset.write(inode.ino, 0, b"some bytes")
    return [inode.ino for inode in made]


def cut(base: Path, sql: str, *values: Any) -> None:
    """Harm a cache that is not mounted."""
    db = sqlite3.connect(base / "cache" / "cache.db")
    with db:
        db.execute(sql, values)
    db.close()


def events(fileset: Fileset, prefix: str = "afmRecovery") -> list[dict[str, Any]]:
    return [dict(event) for event in fileset.events() if event["name"].startswith(prefix)]


def progress(job: Message, phase: str, **more: Any) -> Message:
    return {"type": "progress", "id": job["id"], "phase": phase, "left": 0} | more


def dirty(fileset: Fileset) -> list[int]:
    return [ino for (ino,) in fileset._store.execute("SELECT ino FROM inode WHERE changed>retired")]


# -- noticing ------------------------------------------------------------------------------------


async def test_from_the_loss_to_its_end(office: Office, tmp_path: Path) -> None:
    async with office.fileset(tmp_path) as fileset:
        one, two = await make(fileset, b"one", b"two")
        last = fileset.status().last_entry
    cut(tmp_path, "DELETE FROM queue WHERE ino=?", one)
    async with office.fileset(tmp_path) as fileset:
        status = fileset.status()
        assert (status.queue_length, status.bytes_pending) == (2, 10)
        assert status.state == "Recovery"
        job = (await office.gateway.hear("hello"))["job"]
        assert job["kind"] == "recovery" and job["bound"] >= last and job["missing"] == 2
        reason = "2 entries of the queue were lost"
        (start,) = events(fileset)
        assert (start["name"], start["reason"]) == ("afmRecoveryStart", reason)
        live = await fileset.getattr(one)
        assert live.changed > live.retired
        fresh = await make(fileset, b"later")
        await office.gateway.say(**progress(job, "done"))
        await office.gateway.hear("job_taken")
        assert [event["name"] for event in events(fileset)] == [
            "afmRecoveryStart", "afmRecoveryEnd",
        ]  # fmt: skip
        assert live.changed == live.retired, "also of the object in memory"
        assert dirty(fileset) == [two, *fresh], "these have rows"
        assert fileset._retirement.unsure == 0
        assert fileset.status().state == "Dirty"
    async with office.fileset(tmp_path) as fileset:
        assert (await office.gateway.hear("hello"))["job"] is None
        assert len(events(fileset)) == 2


async def test_the_loss_of_nothing_is_none(office: Office, tmp_path: Path) -> None:
    for _ in range(2):
        async with office.fileset(tmp_path) as fileset:
            await make(fileset, b"f%d" % fileset.status().last_entry)
            assert (await office.gateway.hear("hello"))["job"] is None
            assert events(fileset) == []


@pytest.mark.parametrize("sql, missing", [
    ("UPDATE counters SET queue_length=queue_length+3", 3),
    ("UPDATE counters SET queue_length=queue_length-1", 1),
    ("UPDATE counters SET bytes_pending=0", 1),
    ("UPDATE queue SET \"end\"=4 WHERE op=6", 1),
])  # fmt: skip
def test_counters_that_do_not_agree(parts: Parts, sql: str, missing: int) -> None:
    """However that came about: nobody knows what else is wrong."""
    inode = parts.make(b"f")
    with parts.store:
        parts.store.append(Op.WRITE, inode, start=0, end=10)
    parts.store.execute(sql)
    parts = parts.again(recover=False)
    bound = lost_entries.check(parts.store)
    job = stored_job(parts.store)
    assert job is not None and (job.missing, job.bound) == (missing, bound)
    rows = parts.store.execute('SELECT count(*), total("end") FROM queue').fetchone()
    assert (parts.store.counters.queue_length, parts.store.counters.bytes_pending) == rows
    again = lost_entries.check(parts.store)
    assert again == bound and stored_job(parts.store) == job, "until the job is done"


def test_a_job_that_was_under_way_begins_anew(parts: Parts) -> None:
    """Under another number: the gateway has a plan by the old one."""
    parts.make(b"f")
    with parts.store as store:
        old = put_job(store, "resync", bound=1, reason="f: was changed", manual=True, doubt=1)
    parts.store.execute("DELETE FROM queue")
    parts = parts.again()
    job = stored_job(parts.store)
    assert job is not None and job.id == old.id + 1
    assert (job.kind, job.manual, job.doubt, job.missing) == ("resync", True, 1, 1)
    assert job.reason == "f: was changed; 1 entries of the queue were lost"
    assert job.bound == parts.retirement.unsure > 1


# -- what is believed until the job is done ------------------------------------------------------


def outcome(number: int, ino: int, size: int) -> tuple[Any, ...]:
    return number, number, ino, size, 77, 9, "done", None


def test_a_retired_entry_does_not_hide_a_lost_one(parts: Parts) -> None:
    """Else an entry of the names, which are settled first, would have the lost bytes forgotten."""
    inode = parts.make(b"f")
    with parts.store:
        lost = parts.store.append(Op.WRITE, inode, start=0, end=10)
        last = parts.store.append(Op.ATTR, inode)
        parts.store.save(inode, changed=last)
    parts.store.execute("DELETE FROM queue WHERE id=?", (lost,))
    parts = parts.again()
    with parts.store:
        parts.retirement.retire([outcome(n, inode.ino, 0) for n in (lost - 1, last)])
    assert parts.inode(b"f").changed > parts.inode(b"f").retired
    trio.run(lost_entries.retire, parts.store, parts.retirement.unsure)
    assert parts.inode(b"f").changed == parts.inode(b"f").retired


def test_what_was_queued_since_is_retired_as_ever(parts: Parts) -> None:
    parts.make(b"f")
    parts.store.execute("DELETE FROM queue")
    parts = parts.again()
    later = parts.make(b"later")
    with parts.store:
        parts.retirement.retire([outcome(later.changed, later.ino, 0)])
    assert later.retired == later.changed > parts.retirement.unsure


def test_what_was_cut_off_is_not_fetched_though_the_cut_is_lost(parts: Parts) -> None:
    """Home has the bytes behind the cut until the file is sent again."""
    inode = parts.uncached(b"f", 1000)
    with parts.store:
        first = parts.store.append(Op.ATTR, inode)
        cut_at = parts.store.append(Op.SIZE, inode, end=100)
        grown = parts.store.append(Op.SIZE, inode, end=1000)
        parts.store.save(inode, home_valid=100, changed=grown)
    parts.store.execute("DELETE FROM queue WHERE id=?", (cut_at,))
    parts = parts.again()
    with parts.store:
        parts.retirement.retire([outcome(first, inode.ino, 1000)])
    assert parts.inode(b"f").home_valid == 100


def test_rows_that_wait_at_home_stay_dirty(parts: Parts) -> None:
    """A change of names that home refuses is not sent with the object."""
    held, done = parts.make(b"held"), parts.make(b"done")
    (entry,) = parts.entries(done.ino)
    with parts.store:
        parts.store.execute("DELETE FROM queue WHERE id=?", (entry.id,))
        parts.store.counters.queue_length -= 1
    trio.run(lost_entries.retire, parts.store, parts.store.entries.last)
    assert held.changed > held.retired and done.changed == done.retired


def test_later_changes_stay_dirty(parts: Parts) -> None:
    one, two = parts.make(b"one"), parts.make(b"two")
    with parts.store:
        parts.store.execute("DELETE FROM queue")
    trio.run(lost_entries.retire, parts.store, one.changed)
    assert one.changed == one.retired and two.changed > two.retired


# -- beside a lost journal -----------------------------------------------------------------------


async def test_both_are_lost(office: Office, tmp_path: Path) -> None:
    async with office.fileset(tmp_path) as fileset:
        await make(fileset, b"one")
        await office.gateway.say(type="journal", id="first", reason="", begun=0)
        await office.gateway.hear("journal_known")
        await office.gateway.say(type="point", rid=1, turn=4, begun=2)
        await office.gateway.hear("point_done")
    cut(tmp_path, "DELETE FROM queue")
    async with office.fileset(tmp_path) as fileset:
        hello = await office.gateway.hear("hello")
        assert hello["journal"] == {"id": "first", "turn": 4, "seq": 0}
        await office.gateway.say(type="journal", id="second", reason="gateway.db was lost", begun=0)
        job = (await office.gateway.hear("job"))["job"]
        assert (job["missing"], job["doubt"], job["id"]) == (2, 2, 1)
        assert job["bound"] >= hello["job"]["bound"]
        await office.gateway.hear("journal_known")
        await office.gateway.say(**progress(job, "done"))
        await office.gateway.hear("job_taken")
        assert dirty(fileset) == []
        assert json.loads(fileset._store.get("journal/1")) == ["second", 0, 2]
