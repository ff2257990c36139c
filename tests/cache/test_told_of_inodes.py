"""Outcomes that tell of inodes: what a resync found at home, and did there."""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from afmfs.cache.store.inode import Inode
from afmfs.gateway.state.journal import Journal
from afmfs.model.entry import Op
from afmfs.model.outcome import (
    ADOPTED,
    DONE,
    LOST,
    NULLED,
    RESYNCED,
    UNLINKED,
    UNREPRESENTABLE,
)

from .parts import BLOCK, Parts, parts  # noqa: F401  # the fixture

NEWER = (4 * BLOCK, 77, 12)
"""A version at home: size, mtime, inode number."""


class Gateway:
    """gateway.db, written as the gateway writes it."""

    def __init__(self, place: Path) -> None:
        Journal(place).close()
        self.db = sqlite3.connect(place / "gateway.db", isolation_level=None)
        self.seq = 0

    def says(
        self,
        ino: int,
        result: str,
        stamp: tuple[int, int, int | None] | None = None,
        *,
        entry: int = 0,
        nulled: tuple[tuple[int, int], ...] = (),
        code: int | None = None,
    ) -> None:
        self.seq += 1
        self.db.execute("BEGIN")
        self.db.execute(
            "INSERT INTO outcome VALUES (?,?,?,?,?,?,?,?)",
            (self.seq, entry, ino, *(stamp or (None, None, None)), result, code),
        )
        self.db.executemany(
            "INSERT OR REPLACE INTO nulled VALUES (?,?,?,3,8)", [(ino, a, b) for a, b in nulled]
        )
        self.db.execute("COMMIT")


@pytest.fixture
def gateway(parts: Parts) -> Iterator[Gateway]:  # noqa: F811
    made = Gateway(parts.place)
    yield made
    made.db.close()


def stamp_of(inode: Inode) -> tuple[int | None, int | None, int | None]:
    return inode.home_size, inode.home_mtime, inode.home_ino


def lost(parts: Parts) -> list[tuple[int, int]]:  # noqa: F811
    return parts.store.execute("SELECT ino, job FROM lost ORDER BY ino").fetchall()


def cached(parts: Parts, *inodes: Inode) -> int:  # noqa: F811
    return sum(parts.validity.cached_blocks(inode)[1] for inode in inodes)


# -- the version at home -------------------------------------------------------------------------


async def test_resynced_sets_the_stamp_and_retires_nothing(
    parts: Parts,  # noqa: F811
    gateway: Gateway,
) -> None:
    inode = parts.make(b"f")
    await parts.content.write(inode, 0, b"x" * 10)
    pending = inode.retired, len(parts.entries(inode.ino))
    gateway.says(inode.ino, RESYNCED, (10, 77, 12))
    await parts.retirement.take_over()
    assert stamp_of(inode) == (10, 77, 12)
    assert inode.home_valid == 10
    assert (inode.retired, len(parts.entries(inode.ino))) == pending


async def test_a_pending_size_bounds_what_a_resync_says(
    parts: Parts,  # noqa: F811
    gateway: Gateway,
) -> None:
    inode = parts.uncached(b"f", 4 * BLOCK)
    await parts.content.resize(inode, 100, changes={})
    await parts.content.resize(inode, 4 * BLOCK, changes={})
    gateway.says(inode.ino, RESYNCED, NEWER)
    await parts.retirement.take_over()
    assert inode.home_valid == 100


async def test_the_later_of_two_outcomes_holds(
    parts: Parts,  # noqa: F811
    gateway: Gateway,
) -> None:
    """Those of entries and those of inodes mix in one step."""
    one, two = parts.make(b"one"), parts.make(b"two")
    gateway.says(one.ino, RESYNCED, (0, 1, 1))
    gateway.says(one.ino, DONE, (0, 2, 1), entry=one.changed)
    gateway.says(two.ino, DONE, (0, 1, 2), entry=two.changed)
    gateway.says(two.ino, RESYNCED, (0, 2, 2))
    await parts.retirement.take_over()
    assert (one.home_mtime, two.home_mtime) == (2, 2)


