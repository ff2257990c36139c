"""The disks themselves: they keep what was flushed, and lose what was not."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.disks import needs_root
from tests.power.cuts import MANNERS, SECTOR, WHOLE, Log, survivors
from tests.power.disks import Disks, blank, check, detach, powered
from tests.power.recorder import FLUSH, RECORD, WRITE

LARGE = 300_000


def record(directory: Path, *rows: tuple[int, int, int, bytes]) -> Log:
    """A log of made-up rows: disk, kind, offset, bytes."""
    data = b""
    with (directory / "index").open("wb") as index:
        for disk, kind, offset, piece in rows:
            index.write(RECORD.pack(disk, kind, offset, len(piece), len(data)))
            data += piece
    (directory / "bytes").write_bytes(data)
    return Log(directory)


@pytest.fixture
def log(tmp_path: Path) -> Log:
    (tmp_path / "base").write_bytes(b"-" * (WHOLE + 4 * SECTOR))
    return record(
        tmp_path,
        (0, WRITE, WHOLE, b"a" * SECTOR),
        (1, WRITE, 0, b"other"),
        (0, FLUSH, 0, b""),
        (1, FLUSH, 0, b""),
        (0, WRITE, WHOLE + SECTOR, b"b" * 2 * SECTOR),
        (0, WRITE, WHOLE + 3 * SECTOR, b"c" * SECTOR),
    )


def outcomes(log: Log, base: Path, position: int, manner: str) -> set[bytes]:
    """The first byte of each sector, in many tries."""
    found = set()
    for seed in range(60):
        image = base / "image"
        log.build(base / "base", survivors(log, 0, position, manner, random.Random(seed)), image)
        found.add(image.read_bytes()[WHOLE::SECTOR])
    return found


def test_what_was_flushed_stays(log: Log, tmp_path: Path) -> None:
    for manner in MANNERS:
        assert {one[:1] for one in outcomes(log, tmp_path, 6, manner)} == {b"a"}
    assert outcomes(log, tmp_path, 2, "none") == {b"----"}  # its flush has not come yet
    assert outcomes(log, tmp_path, 3, "none") == {b"a---"}


def test_what_was_not_flushed_may_go(log: Log, tmp_path: Path) -> None:
    assert outcomes(log, tmp_path, 6, "all") == {b"abbc"}
    assert outcomes(log, tmp_path, 5, "all") == {b"abb-"}
    assert outcomes(log, tmp_path, 6, "some") == {b"a---", b"abb-", b"a--c", b"abbc"}
    assert b"ab--" in outcomes(log, tmp_path, 6, "torn")


@pytest.fixture
def disks(tmp_path: Path) -> Iterator[Disks]:
    with Disks(tmp_path / "disks", watch=60) as disks:
        yield disks


@pytest.mark.mounted
@needs_root
def test_a_file_system_on_them(disks: Disks, tmp_path: Path) -> None:
    """What was fsynced is there after every cut that follows; what was not is lost in some. And
    ext4 finds no fault with any of them."""
    disk = disks.add(blank(disks.directory / "blank"))
    point, data = tmp_path / "p", os.urandom(LARGE)
    disks.attach(disk, point)
    synced = -1
    for name in ("synced", "not"):
        with (point / name).open("wb") as file:
            file.write(data)
            if name == "synced":
                file.flush()
                os.fsync(file.fileno())
                synced = disks.position
    end = disks.position
    detach(point)
    log, image, lost = disks.log(), disks.directory / "image", 0
    for seed in range(12):
        dice = random.Random(seed)
        position = dice.randrange(synced, end + 1)
        kept = survivors(log, disk, position, MANNERS[seed % len(MANNERS)], dice)
        log.build(disks.base(disk), kept, image)
        with powered(image, point):
            assert (point / "synced").read_bytes() == data
            other = point / "not"
            lost += not other.exists() or other.read_bytes() != data
        check(image)
    assert lost
