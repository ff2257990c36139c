"""Bytes from a blob to home: only what is valid, and holes as holes."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from afmfs.gateway.state import transfer
from afmfs.gateway.state.view import View
from afmfs.model import bitmap
from afmfs.model.row_sum import row_sum
from tests.gateway.fake_mount import BLOCK, FakeMount


def push(mount: FakeMount, ino: int, path: Path, *ranges: tuple[int, int]) -> int:
    view = View(mount.cache, BLOCK)
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        return transfer.push(view, ino, None, ranges, fd, os.fstat(fd).st_size)[1]
    finally:
        os.close(fd)
        view.close()


def stored(path: Path) -> list[tuple[int, int]]:
    with path.open("rb") as f:
        return list(transfer.stored(f.fileno(), 0, path.stat().st_size))


def test_holes_stay_holes(mount: FakeMount) -> None:
    size = 10 << 20
    f = mount.make(b"f", size=size)
    mount.put(f, 0, b"x" * 8192)
    mount.put(f, 5 << 20, b"y" * 300_000)
    target = mount.home / "f"
    assert push(mount, f, target, (0, size)) == size
    assert target.stat().st_size == size
    assert target.read_bytes()[:8192] == b"x" * 8192
    assert target.read_bytes()[5 << 20 : (5 << 20) + 300_000] == b"y" * 300_000
    assert target.stat().st_blocks * 512 < 500_000


def test_a_hole_is_made_in_what_home_has(mount: FakeMount) -> None:
    f = mount.make(b"f", size=1 << 20)
    mount.put(f, 500_000, b"data")
    target = mount.home / "f"
    target.write_bytes(b"z" * (1 << 20))
    push(mount, f, target, (100_000, 900_000))
    got = target.read_bytes()
    assert got[:100_000] == b"z" * 100_000 and got[900_000:] == b"z" * (len(got) - 900_000)
    assert got[100_000:500_000] == bytes(400_000) and got[500_000:500_004] == b"data"
    assert target.stat().st_blocks * 512 < 400_000


def test_without_punching(mount: FakeMount, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home that can make no holes gets zeros."""

    def refuse(*_: int) -> None:
        raise OSError(errno.EOPNOTSUPP, "no holes here")

    monkeypatch.setattr(transfer, "fallocate", refuse)
    f = mount.make(b"f", size=3 << 20)
    target = mount.home / "f"
    target.write_bytes(b"z" * (3 << 20))
    push(mount, f, target, (1000, (3 << 20) - 1000))
    got = target.read_bytes()
    assert got == b"z" * 1000 + bytes((3 << 20) - 2000) + b"z" * 1000


def test_only_what_is_valid(mount: FakeMount) -> None:
    """An uncached part is left as home has it; what lies beyond all that home has is a hole."""
    target = mount.home / "f"
    target.write_bytes(b"h" * 20_000)
    f = mount.adopt(b"f")
    mount.update(f, size=40_000)
    mount.put(f, 0, b"c" * 40_000)
    bits = bytes([0b100]) + bytes(1023)  # block 2
    mount.db.execute("INSERT INTO blockmap VALUES (?,0,?,?)", (f, bits, row_sum(f, 0, bits)))
    mount.mark(f, 100, 200)
    push(mount, f, target, (0, 40_000))
    got = target.read_bytes()
    assert got[:100] == b"h" * 100 and got[100:200] == b"c" * 100
    assert got[200:8192] == b"h" * 7992 and got[8192:12288] == b"c" * 4096
    assert got[12288:20_000] == b"h" * 7712 and got[20_000:] == bytes(20_000)


def test_a_run_of_chunks(mount: FakeMount) -> None:
    """It is found from anywhere in it, and looked for in what precedes."""
    (mount.home / "f").write_bytes(b"h")
    f, chunk = mount.adopt(b"f"), bitmap.CHUNK * BLOCK
    mount.update(f, size=1 << 50)
    bits = bytes([1]) + bytes(1023)
    for place, stored_ in ((0, bits), (2, bitmap.run(1000)), (1002, bits), (2000, bits)):
        row = (f, place, stored_, row_sum(f, place, stored_))
        mount.db.execute("INSERT INTO blockmap VALUES (?,?,?,?)", row)
    view = View(mount.cache, BLOCK)
    run = (2 * chunk, 1002 * chunk + BLOCK)
    for asked, valid in {
        (0, 1 << 50): ((0, BLOCK), run, (2000 * chunk, 2000 * chunk + BLOCK)),
        (chunk, 3 * chunk): ((2 * chunk, 3 * chunk),),
        (500 * chunk + 5, 500 * chunk + 9): ((500 * chunk + 5, 500 * chunk + 9),),
        (1001 * chunk, 1500 * chunk): ((1001 * chunk, run[1]),),
        (1 * chunk, 2 * chunk): (),
        (1003 * chunk, 1004 * chunk): (),
    }.items():
        sources = view.sources(f, (asked,))
        assert sources is not None and sources.valid == valid
    assert view.objects_among([f])[0].bytes == 1000 * chunk + 3 * BLOCK
    view.close()