async def test_what_was_taken_over_before_a_kill_is_not_told_again(
    parts: Parts,  # noqa: F811
    gateway: Gateway,
) -> None:
    """The gateway keeps an outcome until its retirement is durable: read again after a kill, it
    would set a version that home held before our own last push."""
    inode = parts.make(b"f")
    gateway.says(inode.ino, RESYNCED, (0, 1, 1))
    await parts.retirement.take_over()
    gateway.says(inode.ino, DONE, (0, 2, 1), entry=inode.changed)
    await parts.retirement.take_over()
    after = parts.again()
    assert after.inode(b"f").home_mtime == 2


async def test_another_journal_begins_anew(parts: Parts) -> None:  # noqa: F811
    """After a failover, or where gateway.db was lost, numbers of outcomes start over."""
    inode, other = parts.make(b"f"), parts.place / "other"
    first, second = Gateway(parts.place), Gateway(other)
    for number in (1, 2):
        first.says(inode.ino, RESYNCED, (0, number, 1))
    await parts.retirement.take_over()
    second.says(inode.ino, RESYNCED, (0, 9, 1))
    for gateway in (first, second):
        gateway.db.close()
    (other / "gateway.db").replace(parts.place / "gateway.db")
    (parts.place / "gateway.db-wal").unlink(missing_ok=True)
    (parts.place / "gateway.db-shm").unlink(missing_ok=True)
    assert parts.again().inode(b"f").home_mtime == 9


async def test_an_exchange_is_retired_for_both(parts: Parts, gateway: Gateway) -> None:  # noqa: F811
    one, two = parts.make(b"one"), parts.make(b"two")
    assert parts.root
    parts.namespace.rename(parts.root, b"one", parts.root, b"two", 2)
    for entry in [*parts.entries(one.ino), *parts.entries(two.ino)]:
        gateway.says(entry.ino, DONE, entry=entry.id)
    await parts.retirement.take_over()
    assert parts.store.pending([one, two]) == set()


async def test_what_was_overtaken_is_pending(parts: Parts, gateway: Gateway) -> None:  # noqa: F811
    """Home refused a write for now; the rename that followed did not depend on it."""
    inode = parts.make(b"f")
    parts.retire(inode)
    await parts.content.write(inode, 0, b"x")
    write = inode.changed
    assert parts.root
    parts.namespace.rename(parts.root, b"f", parts.root, b"g", 0)
    gateway.says(inode.ino, DONE, entry=inode.changed)
    await parts.retirement.take_over()
    assert inode.changed == inode.retired > write
    assert parts.store.pending([inode]) == {inode.ino}


async def test_a_name_that_home_can_not_have(parts: Parts, gateway: Gateway) -> None:  # noqa: F811
    """It is told after what became of the object, which home has under another name."""
    inode = parts.make(b"f")
    for _ in range(2):
        gateway.says(inode.ino, RESYNCED, (0, 1, 1))
        gateway.says(inode.ino, UNLINKED, code=errno.EPERM)
        await parts.retirement.take_over()
        assert parts.store.execute("SELECT ino, op, errno FROM unrepresentable").fetchall() == [
            (inode.ino, Op.LINK, errno.EPERM)
        ]
        assert stamp_of(inode) == (0, 1, 1)


async def test_what_home_can_not_hold(parts: Parts, gateway: Gateway) -> None:  # noqa: F811
    """A job says it, of the object or of its attributes; another one may have done it."""
    inode, other = parts.make(b"f"), parts.make(b"g")
    gateway.says(inode.ino, UNREPRESENTABLE, code=errno.EPERM)
    gateway.says(other.ino, RESYNCED, (0, 1, 1), code=errno.EINVAL)
    await parts.retirement.take_over()
    assert parts.store.execute("SELECT ino, op, errno FROM unrepresentable").fetchall() == [
        (inode.ino, Op.MAKE, errno.EPERM),
        (other.ino, Op.ATTR, errno.EINVAL),
    ]
    assert inode.home_mtime is None
    gateway.says(inode.ino, RESYNCED, (0, 1, 1))
    await parts.retirement.take_over()
    assert parts.store.execute("SELECT ino FROM unrepresentable").fetchall() == [(other.ino,)]


