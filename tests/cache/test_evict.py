"""Evicting: what is freed, what never is, and what a crash finds."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio
import trio.testing

from afmfs.cache.content.kernel import KernelPages
from afmfs.cache.evict.evict import Evicted, Evictions, Run
from afmfs.cache.evict.usage import Usage
from afmfs.cache.store.inode import Inode
from afmfs.errors import Refused
from afmfs.model.entry import Op
from afmfs.model.selection import Order, Selection

from .parts import BLOCK, Killed, Parts, parts  # noqa: F401  # the fixture


@dataclass
class Told:
    """What the kernel was told to forget."""

    inos: list[int] = field(default_factory=list)

    def invalidate_inode(self, ino: int) -> None:
        self.inos.append(ino)

    def extend(self, ino: int, offset: int, data: bytes) -> None:
        raise AssertionError("an eviction makes no file longer")

    def invalidate_entry(self, parent: int, name: bytes) -> None:
        raise AssertionError


class Evicting:
    """Evictions over the parts."""

    def __init__(self, parts: Parts) -> None:  # noqa: F811
        self.parts, self.up, self.ended = parts, True, list[Run]()
        self.told, self.kernel, self.usage = Told(), KernelPages(), Usage(parts.store)
        self.kernel.invalidator = self.told
        self.evictions = Evictions(
            parts.store, parts.content, parts.locks, self.kernel, self.usage,
            home_is_up=lambda: self.up, durable_point=parts.durable.make, ended=self.ended.append,
        )  # fmt: skip

    async def evict(self, *inodes: Inode) -> list[Evicted]:
        return await self.evictions.evict([inode.ino for inode in inodes])

    async def down_to(self, limit: int, selection: Selection | None = None) -> Run:
        try:
            async with trio.open_nursery() as nursery:
                self.evictions.nursery = nursery
                return self.evictions.start(limit, selection or Selection())
        except ExceptionGroup as group:
            raise group.exceptions[0] from None


@pytest.fixture
def evicting(parts: Parts) -> Iterator[Evicting]:  # noqa: F811
    yield Evicting(parts)


def blobs(parts: Parts) -> list[Path]:  # noqa: F811
    return list((parts.place / "blobs").glob("*/*"))


def fetched(parts: Parts, name: bytes = b"f", blocks: int = 4) -> Inode:  # noqa: F811
    inode = parts.uncached(name, blocks * BLOCK)
    parts.fetched(inode, 0, b"h" * blocks * BLOCK)
    return inode


async def pushed(parts: Parts, name: bytes = b"f", data: bytes = b"x" * 10) -> Inode:  # noqa: F811
    """A file that was written here and is at home."""
    inode = parts.make(name)
    await parts.content.write(inode, 0, data)
    await parts.durable.make()
    parts.retire(inode)
    return inode


# -- what is freed -------------------------------------------------------------------------------


async def test_a_whole_file(parts: Parts, evicting: Evicting) -> None:  # noqa: F811
    inode = fetched(parts)
    assert await evicting.evict(inode) == [Evicted(inode.ino, 4 * BLOCK)]
    assert (inode.size, inode.gen, inode.whole) == (4 * BLOCK, 0, False)
    assert parts.validity.missing(inode, 0, 9 * BLOCK) == ((0, 4 * BLOCK),)
    assert parts.store.counters.cached_bytes == 0
    assert parts.store.execute("SELECT count(*) FROM fresh").fetchone() == (0,)


async def test_a_file_made_here(parts: Parts, evicting: Evicting) -> None:  # noqa: F811
    inode = await pushed(parts)
    assert await evicting.evict(inode) == [Evicted(inode.ino, 10)]
    assert parts.validity.missing(inode, 0, 10) == ((0, 10),)


async def test_a_partial_file(parts: Parts, evicting: Evicting) -> None:  # noqa: F811
    inode = parts.uncached(b"f", 4 * BLOCK)
    parts.fetched(inode, BLOCK, b"h" * BLOCK)
    assert await evicting.evict(inode) == [Evicted(inode.ino, BLOCK)]
    assert parts.validity.valid(inode, 0, 4 * BLOCK) == ()
    for table in ("blockmap", "span"):
        assert parts.store.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)


async def test_what_is_read_again_is_what_home_has(parts: Parts, evicting: Evicting) -> None:  # noqa: F811
    """Also a hole, which is not written into the blob."""
    inode = fetched(parts)
    await evicting.evict(inode)
    parts.fetched(inode, 0, b"n" * BLOCK + bytes(3 * BLOCK))
    assert await parts.content.read(inode, 0, 9 * BLOCK) == b"n" * BLOCK + bytes(3 * BLOCK)


async def test_nothing_to_free(parts: Parts, evicting: Evicting) -> None:  # noqa: F811
    empty, uncached = await pushed(parts, b"empty", b""), parts.uncached(b"u", BLOCK)
    parts.calls.clear()
    assert await evicting.evict(empty, uncached) == [
        Evicted(empty.ino, 0),
        Evicted(uncached.ino, 0),
    ]
    assert empty.whole
    assert evicting.told.inos == []


async def test_the_kernel_forgets_its_pages(parts: Parts, evicting: Evicting) -> None:  # noqa: F811
    inode = fetched(parts)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(evicting.kernel.run)
        await evicting.evict(inode)
        await evicting.evictions.settle()
        nursery.cancel_scope.cancel()
    assert evicting.told.inos == [inode.ino]


async def test_a_read_goes_on_beside_it(parts: Parts, evicting: Evicting) -> None:  # noqa: F811
    """A read of several pieces awaits between them: it has the blob until it is done."""
    inode = parts.uncached(b"f", 4 * BLOCK)
    parts.fetched(inode, 0, b"a" * BLOCK)
    parts.fetched(inode, 2 * BLOCK, b"b" * BLOCK)
    real = parts.content._read_blob
    pieces = 0

    async def slow(fd: int | None, offset: int, size: int) -> bytes | bytearray:
        nonlocal pieces
        pieces += 1
        if pieces == 2:
            await evicting.evict(inode)
            await parts.durable.make()
        return await real(fd, offset, size)

    parts.content._read_blob = slow  # type: ignore[method-assign]
    data = await parts.content.read(inode, 0, 4 * BLOCK)
    assert pieces == 2
    assert data == b"a" * BLOCK + bytes(BLOCK) + b"b" * BLOCK + bytes(BLOCK)


# -- crash rules ---------------------------------------------------------------------------------


async def test_evict_waits(parts: Parts, evicting: Evicting) -> None:  # noqa: F811
    """Power loss brings the row back: until a point has followed, its bytes are there."""
    inode = fetched(parts)
    await parts.durable.make()
    await evicting.evict(inode)
    assert len(blobs(parts)) == 1
    parts.calls.clear()
    await parts.durable.make()
    assert blobs(parts) == []
    assert parts.calls.index("sync_wal") < parts.calls.index("remove")


async def test_killed_right_after(parts: Parts, evicting: Evicting) -> None:  # noqa: F811
    inode = fetched(parts)
    await evicting.evict(inode)
    after = parts.again()
    inode = after.inode(b"f")
    assert after.validity.missing(inode, 0, 4 * BLOCK) == ((0, 4 * BLOCK),)
    await after.durable.make()
    assert blobs(after) == []


async def test_killed_before_its_transaction(parts: Parts, evicting: Evicting) -> None:  # noqa: F811
    inode = fetched(parts)
    parts.kill_at.add("commit")
    with pytest.raises(Killed):
        await evicting.evict(inode)
    after = parts.again()
    assert await after.content.read(after.inode(b"f"), 0, 9 * BLOCK) == b"h" * 4 * BLOCK


async def test_evict_clean_only(parts: Parts, evicting: Evicting) -> None:  # noqa: F811
    """It is asked in the transaction that frees: nothing comes between the two."""
    inode = await pushed(parts)
    await parts.content.write(inode, 0, b"new")
    (one,) = await evicting.evict(inode)
    assert "pending changes" in one.kept
    assert await parts.content.read(inode, 0, 10) == b"new" + b"x" * 7
    parts.retire(inode)
    (one,) = await evicting.evict(inode)
    assert one.freed == 10


async def test_a_write_that_was_overtaken_is_dirty(parts: Parts, evicting: Evicting) -> None:  # noqa: F811
    """Home refused it for now, and took the rename that followed: the last entry is retired."""
    inode = await pushed(parts)
    await parts.content.write(inode, 10, b"more")
    assert parts.root
    parts.namespace.rename(parts.root, b"f", parts.root, b"g", 0)
    with parts.store:
        number = inode.changed
        parts.retirement.retire([(1, number, inode.ino, 10, 5, 9, "done", None)])
    (one,) = await evicting.evict(inode)
    assert "pending changes" in one.kept
    assert inode.gen


async def test_under_the_lock(parts: Parts, evicting: Evicting) -> None:  # noqa: F811
    """Whoever awaits between reading and changing the file has it to himself."""
    inode, other = fetched(parts), fetched(parts, b"g")
    async with trio.open_nursery() as nursery, parts.locks.hold(inode.ino):
        nursery.start_soon(evicting.evict, inode, other)
        await trio.testing.wait_all_tasks_blocked()
        assert inode.gen
    assert not inode.gen
    assert not other.gen


async def test_a_write_that_waits_is_dirty(parts: Parts, evicting: Evicting) -> None:  # noqa: F811
    """Its entry is there before its bytes are."""
    inode = await pushed(parts)
    gate = trio.Event()
    real = parts.durable.sync_wal

    async def held() -> None:
        await gate.wait()
        await real()

    parts.content._sync_wal = held
    async with trio.open_nursery() as nursery:
        nursery.start_soon(parts.content.write, inode, 0, b"new")
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(evicting.evict, inode)
        await trio.testing.wait_all_tasks_blocked()
        gate.set()
    assert await parts.content.read(inode, 0, 10) == b"new" + b"x" * 7


async def test_fetch_unchanged(parts: Parts, evicting: Evicting) -> None:  # noqa: F811
    """A fetch that was asked for before is void: its bytes may be older than what was pushed."""
    void: list[int] = []
    parts.content.truncated = void.append
    inode = fetched(parts)
    await evicting.evict(inode)
    assert void == [inode.ino]


async def test_an_overwrite_after_it_is_no_overwrite(parts: Parts, evicting: Evicting) -> None:  # noqa: F811
    """Nothing is valid, so nothing has to be durable first; what home has stays around it."""
    inode = fetched(parts, blocks=1)
    await parts.durable.make()
    await evicting.evict(inode)
    await parts.content.write(inode, 1, b"new")
    assert [e.flags for e in parts.entries(inode.ino, Op.WRITE)] == [0]
    assert parts.validity.missing(inode, 0, BLOCK) == ((0, 1), (4, BLOCK))


async def test_lost_writes_after_it(parts: Parts, evicting: Evicting) -> None:  # noqa: F811
    """What was written after the eviction is not durable: home's bytes stand again."""
    inode = fetched(parts, blocks=1)
    await parts.durable.make()
    await evicting.evict(inode)
    await parts.content.write(inode, 1, b"new")
    after = parts.again(lost_writes=True)
    assert after.validity.valid(after.inode(b"f"), 0, BLOCK) == ()


