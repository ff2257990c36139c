"""Which gateway.db the cache works with, and what is done when it is another; the gateway says what
the test has it say."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio

from afmfs.cache.fileset import Fileset
from afmfs.cache.home import kept
from afmfs.cache.home.known_journal import Remembered, remember, remembered
from afmfs.gateway.home.stamp import Stamp
from afmfs.gateway.protocol import Message
from afmfs.gateway.state.journal import Journal, Outcome
from afmfs.gateway.state.journal_file import Known
from afmfs.model.entry import ROOT
from tests.cache.parts import Parts, parts
from tests.harness.fake_gateway import FakeGateway, Office, open_office

__all__ = ["parts"]

REASON = "gateway.db was lost"


@pytest.fixture
async def office() -> AsyncIterator[Office]:
    async with open_office() as office:
        yield office


def news(name: str, reason: str = REASON, begun: int = 0) -> Message:
    return {"type": "journal", "id": name, "reason": reason, "begun": begun}


async def begin(gateway: FakeGateway, turn: int, begun: int) -> None:
    """A batch is about to be executed."""
    count = len(gateway.all("point_done")) + 1
    await gateway.say(type="point", rid=count, turn=turn, begun=begun)
    assert (await gateway.hear("point_done", count))["ok"]


async def work(office: Office, fileset: Fileset, name: str = "first") -> int:
    """Something is queued, and perhaps executed, with a journal that is known; its last entry."""
    inode = await fileset.make(ROOT, b"f", mode=0o100644, uid=0, gid=0)
    await office.gateway.say(**news(name, ""))
    await office.gateway.hear("journal_known")
    await begin(office.gateway, 5, inode.changed)
    return inode.changed


def names(fileset: Fileset) -> list[str]:
    return [event["name"] for event in fileset.events() if event["name"][:6] != "afmHom"]


async def test_the_first_one_is_no_loss(office: Office, tmp_path: Path) -> None:
    async with office.fileset(tmp_path) as fileset:
        gateway = office.gateway
        assert (await gateway.hear("hello"))["journal"] == {"id": "", "turn": 0, "seq": 0}
        await begin(gateway, 3, 9)  # of one that does not say which it is
        assert remembered(fileset._store, 1) == Remembered()
        await gateway.say(**news("first", "", begun=7))
        assert await gateway.hear("journal_known") == {"type": "journal_known", "id": "first"}
        assert remembered(fileset._store, 1) == ("first", 0, 7)
        assert names(fileset) == [] and not gateway.all("job")


async def test_what_is_begun_is_remembered_with_the_point(
    office: Office, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With it, and not after it: what is executed then must be known to be in doubt."""
    async with office.fileset(tmp_path) as fileset:
        await work(office, fileset)
        seen, make = [], fileset._durable.make

        async def record() -> int:
            seen.append(remembered(fileset._store, 1))
            return await make()

        monkeypatch.setattr(fileset._durable, "make", record)
        await begin(office.gateway, 9, 5000)
        await begin(office.gateway, 12, 4000)  # older entries: home had refused them
        assert seen == [("first", 9, 5000), ("first", 12, 5000)]
    async with office.fileset(tmp_path) as fileset:
        hello = await office.gateway.hear("hello")
        assert hello["journal"] == {"id": "first", "turn": 12, "seq": 0}


