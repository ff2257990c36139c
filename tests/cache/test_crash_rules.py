"""The cache's own crash rules, one test each; the names are those of crash-rules.md."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
import trio.testing

from afmfs.cache.content import durable as durable_module
from afmfs.cache.content import leftovers
from afmfs.cache.home import lost_entries
from afmfs.cache.store.inode import Inode
from afmfs.errors import Damaged
from afmfs.model.blocks import blob_name
from afmfs.model.entry import IN_PLACE, Op

from .parts import BLOCK, Killed, Parts, parts  # noqa: F401  # the fixture


async def test_new_blob_first(parts: Parts) -> None:  # noqa: F811
    """Killed between the two: the bytes are in the blob, and nobody says that they are valid."""
    inode = parts.uncached(b"f", 4 * BLOCK)
    parts.kill_at.add("commit")
    with pytest.raises(Killed):
        await parts.content.write(inode, BLOCK, b"n" * BLOCK)
    after = parts.again()
    inode = after.inode(b"f")
    assert after.validity.valid(inode, 0, 4 * BLOCK) == ()
    assert after.entries(inode.ino) == []


async def test_new_blob_first_appended(parts: Parts) -> None:  # noqa: F811
    """Killed between the two of an append: an extension later does not show the bytes."""
    inode = parts.make(b"f")
    await parts.content.write(inode, 0, b"a" * 10)
    parts.kill_at.add("commit")
    with pytest.raises(Killed):
        await parts.content.write(inode, 10, b"secret")
    after = parts.again()
    inode = after.inode(b"f")
    assert inode.size == 10
    await after.content.resize(inode, 20, changes={})
    assert await after.content.read(inode, 0, 100) == b"a" * 10 + bytes(10)


async def test_overwrite_entry_first(parts: Parts) -> None:  # noqa: F811
    """Killed before the blob is touched: the entry is there, the old bytes are pushed once more."""
    inode = parts.make(b"f")
    await parts.content.write(inode, 0, b"old!")
    await parts.durable.make()
    parts.retire(inode)
    parts.kill_at.add("blob")
    with pytest.raises(Killed):
        await parts.content.write(inode, 0, b"new!")
    after = parts.again()
    inode = after.inode(b"f")
    assert [e.flags & IN_PLACE for e in after.entries(inode.ino, Op.WRITE)] == [IN_PLACE]
    assert await after.content.read(inode, 0, 4) == b"old!"


async def test_overwrite_entry_first_also_at_once(parts: Parts) -> None:  # noqa: F811
    """Where an earlier entry lets a write go on at once, its own still comes before its bytes: that
    other one says nothing of this block."""
    inode = parts.make(b"f")
    await parts.content.write(inode, 0, b"x" * 3 * BLOCK)
    await parts.durable.make()
    parts.retire(inode)
    await parts.content.write(inode, 0, b"new!")  # its entry is durable and stays
    parts.kill_at.add("commit")
    with pytest.raises(Killed):
        await parts.content.write(inode, 2 * BLOCK, b"new!")
    after = parts.again()
    inode = after.inode(b"f")
    assert [e.start for e in after.entries(inode.ino, Op.WRITE)] == [0]
    assert await after.content.read(inode, 2 * BLOCK, 4) == b"xxxx"


async def test_overwrite_durable(parts: Parts) -> None:  # noqa: F811
    """The first overwrite in place makes its entry durable before it touches the blob."""
    inode = parts.make(b"f")
    await parts.content.write(inode, 0, b"x" * BLOCK)
    await parts.durable.make()
    parts.calls.clear()
    await parts.content.write(inode, 0, b"y")
    assert parts.calls == ["commit", "committed", "sync_wal", "blob"]


async def test_what_is_younger_than_the_last_point_is_overwritten_at_once(
    parts: Parts,  # noqa: F811
) -> None:
    """Nothing in it counts as clean after a power loss, so no entry has to be durable first."""
    inode = parts.make(b"f")
    await parts.content.write(inode, 0, b"x" * BLOCK)
    parts.calls.clear()
    await parts.content.write(inode, 0, b"y")
    assert "sync_wal" not in parts.calls
    await parts.durable.fsync(inode)
    parts.calls.clear()
    await parts.content.write(inode, 0, b"z")
    assert parts.calls.index("sync_wal") < parts.calls.index("blob")


async def test_zeros_without_a_blob_are_overwritten_for_good(parts: Parts) -> None:  # noqa: F811
    """The generation that the write makes is part of its transaction."""
    inode = parts.make(b"f")
    await parts.content.resize(inode, 100, changes={})
    await parts.content.write(inode, 0, b"x" * 100)
    after = parts.again()
    assert await after.content.read(after.inode(b"f"), 0, 100) == b"x" * 100


async def test_in_place_mark(parts: Parts) -> None:  # noqa: F811
    """One durable in-place entry serves until it is retired, also for another block."""
    inode = parts.make(b"f")
    await parts.content.write(inode, 0, b"x" * 3 * BLOCK)
    await parts.durable.make()
    await parts.content.write(inode, 0, b"y")
    parts.calls.clear()
    await parts.content.write(inode, 2 * BLOCK, b"y")
    assert "sync_wal" not in parts.calls
    parts.retire(inode)
    await parts.content.write(inode, BLOCK, b"z")
    assert parts.calls.index("sync_wal") < parts.calls.index("blob")


async def test_point_drains(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """A point waits for the operation that stands between its entry and its blob write."""
    inode = parts.make(b"f")
    await parts.content.write(inode, 0, b"old")
    await parts.durable.make()
    gate, reached = trio.Event(), trio.Event()
    real = parts.durable.sync_wal

    async def held() -> None:
        reached.set()
        await gate.wait()
        await real()

    monkeypatch.setattr(parts.content, "_sync_wal", held)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(parts.content.write, inode, 0, b"new")
        await reached.wait()
        parts.calls.clear()
        nursery.start_soon(parts.durable.make)
        await trio.testing.wait_all_tasks_blocked()
        assert "syncfs" not in parts.calls
        gate.set()
    assert parts.calls.index("blob") < parts.calls.index("syncfs")


async def test_number_at_start(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """What is marked, or queued, while the disk works does not count as durable."""
    inode, new = parts.uncached(b"f", 2 * BLOCK), parts.make(b"n")
    late: list[int] = []

    def during(fd: int) -> None:
        def act() -> None:
            parts.fetched(inode, 0, b"h" * BLOCK)

        trio.from_thread.run_sync(act)
        trio.from_thread.run(parts.content.write, new, 0, b"late")
        late.append(new.changed)

    monkeypatch.setattr(durable_module, "syncfs", during)
    await parts.durable.make()
    assert parts.store.execute("SELECT count(*) FROM fresh").fetchone()[0] == 1
    assert parts.durable.durable_entry < late[0]
    assert int(parts.store.get("durable_entry")) < late[0]


async def test_point_recorded(parts: Parts) -> None:  # noqa: F811
    """A point ends with its number recorded and the log synced, in this order."""
    await parts.content.write(parts.make(b"f"), 0, b"x")
    parts.calls.clear()
    await parts.durable.make()
    order = [c for c in parts.calls if c != "committed"]
    assert order[:3] == ["syncfs", "commit", "sync_wal"]


async def test_a_point_with_nothing_to_do_does_nothing(parts: Parts) -> None:  # noqa: F811
    await parts.content.write(parts.make(b"f"), 0, b"x")
    await parts.durable.make()
    parts.calls.clear()
    await parts.durable.make()
    assert parts.calls == []


async def test_destroy_waits(parts: Parts) -> None:  # noqa: F811
    """The blob of a removed file is there until a point has followed the removal."""
    inode = parts.make(b"f")
    await parts.content.write(inode, 0, b"x")
    await parts.durable.make()
    assert parts.root
    parts.namespace.remove(parts.root, b"f", directory=False)
    assert parts.blob_length(inode) == 1
    parts.calls.clear()
    await parts.durable.make()
    assert parts.blob_length(inode) is None
    assert parts.calls.index("sync_wal") < parts.calls.index("remove")


async def test_truncate_new_generation(parts: Parts) -> None:  # noqa: F811
    """Truncation to nothing leaves the old blob alone until a point; new bytes go to another."""
    inode = parts.make(b"f")
    await parts.content.write(inode, 0, b"old")
    await parts.durable.make()
    old = inode.gen
    await parts.content.resize(inode, 0, changes={})
    await parts.content.write(inode, 0, b"new")
    assert inode.gen != old
    assert len(list((parts.place / "blobs").glob("*/*"))) == 2
    await parts.durable.make()
    assert len(list((parts.place / "blobs").glob("*/*"))) == 1
    assert await parts.content.read(inode, 0, 9) == b"new"


async def test_shrink_keeps_generation(parts: Parts) -> None:  # noqa: F811
    """A shrink keeps the blob, and its tail until a point."""
    inode = parts.make(b"f")
    await parts.content.write(inode, 0, b"x" * 100)
    await parts.durable.make()
    gen = inode.gen
    await parts.content.resize(inode, 10, changes={})
    assert inode.gen == gen
    assert parts.blob_length(inode) == 100
    await parts.durable.make()
    assert parts.blob_length(inode) == 10


@pytest.mark.parametrize("grow", ["resize", "write"])
async def test_reclaim_sync(parts: Parts, grow: str) -> None:  # noqa: F811
    """Before a file grows over bytes in reclaim, the shrink is durable and they are destroyed."""
    inode = parts.make(b"f")
    await parts.content.write(inode, 0, b"x" * 100)
    await parts.durable.make()
    await parts.content.resize(inode, 10, changes={})
    parts.calls.clear()
    if grow == "resize":
        await parts.content.resize(inode, 100, changes={})
    else:
        await parts.content.write(inode, 99, b"\0")
    assert parts.calls.index("sync_wal") < parts.calls.index("cut")
    assert await parts.content.read(inode, 0, 200) == b"x" * 10 + bytes(90)


async def test_a_tail_in_reclaim_survives_a_kill(parts: Parts) -> None:  # noqa: F811
    """Opened by the next run, before a point: a power loss may still bring the old size back."""
    inode = parts.make(b"f")
    await parts.content.write(inode, 0, b"x" * 100)
    await parts.durable.make()
    await parts.content.resize(inode, 10, changes={})
    after = parts.again(recover=False)
    inode = after.inode(b"f")
    assert await after.content.read(inode, 0, 100) == b"x" * 10
    assert after.blob_length(inode) == 100


async def test_what_is_removed_while_its_tail_is_destroyed_goes(parts: Parts) -> None:  # noqa: F811
    """Removed between a durable point's look at its tail and the tail's end."""
    inode = parts.make(b"f")
    await parts.content.write(inode, 0, b"x" * 100)
    await parts.content.resize(inode, 10, changes={})
    assert parts.root
    parts.namespace.remove(parts.root, b"f", directory=False)
    parts.content.reclaim_tail(inode)
    await parts.durable.make()
    assert not list((parts.place / "blobs").glob("*/*"))


async def test_fetch_not_valid(parts: Parts) -> None:  # noqa: F811
    """Fetched bytes go only where nothing is valid."""
    inode = parts.uncached(b"f", BLOCK)
    await parts.content.write(inode, 10, b"mine")
    parts.fetched(inode, 0, b"h" * BLOCK)
    data = await parts.content.read(inode, 0, BLOCK)
    assert data == b"h" * 10 + b"mine" + b"h" * (BLOCK - 14)


async def test_home_valid(parts: Parts) -> None:  # noqa: F811
    """It is the smaller of the size at home and every size in an unretired entry."""
    inode = parts.uncached(b"f", 2 * BLOCK)
    await parts.content.resize(inode, 100, changes={})
    await parts.content.resize(inode, 2 * BLOCK, changes={})
    assert inode.home_valid == 100
    assert await parts.content.read(inode, 100, BLOCK) == bytes(BLOCK)
    first = parts.entries(inode.ino, Op.SIZE)[0]
    with parts.store:  # the second size is still pending
        parts.retirement.retire([(1, first.id, inode.ino, 100, 5, 9, "done", None)])
    assert inode.home_valid == 100
    parts.retire(inode)
    assert inode.home_valid == 2 * BLOCK


async def test_home_valid_by_retired(parts: Parts) -> None:  # noqa: F811
    """A size that is still queued bounds what an earlier retirement says of home."""
    inode = parts.uncached(b"f", 2 * BLOCK)
    await parts.content.write(inode, 0, b"x")
    write = parts.entries(inode.ino)[0]
    await parts.content.resize(inode, 5, changes={})
    await parts.content.resize(inode, 2 * BLOCK, changes={})
    with parts.store:
        parts.retirement.retire([(1, write.id, inode.ino, 2 * BLOCK, 5, 9, "done", None)])
    assert inode.home_valid == 5


async def test_drop_clean(parts: Parts) -> None:  # noqa: F811
    """After lost writes a block fetched since the last point is fetched again; an older one isn't
    (clean-drop-per-block)."""
    inode = parts.uncached(b"f", 2 * BLOCK)
    parts.fetched(inode, 0, b"h" * BLOCK)
    await parts.durable.make()
    parts.fetched(inode, BLOCK, b"h" * BLOCK)
    after = parts.again(lost_writes=True)
    assert after.validity.valid(after.inode(b"f"), 0, 2 * BLOCK) == ((0, BLOCK),)


async def test_nothing_is_dropped_after_a_kill(parts: Parts) -> None:  # noqa: F811
    inode = parts.uncached(b"f", BLOCK)
    parts.fetched(inode, 0, b"h" * BLOCK)
    after = parts.again()
    assert after.validity.valid(after.inode(b"f"), 0, BLOCK) == ((0, BLOCK),)


async def test_drop_fresh_dirty(parts: Parts) -> None:  # noqa: F811
    """A block written whole since the last point may be zeros: home's old bytes stand again, and
    the entry stays."""
    inode = parts.uncached(b"f", 2 * BLOCK)
    await parts.durable.make()
    await parts.content.write(inode, 0, b"n" * BLOCK)
    after = parts.again(lost_writes=True)
    inode = after.inode(b"f")
    assert after.validity.valid(inode, 0, 2 * BLOCK) == ()
    assert len(after.entries(inode.ino, Op.WRITE)) == 1


async def test_what_was_fsynced_is_not_dropped(parts: Parts) -> None:  # noqa: F811
    inode = parts.uncached(b"f", 2 * BLOCK)
    await parts.durable.make()
    await parts.content.write(inode, 0, b"n" * BLOCK)
    await parts.durable.fsync(inode)
    after = parts.again(lost_writes=True)
    assert after.validity.valid(after.inode(b"f"), 0, 2 * BLOCK) == ((0, BLOCK),)


async def test_what_was_fsynced_over_a_fetch_is_not_dropped(parts: Parts) -> None:  # noqa: F811
    """The fetch is younger than the last point; the fsync has made its bytes durable as well."""
    inode = parts.uncached(b"f", 2 * BLOCK)
    await parts.durable.make()
    parts.fetched(inode, 0, b"h" * 2 * BLOCK)
    await parts.content.write(inode, 0, b"mine")
    await parts.durable.fsync(inode)
    after = parts.again(lost_writes=True)
    inode = after.inode(b"f")
    assert after.validity.valid(inode, 0, 4) == ((0, 4),)
    assert await after.content.read(inode, 0, 4) == b"mine"


async def test_what_was_durable_before_a_fetch_is_not_dropped(
    parts: Parts,  # noqa: F811
) -> None:
    """The fetch brings what surrounds a write: only that is younger than the last point."""
    inode = parts.uncached(b"f", 2 * BLOCK)
    await parts.content.write(inode, 100, b"mine")
    await parts.durable.make()
    parts.fetched(inode, 0, b"h" * 2 * BLOCK)
    after = parts.again(lost_writes=True)
    inode = after.inode(b"f")
    assert after.validity.valid(inode, 0, 2 * BLOCK) == ((100, 104),)
    assert await after.content.read(inode, 100, 4) == b"mine"


async def test_recovery_zeros(parts: Parts) -> None:  # noqa: F811
    """Beyond home_valid what may be lost becomes zeros, valid and dirty: nothing from before a
    truncation shows."""
    inode = parts.make(b"f")
    await parts.content.write(inode, 0, b"x" * 100)
    await parts.durable.make()
    await parts.content.write(inode, 100, b"n" * 50)
    after = parts.again(lost_writes=True)
    inode = after.inode(b"f")
    assert await after.content.read(inode, 0, 200) == b"x" * 100 + bytes(50)


async def test_recovery_sends_again_what_may_have_been_overwritten(
    parts: Parts,  # noqa: F811
) -> None:
    """in-place-mark, recovery-takes-over: an entry may be lost whose bytes reached the blob. Judged
    by the entries before outcomes are taken over. Home need not have what counts as clean."""
    inode = parts.uncached(b"f", 3 * BLOCK)
    parts.fetched(inode, 0, b"h" * 3 * BLOCK)
    await parts.durable.make()
    await parts.content.write(inode, 5, b"y")
    await parts.durable.make()
    after = parts.again(lost_writes=True)
    found = after.inode(b"f")
    assert await after.content.read(found, 0, 8) == b"hhhhhyhh"
    assert after.validity.valid(found, 0, 3 * BLOCK) == ((0, 3 * BLOCK),)
    queued = [(e.start, e.end, e.flags) for e in after.entries(found.ino)]
    assert sorted(queued) == [(0, 5, IN_PLACE), (5, 6, IN_PLACE), (6, 3 * BLOCK, IN_PLACE)]
    assert found.changed == max(e.id for e in after.entries(found.ino))


@pytest.mark.parametrize("durable_before", [False, True])
async def test_recovery_does_not_believe_what_home_will_have_as_zeros(
    parts: Parts,  # noqa: F811
    durable_before: bool,
) -> None:
    """As in-place-mark, where the file has grown: home gets zeros there, and no entry that says
    otherwise."""
    inode = parts.make(b"f")
    await parts.content.write(inode, 0, b"x")
    if durable_before:
        await parts.durable.make()
    await parts.content.resize(inode, 2 * BLOCK, changes={})
    await parts.content.write(inode, 10, b"y")
    await parts.content.write(inode, BLOCK, b"lost")
    with parts.store as store:  # but not its bytes
        store.execute("DELETE FROM queue WHERE id=?", (inode.changed,))
        lost_entries.count(store)
    after = parts.again(lost_writes=True)
    inode = after.inode(b"f")
    assert await after.content.read(inode, BLOCK, 2 * BLOCK) == bytes(BLOCK)
    assert await after.content.read(inode, 10, 1) == b"y"  # an entry says so


async def test_what_is_destroyed_is_so_for_good_before_its_row_goes(
    parts: Parts,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Power lost after it: no row would tell of the bytes, or the blob, that came back."""
    inode, other, real = parts.make(b"f"), parts.make(b"g"), os.fsync

    def fsync(fd: int) -> None:
        parts.calls.append("fsync")
        real(fd)

    for one in (inode, other):
        await parts.content.write(one, 0, b"x" * 100)
    await parts.durable.make()
    await parts.content.resize(inode, 10, changes={})
    monkeypatch.setattr(os, "fsync", fsync)
    parts.calls.clear()
    await parts.content.resize(inode, 50, changes={})
    assert parts.calls[:4] == ["sync_wal", "cut", "fsync", "cut"]
    assert parts.root
    parts.namespace.remove(parts.root, b"g", directory=False)
    parts.calls.clear()
    await parts.durable.make()
    removed = parts.calls.index("remove")
    assert parts.calls[removed : removed + 3] == ["remove", "fsync", "commit"]