# -- what never is -------------------------------------------------------------------------------


async def test_what_home_is_not_known_to_hold(parts: Parts, evicting: Evicting) -> None:  # noqa: F811
    inode = await pushed(parts)
    with parts.store:
        parts.store.save(inode, home_mtime=None)
    (one,) = await evicting.evict(inode)
    assert "does not hold" in one.kept
    with parts.store:
        parts.store.save(inode, home_mtime=5, home_size=9)
    (one,) = await evicting.evict(inode)
    assert "does not hold" in one.kept


async def test_what_home_refused_for_good(parts: Parts, evicting: Evicting) -> None:  # noqa: F811
    inode, other = await pushed(parts), await pushed(parts, b"g")
    for one, code, result in (
        (inode, errno.EFBIG, "unrepresentable"),
        (other, None, "dropped"),
    ):
        await parts.content.write(one, 0, b"new")
        with parts.store:
            parts.retirement.retire(
                [(e.id, e.id, one.ino, 10, 5, 9, result, code) for e in parts.entries(one.ino)]
            )
    for answer in await evicting.evict(inode, other):
        assert "does not hold" in answer.kept


async def test_what_home_has_lost(parts: Parts, evicting: Evicting) -> None:  # noqa: F811
    inode = fetched(parts)
    with parts.store as store:
        store.execute("INSERT INTO lost VALUES (?, 1)", (inode.ino,))
    (one,) = await evicting.evict(inode)
    assert "lost" in one.kept