async def test_another_one_is_a_loss(
    office: Office, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with office.fileset(tmp_path) as fileset:
        gateway = office.gateway
        begun = await work(office, fileset)
        await gateway.say(type="inconsistent", path="g", reason="was changed")
        await gateway.hear("run")
        synced, sync_wal = [], fileset.jobs._sync_wal

        async def record() -> None:
            if not synced:
                assert not gateway.all("job") and len(gateway.all("journal_known")) == 1
            synced.append(remembered(fileset._store, 1).id)
            await sync_wal()

        monkeypatch.setattr(fileset.jobs, "_sync_wal", record)
        fileset._retirement.seq = fileset._forgettable = 77  # of the one that is lost
        await gateway.say(**news("second"))
        assert (await gateway.hear("journal_known", 2))["id"] == "second"
        assert synced[0] == "second", "durable before the gateway goes on"
        (told,) = gateway.all("job")
        assert gateway.heard.index(told) < gateway.heard.index(gateway.all("journal_known")[1])
        job = told["job"]
        assert (job["kind"], job["bound"], job["doubt"]) == ("recovery", begun, begun)
        assert (job["reason"], job.get("missing")) == (REASON, None)
        assert (fileset._retirement.seq, fileset._forgettable) == (0, 0)
        assert fileset.status().state == "Recovery"
        done = {"type": "progress", "id": job["id"], "phase": "done", "left": 0}
        await gateway.say(**done)
        await gateway.hear("job_taken")
        assert fileset.needs_resync == "g: was changed", "that is a resync's to repair"
        assert names(fileset) == [
            "afmNeedsResync", "afmJournalLost", "afmRecoveryStart", "afmRecoveryFail",
        ]  # fmt: skip


async def test_a_job_that_is_under_way_sees_to_it(office: Office, tmp_path: Path) -> None:
    async with office.fileset(tmp_path) as fileset:
        fileset.touch()
        await fileset.resync(keep_uncached=True)
        job = (await office.gateway.hear("job"))["job"]
        begun = await work(office, fileset)
        assert begun > job["bound"]  # it waits, and the queue has gone on beside it
        office.gateway.kill()
        await office.another(1)
        assert (await office.gateway.hear("hello"))["job"] == job
        await office.gateway.say(**news("second"))
        await office.gateway.hear("journal_known")
        now = (await office.gateway.hear("job"))["job"]
        assert now == job | {"bound": begun, "doubt": begun}
        assert "afmRecoveryStart" not in names(fileset)


async def test_an_unclean_stop_and_a_loss_have_one_end(office: Office, tmp_path: Path) -> None:
    async with office.fileset(tmp_path) as fileset:
        await work(office, fileset)
    db = sqlite3.connect(tmp_path / "cache/cache.db")
    with db:
        db.execute("UPDATE fileset SET value=0 WHERE key='clean'")
    db.close()
    async with office.fileset(tmp_path) as fileset:
        gateway = office.gateway
        assert fileset.status().state == "Recovery"
        await gateway.say(**news("second"))
        job = (await gateway.hear("job"))["job"]
        await gateway.say(
            type="status", num_exec=0, executing=0, requeued=0, settled=True, in_doubt=0
        )
        assert fileset.status().state == "Recovery"
        await gateway.say(type="progress", id=job["id"], phase="done", left=0)
        await gateway.hear("job_taken")
        assert names(fileset).count("afmRecoveryEnd") == 1
        assert fileset.status().state == "Dirty"


async def test_a_full_disk_is_waited_for(
    office: Office, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept, "RETRY_S", 0.01)
    async with office.fileset(tmp_path) as fileset:
        await work(office, fileset)
        errors: list[Exception] = [
            sqlite3.OperationalError("database or disk is full"), OSError(28, "No space")
        ]  # fmt: skip
        put, sync = fileset.jobs.put_doubt, fileset.jobs._sync_wal

        def put_doubt(*args: Any) -> Any:
            if len(errors) == 2:
                raise errors.pop(0)
            return put(*args)

        async def sync_wal() -> None:
            if errors:
                raise errors.pop(0)
            await sync()

        monkeypatch.setattr(fileset.jobs, "put_doubt", put_doubt)
        monkeypatch.setattr(fileset.jobs, "_sync_wal", sync_wal)
        await office.gateway.say(**news("second"))
        await office.gateway.hear("journal_known", 2)
        assert not errors
        assert names(fileset) == ["afmJournalLost", "afmRecoveryStart"]
        assert (await office.gateway.hear("job"))["job"]["id"] == 1
        assert not fileset.recovering


async def test_another_home_has_another_journal(office: Office, tmp_path: Path) -> None:
    """The first one there is no loss."""
    async with office.fileset(tmp_path) as fileset:
        await work(office, fileset)
        with fileset._store as store:
            store.put("home", 2)
    async with office.fileset(tmp_path) as fileset:
        assert (await office.gateway.hear("hello"))["journal"]["id"] == ""
        await office.gateway.say(**news("of the second home", ""))
        await office.gateway.hear("journal_known")
        assert remembered(fileset._store, 1).id == "first"
        assert "afmJournalLost" not in names(fileset)


# -- outcomes ------------------------------------------------------------------------------------


def plant(place: Path, outcomes: list[Outcome]) -> Known:
    """A journal where the cache reads it."""
    journal = Journal(place, Known(""))
    seq = journal.land(outcomes)
    known = Known(journal.id, journal.turn, seq)
    journal.close()
    return known


def know(parts: Parts, name: str) -> None:
    with parts.store as store:
        remember(store, parts.place.name, Remembered(name))


def pending(parts: Parts) -> int:
    return parts.store.counters.queue_length


def test_outcomes_are_taken_over_from_the_known_one(parts: Parts) -> None:
    inode = parts.make(b"f")
    known = plant(parts.place, [Outcome(inode.changed, inode.ino, Stamp(0, 7, 8))])
    know(parts, known.id)
    parts = parts.again()
    assert pending(parts) == 0 and parts.inode(b"f").home_mtime == 7
    assert parts.retirement.told(known.id) == known.seq
    assert parts.retirement.told("another") == 0


def test_not_from_another(parts: Parts) -> None:
    """Its entries are not ours: a change would never come to home."""
    inode = parts.make(b"f")
    plant(parts.place, [Outcome(inode.changed, inode.ino)])
    know(parts, "ours")
    parts = parts.again()
    assert pending(parts) == 1


def test_not_from_one_that_is_damaged(parts: Parts) -> None:
    inode = parts.make(b"f")
    known = plant(parts.place, [Outcome(inode.changed, inode.ino)])
    know(parts, known.id)
    path = parts.place / "gateway.db"
    db = sqlite3.connect(path)
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    (page,) = db.execute("SELECT rootpage FROM sqlite_master WHERE name='trash_job'").fetchone()
    db.close()
    with path.open("r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(bytes(4096))
    parts = parts.again()
    assert pending(parts) == 1, "who knows what else is wrong"


def test_not_from_what_is_no_database(parts: Parts) -> None:
    parts.make(b"f")
    (parts.place / "gateway.db").write_bytes(b"no database" * 1000)
    parts = parts.again()
    assert pending(parts) == 1


def test_outcomes_of_a_new_one_are_numbered_anew(parts: Parts) -> None:
    one, two = parts.make(b"one"), parts.make(b"two")
    first = plant(parts.place, [Outcome(one.changed, one.ino), Outcome(0, 5), Outcome(0, 5)])
    know(parts, first.id)
    parts = parts.again()
    assert parts.retirement.seq == 3
    for file in parts.place.glob("gateway.db*"):
        file.unlink()
    second = plant(
        parts.place, [Outcome(two.changed, two.ino), Outcome(0, two.ino, Stamp(0, 7, 8))]
    )
    know(parts, second.id)
    trio.run(parts.retirement.follow, parts.place / "gateway.db")
    parts.retirement.step()
    assert pending(parts) == 0 and parts.inode(b"two").home_mtime == 7
