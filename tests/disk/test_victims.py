"""What it costs to choose and evict a file does not grow with the cache: not with the number of
files that are cached, and not with what is pending."""

from __future__ import annotations

import pytest

from afmfs.cache.content.kernel import KernelPages
from afmfs.cache.evict.evict import Evictions
from afmfs.cache.evict.room import Room
from afmfs.cache.evict.usage import Usage
from afmfs.cache.store.disk import Lacking
from afmfs.cache.store.inode import Inode
from afmfs.model.entry import Op
from tests.cache.parts import BLOCK, Parts, parts  # noqa: F401  # the fixture

VICTIMS = 60
MANY = 100_000

_NUMBERS = "WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < ?)"
_USED = f"INSERT INTO used {_NUMBERS} SELECT 1000000 + i, 1e12 FROM n"
_PENDING = f"""
INSERT INTO queue (id, op, ino, kind, start, "end", flags, queued_ns)
    {_NUMBERS} SELECT ? + i, {Op.WRITE:d}, 1000000 + i, 0, 0, 1, 0, 0 FROM n
"""


class Evicting:
    """Room over the parts, and how much SQLite does for it."""

    def __init__(self, parts: Parts) -> None:  # noqa: F811
        self.parts, self.steps = parts, 0
        usage = Usage(parts.store)
        evictions = Evictions(
            parts.store, parts.content, parts.locks, KernelPages(), usage,
            home_is_up=lambda: True, durable_point=parts.durable.make, ended=lambda run: None,
        )  # fmt: skip
        self.room = Room(
            parts.store, evictions, usage, None,  # type: ignore[arg-type]  # nothing is replayed
            allowed=lambda: True, shorten_log=parts.durable.sync_wal,
            durable_point=parts.durable.make, told=lambda event, why: None,
        )  # fmt: skip

    def add_others(self) -> None:
        """Many files that were used later, each with an entry that home refused till now."""
        with self.parts.store as store:
            store.execute(_USED, (MANY - 1,))
            store.execute(_PENDING, (MANY - 1, store.entries.take_run(MANY).start))

    async def cost(self, victims: list[Inode]) -> int:
        """Instructions of SQLite's machine for one eviction of so many files, of a block each."""

        def count() -> None:
            self.steps += 1

        before = self.steps
        self.parts.store.db.set_progress_handler(count, 1)
        for _ in victims:
            freed = await self.room._evict(Lacking(1, 1))
            assert freed == Lacking(BLOCK, 1)
        self.parts.store.db.set_progress_handler(None, 1)
        assert not any(inode.gen for inode in victims)
        return self.steps - before


async def pushed(parts: Parts, count: int, prefix: str) -> list[Inode]:  # noqa: F811
    """Files that were written here and are at home."""
    found = [parts.make(f"{prefix}{number}".encode()) for number in range(count)]
    for inode in found:
        await parts.content.write(inode, 0, b"x" * BLOCK)
    await parts.durable.make()
    for inode in found:
        parts.retire(inode)
    return found


async def test_cost(parts: Parts) -> None:  # noqa: F811
    evicting = Evicting(parts)
    alone = await evicting.cost(await pushed(parts, VICTIMS, "a"))
    evicting.add_others()
    first, *rest = await pushed(parts, VICTIMS + 1, "b")
    once = await evicting.cost([first])
    among_many = await evicting.cost(rest)
    assert among_many < alone * 1.5
    assert MANY < once < 20 * MANY  # what home refused is looked at once


async def test_too_many_to_count(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """Then the queue is searched; and what is pending stays either way."""
    monkeypatch.setattr("afmfs.cache.evict.behind.MOST", 5)
    evicting = Evicting(parts)
    refused = await pushed(parts, 20, "r")
    for inode in refused:
        await parts.content.write(inode, 0, b"new")
        last = parts.entries(inode.ino)[-1].id
        assert parts.root
        parts.namespace.set_attributes(inode, {"mode": inode.mode})
        with parts.store:
            parts.retirement.retire([(last, last + 1, inode.ino, BLOCK, 5, 9, "done", None)])
    victims = await pushed(parts, 3, "v")
    for _ in range(2):
        gone = await evicting.room._evictions.evict([one.ino for one in (*refused, *victims)])
        assert {one.ino for one in gone if one.freed} <= {inode.ino for inode in victims}
    assert all(inode.gen for inode in refused)
    for inode in refused:
        parts.retire(inode)
    gone = await evicting.room._evictions.evict([one.ino for one in refused])
    assert len([one for one in gone if one.freed]) == 20
