"""What a request costs does not grow with what the cache holds, nor with what is queued.

Counted in steps of SQLite's machine, which are the same on any computer. What is seen at ten
million: `scripts/bench scale`.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path

from afmfs.cache.fileset import Fileset
from afmfs.model.entry import ROOT
from scripts.benchmark.planted import PER_DIRECTORY, plant
from tests.harness.fake_gateway import open_office
from tests.harness.steps import EVERY, StepsCounted

FEW, MANY = 2 * PER_DIRECTORY, 20 * PER_DIRECTORY

Request = Callable[[Fileset], Awaitable[object]]


async def make(fileset: Fileset) -> None:
    uid, gid = os.geteuid(), os.getegid()
    inode = await fileset.make(ROOT, b"new", mode=stat.S_IFREG | 0o644, uid=uid, gid=gid)
    await fileset.open(inode.ino, os.O_RDWR)
    await fileset.write(inode.ino, 0, b"data")
    await fileset.fsync(inode.ino)
    fileset.release(inode.ino)
    await fileset.remove(ROOT, b"new", directory=False)


async def read_directory(fileset: Fileset) -> None:
    (first,) = [ino for name, ino in await listed(fileset, 1)]
    assert len(await fileset.readdir(first, 0, 100)) == 100


async def listed(fileset: Fileset, limit: int) -> list[tuple[bytes, int]]:
    return [(name, inode.ino) for name, inode, _ in await fileset.readdir(ROOT, 0, limit)]


async def change(fileset: Fileset) -> None:
    (name, ino), *_ = await listed(fileset, 1)
    await fileset.rename(ROOT, name, ROOT, name + b"2", 0)


async def state(fileset: Fileset) -> None:
    assert fileset.status().queue_length >= FEW
    await fileset.execute("getstate")


REQUESTS: dict[str, Request] = {
    "make": make, "readdir": read_directory, "rename": change, "state": state
}  # fmt: skip


async def counted(base: Path, count: int) -> dict[str, int]:
    """Steps of each request on a cache of so many objects, all of them queued."""
    async with open_office() as office:
        async with office.fileset(base):
            pass
        plant(base / "cache", count)
        async with office.fileset(base) as fileset:
            return {name: await steps(fileset, request) for name, request in REQUESTS.items()}


async def steps(fileset: Fileset, request: Request) -> int:
    with StepsCounted(fileset._store.db) as counted:
        await request(fileset)
    return counted.steps


async def test_no_request_grows_with_the_queue(tmp_path: Path) -> None:
    few = await counted(tmp_path / "few", FEW)
    many = await counted(tmp_path / "many", MANY)
    for name in REQUESTS:
        assert many[name] <= 1.2 * few[name] + 20 * EVERY, name