async def test_what_has_no_name(parts: Parts, evicting: Evicting) -> None:  # noqa: F811
    inode = await pushed(parts)
    parts.opened.add(inode.ino)
    assert parts.root
    parts.namespace.remove(parts.root, b"f", directory=False)
    parts.retire(inode)
    (one,) = await evicting.evict(inode)
    assert "no name" in one.kept


async def test_what_is_no_file(parts: Parts, evicting: Evicting) -> None:  # noqa: F811
    assert parts.root
    (one,) = await evicting.evict(parts.root)
    assert "no regular file" in one.kept


@pytest.mark.parametrize("why", ["needs_resync", "job", "home"])
async def test_nothing_at_all(parts: Parts, evicting: Evicting, why: str) -> None:  # noqa: F811
    """Home may not have it, or can't be asked: also in the middle of a run."""
    inode = fetched(parts)
    if why == "home":
        evicting.up = False
    else:
        with parts.store as store:
            store.put(why, "something")
    with pytest.raises(Refused):
        await evicting.evict(inode)
    with pytest.raises(Refused):
        await evicting.down_to(0)
    assert inode.gen


# -- down to a limit -----------------------------------------------------------------------------


async def test_down_to_a_limit(parts: Parts, evicting: Evicting) -> None:  # noqa: F811
    """The least recently used go first, and no more than has to."""
    inodes = [fetched(parts, b"%d" % n) for n in range(5)]
    for place in (3, 1, 0, 2):
        evicting.usage.touch(inodes[place].ino)
        evicting.usage._seen[inodes[place].ino] += place in (0, 2)
    evicting.usage._seen[inodes[3].ino] -= 5
    run = await evicting.down_to(9 * BLOCK)
    assert [inode.gen == 0 for inode in inodes] == [False, True, False, True, True]
    assert (run.files, run.bytes, run.reason, run.running) == (3, 12 * BLOCK, "", False)
    assert parts.store.counters.cached_bytes == 8 * BLOCK
    assert evicting.ended == [run]
    assert len(blobs(parts)) == 2  # a point has followed


