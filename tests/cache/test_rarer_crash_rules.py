"""Those of the cache's crash rules that guard against two things at one moment."""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing

from afmfs.cache.content.durable import Durable
from afmfs.cache.content.fetch import Fetcher
from afmfs.cache.steering import Steering
from afmfs.cache.store.inode import Inode
from afmfs.gateway.home.stamp import Stamp
from afmfs.gateway.state.journal import Journal, Outcome
from afmfs.model.entry import Op
from afmfs.model.ranges import union

from .parts import BLOCK, Killed, Parts, RecordingStore, parts  # noqa: F401  # the fixture


async def test_reclaim_numbered(
    parts: Parts,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A file that is removed while a point flushes the log is destroyed after one more flush."""
    inode = parts.make(b"f")
    await parts.content.write(inode, 0, b"x")
    await parts.durable.make()
    await parts.content.write(parts.make(b"g"), 0, b"something to make durable")
    real = RecordingStore.sync_wal

    def during(store: RecordingStore) -> None:
        real(store)
        if parts.namespace.find(1, b"f") is not None:
            trio.from_thread.run_sync(remove)

    def remove() -> None:
        assert parts.root
        parts.namespace.remove(parts.root, b"f", directory=False)
        parts.calls.append("removed here")

    monkeypatch.setattr(RecordingStore, "sync_wal", during)
    await parts.durable.make()
    assert parts.blob_length(inode) is None
    after = parts.calls[parts.calls.index("removed here") :]
    assert after.index("sync_wal") < after.index("remove")


async def shrunk(parts: Parts) -> Any:  # noqa: F811
    """A file of 100 bytes that was cut to 10 since the last point."""
    inode = parts.make(b"f")
    await parts.content.write(inode, 0, b"x" * 100)
    await parts.durable.make()
    await parts.content.resize(inode, 10, changes={})
    return inode


class Destroying:
    """`reached` once a point has come to the tail that it is to destroy; nothing after that takes
    a thread, so that who finds all tasks blocked finds them at a lock."""

    def __init__(self, parts: Parts, patch: pytest.MonkeyPatch) -> None:  # noqa: F811
        self.reached, real = trio.Event(), Durable._reclaim_tail

        async def tail(durable: Durable, ino: int, gen: int) -> None:
            durable._flush_s = 0.0
            self.reached.set()
            await real(durable, ino, gen)

        patch.setattr(Durable, "_reclaim_tail", tail)

    async def blocked(self) -> None:
        await self.reached.wait()
        await trio.testing.wait_all_tasks_blocked()


@asynccontextmanager
async def at_a_tail(parts: Parts, patch: pytest.MonkeyPatch) -> AsyncIterator[Inode]:  # noqa: F811
    """Inside, a point waits for the lock of the inode whose tail it is to destroy."""
    inode, destroying = await shrunk(parts), Destroying(parts, patch)
    async with trio.open_nursery() as nursery, parts.locks.hold(inode.ino):
        nursery.start_soon(parts.durable.make)
        await destroying.blocked()
        yield inode


async def test_reclaim_numbered_tail(
    parts: Parts,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A tail may have been queued again while its lock was waited for."""
    async with at_a_tail(parts, monkeypatch) as inode:
        with parts.store as store:
            store.reclaim(inode, 5)
        parts.calls.clear()
    assert parts.calls.index("sync_wal") < parts.calls.index("cut")


async def test_reclaim_locks(
    parts: Parts,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No tail is destroyed in the middle of an operation on the file."""
    async with at_a_tail(parts, monkeypatch) as inode:
        assert parts.blob_length(inode) == 100
    assert parts.blob_length(inode) == 10


async def test_reclaim_skips(
    parts: Parts,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What came back while the lock was waited for is valid, and not destroyed."""
    inode, destroying = await shrunk(parts), Destroying(parts, monkeypatch)
    async with trio.open_nursery() as nursery, parts.locks.hold(inode.ino):
        nursery.start_soon(parts.content.write, inode, 50, b"new")  # the lock is its before
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(parts.durable.make)
        await destroying.blocked()
    assert await parts.content.read(inode, 0, 100) == b"x" * 10 + bytes(40) + b"new"
    assert parts.store.execute("SELECT count(*) FROM reclaim").fetchone()[0] == 0


@pytest.mark.parametrize("size", [0, 10])
async def test_fetch_not_truncated(parts: Parts, size: int) -> None:  # noqa: F811
    """A fetch that was asked for before a truncation is void: the file may have grown since."""
    void: list[int] = []
    parts.content.truncated = void.append
    inode = parts.uncached(b"f", 2 * BLOCK)
    await parts.content.resize(inode, size, changes={})
    assert void == [inode.ino]


class SlowHome:
    """A link to a home that answers a fetch when it is let, with the bytes of when it was asked."""

    def __init__(self) -> None:
        self.content, self.asked, self.gate = b"o", trio.Event(), trio.Event()
        self.stamp: dict[str, int] | None = None

    async def request(self, kind: str, **fields: Any) -> tuple[dict[str, Any], list[int]]:
        data = self.content * (fields["end"] - fields["start"])
        self.asked.set()
        await self.gate.wait()
        memory = os.memfd_create("fetched")
        os.write(memory, data)
        return {"errno": 0, "length": len(data), "stamp": self.stamp}, [memory]


async def test_fetch_unchanged(parts: Parts) -> None:  # noqa: F811
    """Written, pushed, retired and evicted while a read hung: its bytes are those of before."""
    home = SlowHome()
    fetcher = Fetcher(
        parts.store, parts.content, parts.validity, home,  # type: ignore[arg-type]
        lambda: parts.durable.point, 30.0,
    )  # fmt: skip
    parts.content.truncated = fetcher.void
    inode = parts.uncached(b"f", BLOCK)
    async with trio.open_nursery() as nursery:
        fetcher.nursery = nursery
        nursery.start_soon(fetcher.ensure, inode, 0, BLOCK)
        await home.asked.wait()
        await parts.content.write(inode, 0, b"n" * BLOCK)
        parts.retire(inode)
        with parts.store:
            parts.content.uncache(inode)
            parts.store.save(inode, home_valid=BLOCK)
        home.content = b"n"
        home.gate.set()
    assert await parts.content.read(inode, 0, BLOCK) == b"n" * BLOCK


async def test_an_older_stamp_than_that_of_a_push(parts: Parts) -> None:  # noqa: F811
    """A push was retired while an answer waited for room: its stamp is the younger one."""
    home, room = SlowHome(), trio.Event()
    home.stamp = {"size": 2 * BLOCK, "mtime": 3, "ino": 9}
    fetcher = Fetcher(
        parts.store, parts.content, parts.validity, home,  # type: ignore[arg-type]
        lambda: parts.durable.point, 30.0,
    )  # fmt: skip
    inode = parts.uncached(b"f", 2 * BLOCK)
    refusals = [OSError(errno.ENOSPC, "full")]
    fill = parts.content.fill

    def full(*answer: Any) -> None:
        if refusals:
            raise refusals.pop()
        fill(*answer)

    async def make_room(size: int) -> bool:
        await parts.content.write(inode, BLOCK, b"n" * BLOCK)
        parts.retire(inode)
        room.set()
        return True

    parts.content.fill = full  # type: ignore[method-assign]
    fetcher.make_room = make_room
    home.gate.set()
    async with trio.open_nursery() as nursery:
        fetcher.nursery = nursery
        await fetcher.ensure(inode, 0, BLOCK)
    assert room.is_set()
    assert (inode.home_mtime, inode.home_ino) == (5, 9)  # as `retire` has it
    assert await parts.content.read(inode, 0, BLOCK) == b"o" * BLOCK


@pytest.mark.parametrize("nth", [1, 2, 3])
async def test_recovery_is_one(
    parts: Parts,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    nth: int,
) -> None:
    """A crash of the recovery itself: the in-place entry is not retired before it is known that
    the blocks beside it may have changed, and are to be sent again."""
    inode = parts.uncached(b"f", 3 * BLOCK)
    parts.fetched(inode, 0, b"h" * 3 * BLOCK)
    await parts.content.write(inode, 0, b"y")
    await parts.durable.make()
    (entry,) = parts.entries(inode.ino, Op.WRITE)
    journal = Journal(parts.place)
    journal.land([Outcome(entry.id, inode.ino, Stamp(3 * BLOCK, 5, 9))])
    journal.close()
    real, commits = RecordingStore.__exit__, 0

    def killed(store: RecordingStore, kind: Any, *rest: Any) -> None:
        nonlocal commits
        commits += 1
        real(store, kind, *rest)
        if commits == nth:
            raise Killed

    with monkeypatch.context() as patch:
        between = parts.again(lost_writes=True, recover=False)
        patch.setattr(RecordingStore, "__exit__", killed)
        with pytest.raises(Killed):
            between.recover()
    after = between.again()
    valid = after.validity.valid(after.inode(b"f"), 0, 3 * BLOCK)
    assert valid == ((0, 3 * BLOCK),)
    assert union((e.start, e.end) for e in after.entries(inode.ino)) == valid


async def test_numbers_unique_recovered(parts: Parts) -> None:  # noqa: F811
    """A file that was unlinked while open, and is not whole, is removed at home by the next run:
    by an entry with a new number."""
    inode = parts.uncached(b"f", BLOCK)
    parts.opened.add(inode.ino)
    assert parts.root
    parts.namespace.remove(parts.root, b"f", directory=False)
    (rename,) = parts.entries(inode.ino)
    assert rename.op is Op.RENAME
    after = parts.again()
    kept, remove = after.entries(inode.ino)
    assert kept == rename and remove.op is Op.REMOVE and remove.id > rename.id


def test_forget_after_durable() -> None:
    """What was retired while a point was on its way is forgotten after the next one."""
    told: list[int] = []
    desk = SimpleNamespace(
        _retirement=SimpleNamespace(seq=3),
        _forgettable=0,
        _link=SimpleNamespace(post=lambda message: told.append(message["seq"])),
        jobs=SimpleNamespace(point_begins=lambda: None, point_made=lambda: None),
    )
    Steering._after_point(desk)  # type: ignore[arg-type]  # of a point that began before
    assert told == []
    Steering._before_point(desk)  # type: ignore[arg-type]
    desk._retirement.seq = 8
    Steering._after_point(desk)  # type: ignore[arg-type]
    assert told == [3]
