"""What only the cache has, or what home must not show again, after rare combinations."""

from __future__ import annotations

import errno
from typing import Any

import pytest

from afmfs.cache.store.store import Store
from afmfs.model.entry import Op

from .parts import BLOCK, Parts, parts  # noqa: F401  # the fixture


async def test_recovery_leaves_what_home_is_never_to_have(parts: Parts) -> None:  # noqa: F811
    """An entry was dropped: of its bytes there is this copy alone. It stays, and is not sent."""
    inode = parts.uncached(b"f", 2 * BLOCK)
    parts.fetched(inode, 0, b"h" * 2 * BLOCK)
    await parts.durable.make()
    await parts.content.write(inode, 5, b"y")
    with parts.store as store:
        store.execute("INSERT INTO unrepresentable VALUES (?,?,125)", (inode.ino, int(Op.WRITE)))
    await parts.durable.make()
    after = parts.again(lost_writes=True)
    found = after.inode(b"f")
    assert after.validity.valid(found, 0, 2 * BLOCK) == ((0, 2 * BLOCK),)
    assert [(e.start, e.end) for e in after.entries(found.ino)] == [(5, 6)]


async def test_overwrite_durable_also_without_a_name(parts: Parts) -> None:  # noqa: F811
    """Power loss may take its removal back: then a clean block would have changed."""
    inode = parts.make(b"f")
    await parts.content.write(inode, 0, b"x" * BLOCK)
    await parts.durable.make()
    parts.retire(inode)
    await parts.durable.make()
    parts.opened.add(inode.ino)
    parts.namespace.remove(parts.root, b"f", directory=False)
    parts.calls.clear()
    await parts.content.write(inode, 0, b"y")
    assert parts.calls.index("sync_wal") < parts.calls.index("blob")
    parts.calls.clear()
    await parts.content.write(inode, 7, b"y")
    assert "sync_wal" not in parts.calls


async def test_home_valid_of_what_has_no_name(parts: Parts) -> None:  # noqa: F811
    """Its sizes are not queued: what a push before says of home's must not raise it again."""
    inode = parts.uncached(b"f", 4 * BLOCK)
    parts.opened.add(inode.ino)
    await parts.content.write(inode, 0, b"x" * 10)
    parts.namespace.remove(parts.root, b"f", directory=False)
    await parts.content.resize(inode, 10, changes={})
    await parts.content.resize(inode, 4 * BLOCK, changes={})
    parts.retire(inode, size=4 * BLOCK)
    assert inode.home_valid == 10
    assert parts.validity.missing(inode, 0, 4 * BLOCK) == ()


async def test_a_tail_in_reclaim_is_remembered_till_it_is_committed(
    parts: Parts,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A truncation to nothing that fails leaves the old blob in use."""
    inode = parts.make(b"f")
    await parts.content.write(inode, 0, b"S" * 3 * BLOCK)
    await parts.content.resize(inode, 10, changes={})
    exit_ = type(parts.store).__exit__

    def fail(store: Store, *about: Any) -> None:
        full = OSError(errno.ENOSPC, "no room for the log")
        exit_(store, OSError, full, None)
        raise full

    with monkeypatch.context() as patch:
        patch.setattr(type(parts.store), "__exit__", fail)
        with pytest.raises(OSError, match="no room"):
            await parts.content.resize(inode, 0, changes={})
    await parts.content.resize(inode, 3 * BLOCK, changes={})
    assert await parts.content.read(inode, 0, 3 * BLOCK) == b"S" * 10 + bytes(3 * BLOCK - 10)