async def test_numbers_unique(parts: Parts) -> None:  # noqa: F811
    """A range is reserved durably before its first number is used."""
    last = parts.make(b"f").ino
    parts.store.sync_wal()
    taken = parts.store.entries.last
    after = parts.again()
    assert after.make(b"g").ino > last
    assert after.store.entries.last > taken
    after.calls.clear()
    after.store.entries.reserve()
    assert after.calls == ["commit", "committed", "sync_wal"]


async def test_fsync_means_it(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """The blob, the name of a new one, the record that it needs no doubt, and the log."""
    inode = parts.make(b"f")
    await parts.content.write(inode, 0, b"x")
    blob = parts.place / "blobs" / blob_name(inode.gen)
    places = {blob: "bytes", blob.parent: "name"}

    def recorded(real: Callable[[int], None]) -> Callable[[int], None]:
        def sync(fd: int) -> None:
            place = Path(os.readlink(f"/proc/self/fd/{fd}"))
            if place in places:
                parts.calls.append(places[place])
            real(fd)

        return sync

    for name in ("fsync", "fdatasync"):
        monkeypatch.setattr(os, name, recorded(getattr(os, name)))
    parts.calls.clear()
    await parts.durable.fsync(inode)
    assert parts.calls == ["bytes", "name", "commit", "committed", "sync_wal"]
    assert inode.synced == inode.changed


async def test_fsync_does_not_count_on_a_point_that_is_being_made(
    parts: Parts,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The name of a new blob may not be durable yet, though the point has taken it on."""
    inode = parts.make(b"f")
    await parts.content.write(inode, 0, b"x")
    shard, synced, real = parts.place / "blobs" / blob_name(inode.gen), list[str](), os.fsync

    def fsync(fd: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{fd}"))
        real(fd)

    def during(fd: int) -> None:
        trio.from_thread.run(parts.durable.fsync, inode)
        assert str(shard.parent) in synced

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(durable_module, "syncfs", during)
    await parts.durable.make()
    assert synced


async def test_all_is_durable_after_the_interval(
    parts: Parts,  # noqa: F811
    autojump_clock: trio.testing.MockClock,
) -> None:
    """A point is made though nobody says fsync."""
    made: list[float] = []

    async def make() -> None:
        made.append(trio.current_time() - begun)

    parts.durable.make = make  # type: ignore[method-assign]
    begun = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(parts.durable.run, 5.0)
        await trio.sleep(12)
        nursery.cancel_scope.cancel()
    assert made == pytest.approx([5, 10])


async def test_numbers_are_reserved_however_far_apart_points_are(
    parts: Parts,  # noqa: F811
    autojump_clock: trio.testing.MockClock,
) -> None:
    numbers = parts.store.entries
    numbers._limit = numbers.last + 100
    async with trio.open_nursery() as nursery:
        nursery.start_soon(parts.durable.run, 3600.0)
        await trio.sleep(2 * durable_module.NUMBERS_S)
        nursery.cancel_scope.cancel()
    assert not numbers.running_out


async def test_a_failed_transaction_changes_nothing(
    parts: Parts,  # noqa: F811
    tmp_path: Path,
) -> None:
    """Memory agrees with the table after a commit that failed."""
    inode = parts.make(b"f")
    await parts.content.write(inode, 0, b"x" * 10)
    counters = parts.store.counters.row()
    parts.kill_at.add("commit")
    with pytest.raises(Killed), parts.store as store:
        store.append(Op.SIZE, inode, end=3)
        store.save(inode, size=3)
        store.counters.cached_bytes = 0
        raise Killed
    assert inode.size == 10
    assert parts.store.counters.row() == counters
    assert len(parts.entries(inode.ino)) == 2


# -- a blob is as long as its inode --------------------------------------------------------------


def blob_of(parts: Parts, inode: Inode) -> Path:  # noqa: F811
    return parts.place / "blobs" / blob_name(inode.gen)


@pytest.mark.parametrize("grow", ["resize", "write", "zeros", "fetch"])
async def test_a_blob_is_as_long_as_its_inode(parts: Parts, grow: str) -> None:  # noqa: F811
    """Only so can a lost tail be told from zeros."""
    inode = parts.uncached(b"f", 3 * BLOCK) if grow == "fetch" else parts.make(b"f")
    if grow == "fetch":
        parts.fetched(inode, BLOCK, b"h" * BLOCK)
    if grow == "zeros":
        await parts.content.resize(inode, 2 * BLOCK, changes={})
        assert inode.gen == 0
        await parts.content.write(inode, 10, b"x")
    if grow in ("resize", "write"):
        await parts.content.write(inode, 0, b"x")
    if grow == "resize":
        await parts.content.resize(inode, 2 * BLOCK, changes={})
    if grow == "write":
        await parts.content.write(inode, 5 * BLOCK, b"x")
    assert parts.blob_length(inode) == inode.size


async def test_a_growth_reaches_the_blob_first(parts: Parts) -> None:  # noqa: F811
    """Killed before the transaction: the blob is longer, which a later growth does not show."""
    inode = parts.make(b"f")
    await parts.content.write(inode, 0, b"x" * 10)
    parts.kill_at.add("commit")
    with pytest.raises(Killed):
        await parts.content.resize(inode, 100, changes={})
    assert parts.blob_length(inode) == 100
    after = parts.again()
    assert await after.content.read(after.inode(b"f"), 0, 100) == b"x" * 10
    assert after.blob_length(after.inode(b"f")) == 10


@pytest.mark.parametrize("gone", ["name", "bytes"])
@pytest.mark.parametrize("flags", ["new", "in place"])
async def test_lost_writes_leave_no_blob_short(
    parts: Parts,  # noqa: F811
    gone: str,
    flags: str,
) -> None:
    """What was made since the last point may be gone with its file, and was never promised: it is
    zeros, and no damage."""
    inode = parts.make(b"f")
    await parts.content.resize(inode, 50, changes={})
    await parts.durable.make()
    await parts.content.write(inode, 50 if flags == "new" else 0, b"n" * 50)
    path = blob_of(parts, inode)
    path.unlink() if gone == "name" else os.truncate(path, 0)
    after = parts.again(lost_writes=True)
    inode = after.inode(b"f")
    assert await after.content.read(inode, 0, 200) == bytes(inode.size)
    assert after.blob_length(inode) == inode.size
    await after.content.write(inode, 0, b"y")
    assert await after.content.read(inode, 0, 1) == b"y"


async def test_lost_writes_of_what_was_fetched(parts: Parts) -> None:  # noqa: F811
    inode = parts.uncached(b"f", 2 * BLOCK)
    await parts.durable.make()
    parts.fetched(inode, 0, b"h" * BLOCK)
    blob_of(parts, inode).unlink()
    after = parts.again(lost_writes=True)
    inode = after.inode(b"f")
    after.fetched(inode, 0, b"h" * BLOCK)
    assert await after.content.read(inode, 0, BLOCK) == b"h" * BLOCK


@pytest.mark.parametrize("harm", ["missing", "short"])
async def test_a_damaged_blob_is_not_taken_for_zeros(parts: Parts, harm: str) -> None:  # noqa: F811
    """Also after lost writes: it was there before the last point."""
    inode = parts.make(b"f")
    await parts.content.write(inode, 0, b"x" * 3 * BLOCK)
    await parts.durable.make()
    path = blob_of(parts, inode)
    path.unlink() if harm == "missing" else os.truncate(path, BLOCK)
    after = parts.again(lost_writes=harm == "missing")
    inode = after.inode(b"f")
    with pytest.raises(Damaged, match="missing: check the cache"):
        await after.content.read(inode, BLOCK - 1, 2)
    if harm == "short":
        assert await after.content.read(inode, 0, BLOCK) == b"x" * BLOCK
    entries, known = len(after.entries(inode.ino)), after.store.disk.harm
    for offset in (0, 3 * BLOCK):
        with pytest.raises(OSError, match="Read-only"):
            await after.content.write(inode, offset, b"y")
        known.note = None  # also where nobody has met it yet
        with pytest.raises(Damaged, match="missing: check the cache"):
            await after.content.write(inode, offset, b"y")
    assert len(after.entries(inode.ino)) == entries
    known.note = None  # it is repaired
    await after.content.resize(inode, 0, changes={})
    await after.content.write(inode, 0, b"anew")
    assert await after.content.read(inode, 0, 9) == b"anew"


# -- blobs that nobody has -----------------------------------------------------------------------


async def test_a_write_that_fails_leaves_no_blob(
    parts: Parts,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    inode = parts.make(b"f")
    monkeypatch.setattr(type(parts.store), "append", fails_with_full_disk)
    with pytest.raises(OSError, match="No space"):
        await parts.content.write(inode, 0, b"x")
    assert inode.gen == 0
    assert list((parts.place / "blobs").glob("*/*")) == []


def fails_with_full_disk(*_: object, **__: object) -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("lost", [False, True])
async def test_what_a_kill_left_to_nobody_goes(parts: Parts, lost: bool) -> None:  # noqa: F811
    """Killed between a new blob's bytes and the transaction; what is in use, or waits to be
    destroyed, stays. Also if the next run is killed before it has looked."""
    used, removed, inode = (parts.make(name) for name in (b"used", b"removed", b"f"))
    pool = parts.store.entries.take_run(4)
    parts.blobs.take_over(parts.blobs.fill_pool(pool))
    with parts.store as store:
        store.put("pool", json.dumps([pool.start, pool.stop]))
        if lost:
            store.put("boot_id", "another boot")
    await parts.content.write(used, 0, b"x")
    await parts.content.write(removed, 0, b"x")
    await parts.durable.make()
    assert parts.root
    parts.namespace.remove(parts.root, b"removed", directory=False)
    parts.kill_at.add("commit")
    with pytest.raises(Killed):
        await parts.content.write(inode, 0, b"nobody's")
    between = parts.again()
    with between.store as store:
        store.put("pool", "[0, 0]")  # the next run has one of its own
    after = between.again()
    await leftovers.clear(after.store, after.blobs)
    left = {path.read_bytes() for path in (parts.place / "blobs").glob("*/*")}
    assert left == {b"x"}
    assert blob_of(after, after.inode(b"used")).exists() and blob_of(parts, removed).exists()
    assert leftovers.ranges_of(after.store) == []
    await leftovers.clear(after.store, after.blobs)
