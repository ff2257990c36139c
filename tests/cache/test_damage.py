"""Bytes that are known to be lost: no read takes zeros, or home's old ones, for them."""

from __future__ import annotations

import pytest

from afmfs.cache.content.damage import Damage
from afmfs.cache.store.inode import Inode
from afmfs.errors import Damaged

from .parts import BLOCK, Parts, parts  # noqa: F401  # the fixture


async def harmed(parts: Parts) -> Inode:  # noqa: F811
    """A file that has lost its second block."""
    inode = parts.make(b"f")
    await parts.content.write(inode, 0, b"x" * 3 * BLOCK)
    with parts.store:
        parts.content.unmark(inode, ((BLOCK, 2 * BLOCK),))
        parts.content.damage.add(inode, [(BLOCK, 2 * BLOCK)])
    return inode


async def test_reads_fail_where_it_is_lost(parts: Parts) -> None:  # noqa: F811
    await harmed(parts)
    after = parts.again()
    inode = after.inode(b"f")
    assert await after.content.read(inode, 0, BLOCK) == b"x" * BLOCK
    assert await after.content.read(inode, 2 * BLOCK, 2 * BLOCK) == b"x" * BLOCK
    with pytest.raises(Damaged, match=f"bytes {BLOCK}-{2 * BLOCK} of inode"):
        await after.content.read(inode, 0, 3 * BLOCK)
    with pytest.raises(Damaged):
        await after.content.read(inode, 2 * BLOCK - 1, 1)


async def test_what_is_written_is_read(parts: Parts) -> None:  # noqa: F811
    inode = await harmed(parts)
    await parts.content.write(inode, BLOCK, b"n" * 100)
    assert await parts.content.read(inode, 0, BLOCK + 100) == b"x" * BLOCK + b"n" * 100
    assert Damage(parts.store).of(inode.ino) == ((BLOCK + 100, 2 * BLOCK),)
    await parts.content.write(inode, BLOCK, b"n" * BLOCK)
    assert Damage(parts.store).inos == set()


async def test_what_is_cut_off_is_zeros_when_it_grows_again(parts: Parts) -> None:  # noqa: F811
    inode = await harmed(parts)
    await parts.content.resize(inode, BLOCK + 10, changes={})
    await parts.content.resize(inode, 3 * BLOCK, changes={})
    with pytest.raises(Damaged, match=f"bytes {BLOCK}-{BLOCK + 10} of"):
        await parts.content.read(inode, BLOCK, BLOCK)
    assert await parts.content.read(inode, BLOCK + 10, BLOCK) == bytes(BLOCK)


async def test_a_failed_write_ends_nothing(
    parts: Parts,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    inode = await harmed(parts)

    def full(*_: object, **__: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(parts.store), "append", full)
    with pytest.raises(OSError, match="No space"):
        await parts.content.write(inode, BLOCK, b"n" * BLOCK)
    with pytest.raises(Damaged):
        await parts.content.read(inode, BLOCK, 1)
