"""A write that is refused for want of room has changed nothing: not the size, not a byte, and
nothing of it is queued."""

from __future__ import annotations

import errno
import os

import pytest

from tests.cache.parts import BLOCK, Parts, parts  # noqa: F401  # the fixture


@pytest.mark.parametrize("call", [1, 2])
async def test_of_what_is_there_and_more(parts: Parts, call: int) -> None:  # noqa: F811
    """Its new bytes come before its transaction, and those that it overwrites after that: room for
    both is asked for before."""
    inode = parts.make(b"f")
    await parts.content.write(inode, 0, b"a" * BLOCK)
    real, calls = parts.store.disk.take, 0

    def take(size: int) -> None:
        nonlocal calls
        calls += 1
        if calls == call:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(size)

    parts.store.disk.take = take  # type: ignore[method-assign]
    before = inode.changed
    try:
        await parts.content.write(inode, BLOCK // 2, b"b" * BLOCK)
    except OSError as exc:
        assert exc.errno == errno.ENOSPC
        assert (inode.size, inode.changed) == (BLOCK, before)
        expected = b"a" * BLOCK
    else:
        expected = b"a" * (BLOCK // 2) + b"b" * BLOCK
    assert await parts.content.read(inode, 0, 9 * BLOCK) == expected
    assert parts.blob_length(inode) == len(expected)


async def test_of_a_hole(parts: Parts) -> None:  # noqa: F811
    """Zeros that are valid, and have no place on the disk yet."""
    inode = parts.make(b"f")
    await parts.content.write(inode, 0, b"a")
    await parts.content.resize(inode, 64 * BLOCK, changes={})
    before = inode.changed

    def claim(fd: int, start: int, end: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    parts.store.disk.claim = claim  # type: ignore[method-assign]
    with pytest.raises(OSError, match="No space left"):
        await parts.content.write(inode, 9 * BLOCK, b"b" * BLOCK)
    assert inode.changed == before
    await parts.content.write(inode, 64 * BLOCK, b"new")  # needs no claim


async def test_a_hole_gets_its_place(parts: Parts) -> None:  # noqa: F811
    inode = parts.make(b"f")
    await parts.content.write(inode, 0, b"a")
    await parts.content.resize(inode, 64 * BLOCK, changes={})
    parts.blobs.claim(inode, ((9 * BLOCK, 11 * BLOCK),))
    fd = parts.blobs.descriptor(inode)
    assert fd is not None
    assert os.fstat(fd).st_blocks * 512 >= 2 * BLOCK
    assert await parts.content.read(inode, 9 * BLOCK, BLOCK) == bytes(BLOCK)


@pytest.mark.parametrize("fails", ["bytes", "transaction"])
async def test_what_was_begun_gives_its_place_back(
    parts: Parts,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    fails: str,
) -> None:
    """At once: others need it, and nothing would ever tell of it."""
    inode = parts.make(b"f")
    await parts.content.write(inode, 0, b"a" * BLOCK)
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    real, lengths = os.pwrite, list[int]()

    def pwrite(fd: int, data: bytes, offset: int) -> int:
        if lengths and fails == "bytes":
            raise full
        done = real(fd, data[:BLOCK] if fails == "bytes" else data, offset)
        lengths.append(os.fstat(fd).st_size)
        return done

    def append(*_: object, **__: object) -> int:
        raise full

    monkeypatch.setattr(os, "pwrite", pwrite)
    if fails == "transaction":
        monkeypatch.setattr(type(parts.store), "append", append)
    with pytest.raises(OSError, match="No space left"):
        await parts.content.write(inode, BLOCK, b"b" * 5 * BLOCK)
    assert lengths[0] > BLOCK
    assert parts.blob_length(inode) == inode.size == BLOCK