# -- nulled --------------------------------------------------------------------------------------


async def test_what_was_nulled_is_fetched_again(
    parts: Parts,  # noqa: F811
    gateway: Gateway,
) -> None:
    """A read has brought home's old bytes while the gateway made them null."""
    inode = parts.uncached(b"f", 4 * BLOCK)
    parts.fetched(inode, 0, b"h" * 4 * BLOCK)
    assert inode.whole
    gateway.says(inode.ino, NULLED, NEWER, nulled=((BLOCK, 2 * BLOCK), (3 * BLOCK, 4 * BLOCK)))
    await parts.retirement.take_over()
    assert parts.validity.missing(inode, 0, 4 * BLOCK) == (
        (BLOCK, 2 * BLOCK),
        (3 * BLOCK, 4 * BLOCK),
    )
    assert parts.store.counters.cached_bytes == cached(parts, inode) == 2 * BLOCK
    assert stamp_of(inode) == NEWER
    assert parts.forgotten == [inode.ino]


async def test_nulls_that_are_fetched_cover_the_old_bytes(
    parts: Parts,  # noqa: F811
    gateway: Gateway,
) -> None:
    """Home's holes are not written into the blob, but what is left in it from before has to go."""
    inode = parts.uncached(b"f", 4 * BLOCK)
    parts.fetched(inode, 0, b"h" * 4 * BLOCK)
    gateway.says(inode.ino, NULLED, NEWER, nulled=((BLOCK, 3 * BLOCK),))
    await parts.retirement.take_over()
    parts.fetched(inode, BLOCK, bytes(2 * BLOCK))
    found = await parts.content.read(inode, 0, 4 * BLOCK)
    assert found == b"h" * BLOCK + bytes(2 * BLOCK) + b"h" * BLOCK


async def test_what_was_written_meanwhile_is_not_nulled(
    parts: Parts,  # noqa: F811
    gateway: Gateway,
) -> None:
    """A pending entry covers it: it will be pushed, and is the only copy."""
    inode = parts.uncached(b"f", 4 * BLOCK)
    parts.fetched(inode, 0, b"h" * BLOCK)
    await parts.content.write(inode, 100, b"mine")
    await parts.content.write(inode, BLOCK, b"m" * BLOCK)
    gateway.says(inode.ino, NULLED, NEWER, nulled=((0, 4 * BLOCK),))
    await parts.retirement.take_over()
    assert parts.validity.valid(inode, 0, 4 * BLOCK) == ((100, 104), (BLOCK, 2 * BLOCK))
    assert parts.store.counters.cached_bytes == cached(parts, inode) == BLOCK


async def test_bytes_beyond_home_are_not_nulled(
    parts: Parts,  # noqa: F811
    gateway: Gateway,
) -> None:
    """They were made here by a size, and can't be fetched."""
    inode = parts.uncached(b"f", BLOCK)
    parts.fetched(inode, 0, b"h" * BLOCK)
    await parts.content.resize(inode, 10, changes={})
    await parts.durable.make()
    await parts.content.resize(inode, BLOCK, changes={})
    gateway.says(inode.ino, NULLED, (BLOCK, 77, 12), nulled=((0, BLOCK),))
    await parts.retirement.take_over()
    assert parts.validity.valid(inode, 0, BLOCK) == ((10, BLOCK),)


async def test_a_fetch_under_way_is_void_once_its_bytes_are_null(
    parts: Parts,  # noqa: F811
    gateway: Gateway,
) -> None:
    inode, void = parts.uncached(b"f", 2 * BLOCK), []
    parts.content.truncated = void.append
    parts.fetched(inode, 0, b"h" * BLOCK)
    gateway.says(inode.ino, NULLED, (2 * BLOCK, 77, 12), nulled=((0, 2 * BLOCK),))
    await parts.retirement.take_over()
    assert void == [inode.ino]