async def test_a_write_is_a_use(parts: Parts, evicting: Evicting) -> None:  # noqa: F811
    old = fetched(parts, b"old")
    evicting.usage.touch(old.ino)
    new = await pushed(parts, b"new", b"x" * BLOCK)
    await evicting.down_to(BLOCK)
    assert (old.gen, bool(new.gen)) == (0, True)


async def test_biggest_first(parts: Parts, evicting: Evicting) -> None:  # noqa: F811
    inodes = [fetched(parts, b"%d" % n, blocks) for n, blocks in enumerate((2, 7, 4))]
    await evicting.down_to(6 * BLOCK, Selection(Order.SIZE))
    assert [bool(inode.gen) for inode in inodes] == [True, False, True]


async def test_filters(parts: Parts, evicting: Evicting) -> None:  # noqa: F811
    names = [b"a.iso", b"b.iso", b"c.iso", b"d.txt"]
    inodes = [fetched(parts, name, n + 1) for n, name in enumerate(names)]
    chosen = Selection(pattern=b"*.iso", smallest=2 * BLOCK, largest=3 * BLOCK)
    run = await evicting.down_to(0, chosen)
    assert [bool(inode.gen) for inode in inodes] == [True, False, False, True]
    assert run.files == 2
    assert "nothing else" in run.reason


async def test_what_has_to_stay_is_passed_over(parts: Parts, evicting: Evicting) -> None:  # noqa: F811
    dirty = await pushed(parts, b"dirty", b"x" * BLOCK)
    lost, clean = fetched(parts, b"lost", 1), fetched(parts, b"clean", 1)
    with parts.store as store:
        store.execute("INSERT INTO lost VALUES (?, 1)", (lost.ino,))
    await parts.content.write(dirty, 0, b"new")
    run = await evicting.down_to(0)
    assert (run.files, run.kept) == (1, 1)
    assert clean.gen == 0
    assert run.reason


async def test_one_run_at_a_time(parts: Parts, evicting: Evicting) -> None:  # noqa: F811
    fetched(parts)
    async with trio.open_nursery() as nursery:
        evicting.evictions.nursery = nursery
        first = evicting.evictions.start(0, Selection())
        with pytest.raises(Refused, match="under way"):
            evicting.evictions.start(0, Selection())
    assert (await evicting.down_to(0)).number == first.number + 1


async def test_many(parts: Parts, evicting: Evicting, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """In steps, and by pages: each file once."""
    monkeypatch.setattr("afmfs.cache.evict.candidates.PAGE", 30)
    inodes = [fetched(parts, b"%d" % n, 1) for n in range(100)]
    run = await evicting.down_to(0)
    assert (run.files, run.kept, run.reason) == (100, 0, "")
    assert not any(inode.gen for inode in inodes)


# -- when files were used ------------------------------------------------------------------------


def used(parts: Parts) -> dict[int, float]:  # noqa: F811
    return dict(parts.store.execute("SELECT ino, time_s FROM used").fetchall())


async def test_use_is_written_down(parts: Parts, evicting: Evicting) -> None:  # noqa: F811
    one, gone, made = fetched(parts, b"1", 1), fetched(parts, b"2", 1), parts.make(b"3")
    parts.store.execute("UPDATE used SET time_s=0")
    for inode in (one, gone, made):
        evicting.usage.touch(inode.ino)
    assert parts.root
    parts.namespace.remove(parts.root, b"2", directory=False)
    await evicting.usage.write()
    assert [ino for ino, when in used(parts).items() if when] == [one.ino]
    assert list(used(parts)) == [one.ino]  # the last one is not to be evicted yet
    parts.namespace.remove(parts.root, b"1", directory=False)
    assert used(parts) == {}
