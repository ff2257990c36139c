"""A resync to an emptied home, killed again and again: it goes on, and writes little twice.

AFMFS_RESYNC_FILES sets how many files (10000, of 1 GiB together), AFMFS_SEED which are damaged.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.conftest import MakeMount
from tests.harness.mounting import Mount, wait_until
from tests.harness.trees import snapshot

FILES = int(os.environ.get("AFMFS_RESYNC_FILES", "10000"))
KILLS = 10
BLOCK = 64 << 10
LARGE = 40
LARGE_BYTES = 10 << 20

Partial = dict[str, list[int]]
"""File to the blocks of it that are cached."""


def plant(point: Path, dice: random.Random) -> list[str]:
    """FILES files of 1 GiB for every 10,000, in directories of a hundred."""
    noise = dice.randbytes(1 << 20)
    large = max(1, LARGE * FILES // 10_000)
    small_bytes = ((1 << 30) * FILES // 10_000 - large * LARGE_BYTES) // (FILES - large)
    names = []
    for number in range(FILES):
        directory = point / f"d{number // 100 % 10}" / f"e{number // 100}"
        if number % 100 == 0:
            directory.mkdir(parents=True, exist_ok=True)
        path = directory / f"f{number}"
        size = LARGE_BYTES if number < large else dice.randrange(small_bytes * 2)
        with path.open("wb", buffering=0) as file:
            file.write(b"%020d" % number)
            for start in range(0, size, len(noise)):
                file.write(noise[: size - start])
        names.append(str(path.relative_to(point)))
    return names


def thin_out(mount: Mount, names: list[str], dice: random.Random) -> tuple[list[str], Partial]:
    """Evict some files, and bring back a few blocks of others."""
    chosen = dice.sample(names[: max(2, LARGE * FILES // 10_000)], 6 if FILES >= 10_000 else 2)
    chosen += dice.sample(names[LARGE:], FILES // 100)
    for start in range(0, len(chosen), 50):
        done = mount.afmctl("evict", "--file", *chosen[start : start + 50])
        assert done.returncode == 0, done.stderr
    partial: Partial = {}
    for name in chosen[::2]:
        size = (mount.point / name).stat().st_size
        block = dice.randrange(-(-size // BLOCK))
        with (mount.point / name).open("rb", buffering=0) as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
            os.preadv(file.fileno(), [bytearray(1)], block * BLOCK)
        partial[name] = []
    return chosen[1::2], partial


def empty(home: Path) -> None:
    for path in home.iterdir():
        if path.name != ".afm":
            shutil.rmtree(path)


class Written:
    """Bytes that gateways wrote, each counted when it was stopped for its end."""

    def __init__(self, mount: Mount) -> None:
        self._mount, self.bytes = mount, 0

    def take(self) -> None:
        (gateway,) = self._mount.gateways()
        os.kill(gateway.pid, signal.SIGSTOP)
        self.bytes += written(gateway)


def written(process: psutil.Process) -> int:
    for line in Path(f"/proc/{process.pid}/io").read_text().splitlines():
        if line.startswith("wchar:"):
            return int(line.split()[1])
    raise AssertionError("no wchar")


def job(mount: Mount) -> dict[str, Any] | None:
    found: dict[str, Any] | None = mount.status()["job"]
    return found


def left(mount: Mount) -> int | None:
    """Rows that are left of a resync that is pushing."""
    found = job(mount)
    return int(found["left"]) if found is not None and found["phase"] == "pushing" else None


def kill_when_below(mount: Mount, rows: int, who: str, count: Written) -> int:
    """Kill while the resync runs, once no more than `rows` are left; how many were."""
    wait_until(lambda: (left(mount) or FILES * 2) <= rows, 60, f"{rows} rows left", every=0.002)
    wait_until(lambda: len(mount.gateways()) == 1, 30, "a gateway")
    count.take()
    before = left(mount) if who == "gateway" else rows
    mount.kill9(who)
    if who != "gateway":
        mount.mount("none")
    assert job(mount) is not None, "the kill came too late to meet the resync"
    return before or 0


def check(mount: Mount, home: Path, evicted: list[str], partial: Partial, before: Any) -> None:
    """Every cached byte is at home, uncached ones are null, evicted files stay away."""
    after = snapshot(home)
    gone = {name.encode() for name in evicted}
    for path, node in before.items():
        if path in gone:
            assert path not in after, path
        elif path.decode() in partial:
            assert (after[path].size, after[path].mtime) == (node.size, node.mtime), path
            check_partial(mount, home, path.decode())
        else:
            assert after[path] == node, path


def check_partial(mount: Mount, home: Path, name: str) -> None:
    """Home's file reads as the cache's; where it is not null, it has what was written."""
    data, whole = (home / name).read_bytes(), (mount.point / name).read_bytes()
    assert data == whole, name
    blocks = {data[at : at + BLOCK] for at in range(0, len(data), BLOCK)}
    assert any(set(block) != {0} for block in blocks), f"{name}: no cached block came to home"


@pytest.mark.long
@pytest.mark.mounted
def test_a_resync_survives_kills_and_writes_little_twice(make_mount: MakeMount, home: Path) -> None:
    seed = int(os.environ.get("AFMFS_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 20)
    print(f"again: AFMFS_SEED={seed} AFMFS_RESYNC_FILES={FILES}")
    dice = random.Random(seed)
    mount = make_mount(home, f"block_size={BLOCK}", "async_delay=0", watch=500)
    names = plant(mount.point, dice)
    mount.flush()
    before = snapshot(home)
    evicted, partial = thin_out(mount, names, dice)
    empty(home)
    count = Written(mount)
    start = sum(written(gateway) for gateway in mount.gateways())
    began = time.monotonic()
    assert mount.afmctl("resync", "--yes").returncode == 0
    met = []
    for number in range(KILLS):
        rows = FILES - FILES * (number + 1) // (KILLS + 2)
        met.append(kill_when_below(mount, rows, "both" if number % 4 == 3 else "gateway", count))
    mount.await_state("Active", "Inactive", seconds=60)  # nothing has touched it since a remount
    print(f"{time.monotonic() - began:.1f} s, killed with {met} rows left")
    assert len(met) == KILLS and all(met), met
    total = count.bytes - start + sum(written(gateway) for gateway in mount.gateways())
    size = sum(node.size or 0 for node in before.values())
    print(f"{total / size:.2f} times the tree's {size} bytes were written")
    assert total <= 1.5 * size
    assert "afmManualResyncComplete" in mount.events(1000)
    check(mount, home, evicted, partial, before)