# -- adopted -------------------------------------------------------------------------------------


async def test_adopted(parts: Parts, gateway: Gateway) -> None:  # noqa: F811
    """Nothing was cached: home's new version is ours."""
    inode = parts.uncached(b"f", 3 * BLOCK)
    gateway.says(inode.ino, ADOPTED, NEWER)
    await parts.retirement.take_over()
    assert (inode.size, inode.mtime, inode.home_valid) == (4 * BLOCK, 77, 4 * BLOCK)
    assert stamp_of(inode) == NEWER
    assert not inode.whole
    assert inode.ctime > 10**18
    assert parts.validity.missing(inode, 0, 9 * BLOCK) == ((0, 4 * BLOCK),)
    assert parts.store.counters.cached_bytes == 0
    assert parts.forgotten == [inode.ino]
    assert parts.again().inode(b"f").size == 4 * BLOCK


async def test_adopted_empty(parts: Parts, gateway: Gateway) -> None:  # noqa: F811
    inode = parts.uncached(b"f", 3 * BLOCK)
    gateway.says(inode.ino, ADOPTED, (0, 77, 12))
    await parts.retirement.take_over()
    assert (inode.size, inode.whole, inode.home_valid) == (0, True, 0)
    assert await parts.content.read(inode, 0, 10) == b""


async def test_adopted_over_an_empty_file(parts: Parts, gateway: Gateway) -> None:  # noqa: F811
    inode = parts.uncached(b"f", 0)
    with parts.store:
        parts.store.save(inode, whole=True)
    gateway.says(inode.ino, ADOPTED, NEWER)
    await parts.retirement.take_over()
    assert parts.validity.missing(inode, 0, inode.size) == ((0, 4 * BLOCK),)


async def test_what_is_written_meanwhile_is_not_adopted_over(
    parts: Parts,  # noqa: F811
    gateway: Gateway,
) -> None:
    inode = parts.uncached(b"f", 3 * BLOCK)
    await parts.content.write(inode, 0, b"mine")
    gateway.says(inode.ino, ADOPTED, NEWER)
    await parts.retirement.take_over()
    assert (inode.size, inode.home_valid) == (3 * BLOCK, 3 * BLOCK)
    assert stamp_of(inode) == NEWER
    assert parts.validity.valid(inode, 0, inode.size) == ((0, 4),)


async def test_attributes_set_meanwhile_are_not_adopted_over(
    parts: Parts,  # noqa: F811
    gateway: Gateway,
) -> None:
    inode = parts.uncached(b"f", 3 * BLOCK)
    parts.namespace.set_attributes(inode, {"mtime": 5})
    gateway.says(inode.ino, ADOPTED, NEWER)
    await parts.retirement.take_over()
    assert (inode.size, inode.mtime) == (NEWER[0], 5)
    assert stamp_of(inode) == NEWER


async def test_a_name_given_meanwhile_is_nothing_of_a_version(
    parts: Parts,  # noqa: F811
    gateway: Gateway,
) -> None:
    """It is pending, but sends no times: the mtime that home has is the file's."""
    inode = parts.uncached(b"f", 3 * BLOCK)
    parts.namespace.link(inode, parts.root, b"g")
    gateway.says(inode.ino, ADOPTED, NEWER)
    await parts.retirement.take_over()
    assert (inode.size, inode.mtime) == NEWER[:2]


async def test_a_size_set_meanwhile_is_not_adopted_over(
    parts: Parts,  # noqa: F811
    gateway: Gateway,
) -> None:
    inode = parts.uncached(b"f", 3 * BLOCK)
    await parts.content.resize(inode, 5, changes={})
    gateway.says(inode.ino, ADOPTED, NEWER)
    await parts.retirement.take_over()
    assert inode.size == 5
    assert stamp_of(inode) == NEWER