def test_what_neither_side_stores_agrees_unread(
    mount: FakeMount, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Holes cost nothing, whatever their size. A file that is shorter does not agree."""
    size, far = 1 << 30, 1 << 29
    f = mount.make(b"f", size=size)
    mount.put(f, far, b"data")
    target, blob, reads = mount.home / "f", os.open(mount.blob(f), os.O_RDWR), 0
    target.touch()
    home, honest = os.open(target, os.O_RDWR), os.pread

    def pread(fd: int, count: int, offset: int) -> bytes:
        nonlocal reads
        reads += 1
        return honest(fd, count, offset)

    monkeypatch.setattr(os, "pread", pread)
    os.truncate(home, size)
    assert not transfer.agrees(blob, home, ((0, size),))
    os.pwrite(home, b"data", far)
    assert transfer.agrees(blob, home, ((0, size),))
    os.pwrite(home, b"x", size - 1)
    assert not transfer.agrees(blob, home, ((0, far), (size - 5, size)))
    assert transfer.agrees(None, home, ((0, far), (far + 4, size - 1)))
    os.truncate(home, size - 9)
    assert not transfer.agrees(blob, home, ((far, size),))
    assert reads < 20
    os.close(home)
    os.close(blob)


@pytest.mark.parametrize("size", [10, 70_000, 20 << 20])
@pytest.mark.parametrize("ways", [0, 1, 2])
def test_every_way_to_copy(
    mount: FakeMount, monkeypatch: pytest.MonkeyPatch, size: int, ways: int
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(22, "can't")

    if ways:
        monkeypatch.setattr(os, "copy_file_range", refuse)
    if ways > 1:
        monkeypatch.setattr(os, "sendfile", refuse)
    data = os.urandom(size)
    f = mount.make(b"f", data)
    push(mount, f, mount.home / "f", (0, size))
    assert (mount.home / "f").read_bytes() == data


def test_a_blob_that_was_replaced_meanwhile(
    mount: FakeMount, monkeypatch: pytest.MonkeyPatch
) -> None:
    f = mount.make(b"f", b"old bytes")
    view = View(mount.cache, BLOCK)
    stale = view.row(f)
    os.unlink(mount.blob(f))
    mount.update(f, gen=0, size=0)
    mount.put(f, 0, b"new")
    mount.update(f, size=3)
    fd = os.open(mount.home / "f", os.O_RDWR | os.O_CREAT)
    row, end = transfer.push(view, f, stale, ((0, 9),), fd, 0)
    os.close(fd)
    view.close()
    assert (mount.home / "f").read_bytes() == b"new" + bytes(6)
    assert end == 9 and row is not None and row.size == 3


@pytest.mark.parametrize("harm", [os.unlink, lambda blob: os.truncate(blob, 4)])
def test_a_damaged_blob_goes_over_nothing(mount: FakeMount, harm: Callable[[Path], None]) -> None:
    """What it lost is not zeros, and home's bytes may be the last of it."""
    f = mount.make(b"f", b"new bytes")
    harm(mount.blob(f))
    target = mount.home / "f"
    target.write_bytes(b"home's old bytes")
    with pytest.raises(transfer.BlobError, match="missing; check the cache"):
        push(mount, f, target, (0, 9))
    assert target.read_bytes() == b"home's old bytes"


def test_gone_meanwhile(mount: FakeMount) -> None:
    assert push(mount, 999, mount.home / "f", (0, 10)) == 0
    assert (mount.home / "f").read_bytes() == b""


pieces = st.lists(
    st.tuples(st.integers(0, 40), st.integers(1, 12), st.booleans()), min_size=0, max_size=8
)


@given(before=pieces, after=pieces, home_size=st.integers(0, 60))
@settings(max_examples=60, deadline=None)
def test_law(
    tmp_path_factory: pytest.TempPathFactory,
    before: list[tuple[int, int, bool]],
    after: list[tuple[int, int, bool]],
    home_size: int,
) -> None:
    """Home's file comes out as a plain write of the blob's bytes would leave it."""
    base = tmp_path_factory.mktemp("law")
    (base / "home").mkdir()
    mount = FakeMount(base / "cache", base / "home")
    unit = 2048
    f = mount.make(b"f", size=60 * unit)
    mount.put(f, 0, b"")
    blob = bytearray(60 * unit)
    for start, length, data in before:
        if data:
            piece = os.urandom(length * unit)
            mount.put(f, start * unit, piece)
            blob[start * unit : (start + length) * unit] = piece
    target = mount.home / "f"
    wanted = bytearray(b"h" * (home_size * unit))
    target.write_bytes(wanted)
    ranges: tuple[tuple[int, int], ...] = ()
    from afmfs.model.ranges import add

    for start, length, _ in after:
        ranges = add(ranges, start * unit, (start + length) * unit)
    push(mount, f, target, *ranges)
    for a, b in ranges:
        wanted.extend(bytes(max(0, b - len(wanted))))
        wanted[a:b] = blob[a:b]
    assert target.read_bytes() == bytes(wanted)
    assert stat.S_ISREG(target.stat().st_mode)
    mount.close()
