"""The measured operations, as groups: the rows of a group work on the same files, in order.

Every row returns a rate: operations, entries or MiB a second, more is better. What it prepares is
not timed. Loops are plain system calls, so that the loop costs a few per cent of a FUSE request.
"""

from __future__ import annotations

import os
import random
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

KIB, MIB = 1 << 10, 1 << 20
DATA = random.Random(0).randbytes(MIB)

ROWS = {
    "create 4 KiB": "files/s",
    "stat cold": "files/s",
    "stat hot": "files/s",
    "open + read 4 KiB": "files/s",
    "overwrite (truncate)": "files/s",
    "overwrite (in place)": "files/s",
    "readdir": "entries/s",
    "rename": "files/s",
    "unlink": "files/s",
    "mkdir": "dirs/s",
    "rmdir": "dirs/s",
    "write 4 KiB": "MiB/s",
    "read 4 KiB": "MiB/s",
    "write 1 MiB": "MiB/s",
    "read 1 MiB": "MiB/s",
    "random write 4 KiB": "writes/s",
    "random write 4 KiB + fsync": "writes/s",
}


@dataclass
class Work:
    """One turn of one system."""

    root: Path
    count: int  # files, directories
    megabytes: int  # of the streamed files
    native: bool
    results: dict[str, float]

    @contextmanager
    def timed(self, row: str, amount: float) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.results[row] = amount / (time.perf_counter() - start)

    def names(self, kind: str) -> list[str]:
        directory = self.root / "work"
        directory.mkdir(exist_ok=True)
        return [f"{directory}/{kind}{number}" for number in range(self.count)]


def put(path: str, flags: int, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | flags, 0o644)
    os.write(descriptor, data)
    os.close(descriptor)


def get(path: str, size: int) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    os.read(descriptor, size)
    os.close(descriptor)


def spread(directory: Path) -> None:
    """Let ext4 give every directory in `directory` its own part of the disk."""
    subprocess.run(["chattr", "+T", str(directory)], capture_output=True, check=False)


def drop_names() -> bool:
    """Make the kernel forget names and attributes of every file system; root may."""
    os.sync()
    try:
        Path("/proc/sys/vm/drop_caches").write_text("2")
    except PermissionError:
        return False
    return True


def small_objects(work: Work) -> None:
    """Nothing is removed before everything is made: ext4 makes files slowly, for minutes, where
    others have just been removed."""
    data, files = DATA[: 4 * KIB], work.names("file")
    with work.timed("create 4 KiB", len(files)):
        for path in files:
            put(path, os.O_CREAT | os.O_EXCL, data)
    if drop_names():
        with work.timed("stat cold", len(files)):
            for path in files:
                os.stat(path)
    with work.timed("stat hot", len(files)):
        for path in files:
            os.stat(path)
    with work.timed("open + read 4 KiB", len(files)):
        for path in files:
            get(path, 4 * KIB)
    with work.timed("overwrite (truncate)", len(files)):
        for path in files:
            put(path, os.O_TRUNC, data)
    with work.timed("overwrite (in place)", len(files)):
        for path in files:
            put(path, 0, data)
    directory, turns = os.path.dirname(files[0]), 3
    with work.timed("readdir", turns * len(files)):
        for _ in range(turns):
            assert len(os.listdir(directory)) == len(files)
    renamed = work.names("renamed")
    with work.timed("rename", len(files)):
        for path, target in zip(files, renamed, strict=True):
            os.rename(path, target)
    made = work.names("dir")
    with work.timed("mkdir", len(made)):
        for path in made:
            os.mkdir(path)
    with work.timed("unlink", len(files)):
        for path in renamed:
            os.unlink(path)
    with work.timed("rmdir", len(made)):
        for path in made:
            os.rmdir(path)


def stream(work: Work, name: str, chunk: int) -> None:
    """Written once from start to end, then read with the mount's pages dropped, home's not."""
    path, data = str(work.root / f"stream{chunk}"), memoryview(DATA)[:chunk]
    with work.timed(f"write {name}", work.megabytes):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        for _ in range(work.megabytes * MIB // chunk):
            os.write(descriptor, data)
        os.close(descriptor)
    descriptor = os.open(path, os.O_RDONLY)
    if not work.native:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    buffer = bytearray(chunk)
    with work.timed(f"read {name}", work.megabytes):
        while os.readv(descriptor, [buffer]):
            pass
    os.close(descriptor)


def streams(work: Work) -> None:
    stream(work, "4 KiB", 4 * KIB)
    stream(work, "1 MiB", MIB)


def random_writes(work: Work) -> None:
    path, data, dice = str(work.root / "random"), DATA[: 4 * KIB], random.Random(1)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    for _ in range(work.megabytes):
        os.write(descriptor, DATA)
    os.fsync(descriptor)
    places = [dice.randrange(work.megabytes * 256) * 4 * KIB for _ in range(4 * work.count)]
    with work.timed("random write 4 KiB", len(places)):
        for offset in places:
            os.pwrite(descriptor, data, offset)
    os.fsync(descriptor)
    few = places[: max(work.count // 10, 10)]
    with work.timed("random write 4 KiB + fsync", len(few)):
        for offset in few:
            os.pwrite(descriptor, data, offset)
            os.fsync(descriptor)
    os.close(descriptor)


GROUPS: dict[Callable[[Work], None], list[str]] = {
    streams: list(ROWS)[11:15],
    random_writes: list(ROWS)[15:],
    small_objects: list(ROWS)[:11],
}


def measure(work: Work, rows: list[str]) -> dict[str, float]:
    """The rates of `rows`; a group is run whole if one row of it is asked for."""
    for group, members in GROUPS.items():
        if set(members) & set(rows):
            group(work)
    return {row: rate for row, rate in work.results.items() if row in rows}
