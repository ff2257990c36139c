"""A file can have any size for nothing. No request on it, nor a start after it, takes more for
that: neither steps of SQLite's machine nor bytes of the log."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from afmfs.cache.store.inode import Inode
from afmfs.cache.store.store import Store
from afmfs.model.bitmap import CHUNK
from tests.cache.parts import BLOCK, Parts, parts  # noqa: F401  # the fixture
from tests.harness.steps import StepsCounted

SIZES = [1 << 44, 1 << 50, 1 << 56]
MOST_STEPS = 20_000
MOST_LOG = 1 << 20


def far(size: int) -> int:
    """An offset far out that the disk below takes a byte at."""
    return min(size, 1 << 44) - 3 * BLOCK


@contextmanager
def bounded(parts: Parts) -> Iterator[None]:  # noqa: F811
    log = parts.place / "cache.db-wal"
    before = log.stat().st_size
    with StepsCounted(parts.store.db, MOST_STEPS):
        yield
    assert log.stat().st_size - before < MOST_LOG


async def resize(parts: Parts, inode: Inode, size: int) -> None:  # noqa: F811
    with bounded(parts):
        await parts.content.resize(inode, size, changes={})


async def read(parts: Parts, inode: Inode, offset: int, size: int = BLOCK) -> bytes:  # noqa: F811
    with bounded(parts):
        return bytes(await parts.content.read(inode, offset, size))


async def write(parts: Parts, inode: Inode, offset: int, data: bytes) -> None:  # noqa: F811
    with bounded(parts):
        await parts.content.write(inode, offset, data)


def after_power_loss(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> Parts:  # noqa: F811
    """The next start, bounded too. What it writes goes to a log that it has made."""
    real, entered = Store.__init__, []

    def counted(self: Store, *args: object, **named: object) -> None:
        real(self, *args, **named)  # type: ignore[arg-type]
        entered.append(StepsCounted(self.db, MOST_STEPS).__enter__())

    with monkeypatch.context() as patch:
        patch.setattr(Store, "__init__", counted)
        after = parts.again(lost_writes=True)
    for one in entered:
        one.__exit__(None, None, None)
    assert (parts.place / "cache.db-wal").stat().st_size < MOST_LOG
    return after


@pytest.mark.parametrize("size", SIZES)
async def test_of_home(parts: Parts, size: int) -> None:  # noqa: F811
    """A file that is not cached is extended, written far out, and cut."""
    inode = parts.uncached(b"f", 4 * BLOCK)
    await resize(parts, inode, size)
    await write(parts, inode, far(size), b"x")
    assert await read(parts, inode, far(size)) == b"x" + bytes(BLOCK - 1)
    assert parts.validity.missing(inode, 0, size) == ((0, 4 * BLOCK),)
    await resize(parts, inode, BLOCK)
    assert parts.validity.valid(inode, 0, inode.size) == ()
    await resize(parts, inode, 1)


@pytest.mark.parametrize("size", SIZES)
async def test_of_ours_after_power_loss(
    parts: Parts,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    size: int,
) -> None:
    """What is a hole may be believed no more: it reads as zeros all the same."""
    made = parts.make(b"f")
    await write(parts, made, 0, b"x")
    await resize(parts, made, size)
    after = after_power_loss(parts, monkeypatch)
    inode = after.inode(b"f")
    assert after.validity.missing(inode, 0, size) == ()
    assert await read(after, inode, 0) == b"x" + bytes(BLOCK - 1)
    assert await read(after, inode, size - BLOCK) == bytes(BLOCK)
    await write(after, inode, far(size), b"y")
    await resize(after, inode, 1)


@pytest.mark.parametrize("size", SIZES)
async def test_one_block_of_a_whole_file(parts: Parts, size: int) -> None:  # noqa: F811
    """It is cached but for that, and the rest is not fetched. It becomes whole again."""
    inode = parts.make(b"f")
    await resize(parts, inode, size)
    parts.retire(inode)
    assert inode.whole and inode.home_valid == size
    hole = 5 * CHUNK * BLOCK + 3 * BLOCK
    with bounded(parts), parts.store:
        parts.content.unmark(inode, ((hole, hole + BLOCK), (size - BLOCK, size)))
    assert not inode.whole
    with bounded(parts):
        pieces = ((hole, hole + BLOCK), (size - BLOCK, size))
        assert parts.validity.missing(inode, 0, size) == pieces
    assert parts.store.counters.cached_bytes == size - 2 * BLOCK
    for start, end in pieces:
        with bounded(parts):
            parts.fetched(inode, start, bytes(end - start))
    assert inode.whole and parts.store.counters.cached_bytes == size
    assert not parts.store.execute("SELECT 1 FROM blockmap").fetchall()


async def test_much_of_a_whole_file(parts: Parts) -> None:  # noqa: F811
    inode, size = parts.make(b"f"), 1 << 56
    await resize(parts, inode, size)
    parts.retire(inode)
    with bounded(parts), parts.store:
        parts.content.unmark(inode, ((size // 4 + 1, size // 2 - 1),))
    with bounded(parts):
        found = parts.validity.valid(inode, 0, size)
    assert found == ((0, size // 4 + 1), (size // 2 - 1, size))
    await resize(parts, inode, size // 2)
    assert parts.validity.valid(inode, 0, size)[0] == (0, size // 4 + 1)
    with bounded(parts), parts.store:
        parts.content.uncache(inode)
    assert parts.validity.valid(inode, 0, size) == ()