async def test_versions_are_not_mixed_by_an_adoption(
    parts: Parts,  # noqa: F811
    gateway: Gateway,
) -> None:
    """A read has brought bytes of a version that was gone when the gateway looked."""
    inode = parts.uncached(b"f", 4 * BLOCK)
    parts.fetched(inode, 0, b"h" * BLOCK)
    old = inode.gen
    gateway.says(inode.ino, ADOPTED, NEWER)
    await parts.retirement.take_over()
    assert parts.validity.missing(inode, 0, 4 * BLOCK) == ((0, 4 * BLOCK),)
    assert inode.gen != old
    assert parts.store.counters.cached_bytes == 0
    assert inode.mtime == 77


async def test_what_was_fetched_of_the_adopted_version_stays(
    parts: Parts,  # noqa: F811
    gateway: Gateway,
) -> None:
    inode = parts.uncached(b"f", 4 * BLOCK)
    parts.fetched(inode, 0, b"h" * BLOCK)
    with parts.store:  # as the fetch says
        parts.store.save(inode, home_size=4 * BLOCK, home_mtime=77, home_ino=12)
    gateway.says(inode.ino, ADOPTED, NEWER)
    await parts.retirement.take_over()
    assert parts.validity.valid(inode, 0, 4 * BLOCK) == ((0, BLOCK),)
    assert parts.forgotten == []


async def test_the_blob_of_an_adopted_file_waits_for_a_point(
    parts: Parts,  # noqa: F811
    gateway: Gateway,
) -> None:
    """Power loss brings the old row back: it must find its bytes (destroy-waits)."""
    inode = parts.uncached(b"f", 4 * BLOCK)
    parts.fetched(inode, 0, b"h" * BLOCK)
    gateway.says(inode.ino, ADOPTED, NEWER)
    await parts.retirement.take_over()
    blobs = list((parts.place / "blobs").glob("*/*"))
    assert len(blobs) == 1
    await parts.durable.make()
    assert not blobs[0].exists()


# -- lost ----------------------------------------------------------------------------------------


async def test_lost_until_home_has_it(parts: Parts, gateway: Gateway) -> None:  # noqa: F811
    inode = parts.uncached(b"f", BLOCK)
    stamp = stamp_of(inode)
    with parts.store:
        parts.store.put("job_number", 3)
    gateway.says(inode.ino, LOST)
    await parts.retirement.take_over()
    assert lost(parts) == [(inode.ino, 3)]
    assert stamp_of(inode) == stamp
    gateway.says(inode.ino, RESYNCED, (BLOCK, 77, 12))
    await parts.retirement.take_over()
    assert lost(parts) == []


async def test_a_removed_file_stays_lost_for_its_removal(
    parts: Parts,  # noqa: F811
    gateway: Gateway,
) -> None:
    """The gateway is to know that home need not have it; it is counted no longer."""
    inode = parts.uncached(b"f", BLOCK)
    gateway.says(inode.ino, LOST)
    await parts.retirement.take_over()
    assert parts.root
    parts.namespace.remove(parts.root, b"f", directory=False)
    assert [ino for ino, _ in lost(parts)] == [inode.ino]
    counted = "SELECT count(*) FROM lost JOIN inode USING (ino)"
    assert parts.store.execute(counted).fetchone() == (0,)


async def test_inodes_that_are_gone_are_passed_over(
    parts: Parts,  # noqa: F811
    gateway: Gateway,
) -> None:
    for result in (RESYNCED, NULLED, ADOPTED, LOST):
        gateway.says(4711, result, NEWER)
    await parts.retirement.take_over()
    assert lost(parts) == []
    assert parts.retirement.seq == 4


async def test_entries_of_a_removed_file_are_counted(
    parts: Parts,  # noqa: F811
    gateway: Gateway,
) -> None:
    inode = parts.make(b"f")
    await parts.content.write(inode, 0, b"x" * 10)
    for entry in parts.entries(inode.ino):
        gateway.says(inode.ino, DONE, (10, 5, 9) if entry.op is Op.WRITE else None, entry=entry.id)
    await parts.retirement.take_over()
    assert parts.store.counters.queue_length == parts.store.counters.bytes_pending == 0
    assert stamp_of(inode) == (10, 5, 9)
