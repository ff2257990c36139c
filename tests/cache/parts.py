"""The cache's half without fileset, gateway or kernel: what the tests of its crash rules need.

`calls` records, in order, what reaches the disk: "blob", "commit", "sync_wal", "syncfs". A test
kills the process at one of them by naming it in `kill_at`, and looks at what a new one finds.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from afmfs.cache.content import durable as durable_module
from afmfs.cache.content import leftovers
from afmfs.cache.content.blobs import Blobs
from afmfs.cache.content.content import Content
from afmfs.cache.content.durable import Durable
from afmfs.cache.content.locks import InodeLocks
from afmfs.cache.content.recovery import Recovery
from afmfs.cache.content.validity import Validity
from afmfs.cache.home.retire import Retirement
from afmfs.cache.names.namespace import Namespace
from afmfs.cache.store.inode import LISTED, Inode
from afmfs.cache.store.store import Store
from afmfs.model.entry import ROOT, UNLINKED, Entry, Op

BLOCK = 4096


class Killed(BaseException):
    """The process ends here: nothing after it happens."""


class RecordingStore(Store):
    calls: list[str]
    kill_at: set[str]

    def __exit__(self, kind: Any, exc: Any, trace: Any) -> None:
        if kind is None:
            reach(self, "commit")
        super().__exit__(kind, exc, trace)
        if kind is None:
            reach(self, "committed")

    def sync_wal(self) -> None:
        reach(self, "sync_wal")
        super().sync_wal()


class RecordingBlobs(Blobs):
    calls: list[str]
    kill_at: set[str]

    def write(self, inode: Inode, offset: int, data: bytes | memoryview) -> None:
        reach(self, "blob")
        super().write(inode, offset, data)

    def cut(self, inode: Inode, size: int) -> None:
        reach(self, "cut")
        super().cut(inode, size)

    def destroy(self, gens: Iterable[int]) -> None:
        reach(self, "remove")
        super().destroy(gens)


def reach(part: RecordingStore | RecordingBlobs, what: str) -> None:
    part.calls.append(what)
    if what in part.kill_at:
        raise Killed(what)


class Parts:
    """One run of the mount process over the cache in `place`."""

    def __init__(self, place: Path, *, recover: bool = True) -> None:
        self.place = place
        self.calls: list[str] = []
        self.kill_at: set[str] = set()
        self.following: Parts | None = None
        self.closed = False
        RecordingStore.calls = RecordingBlobs.calls = self.calls
        RecordingStore.kill_at = RecordingBlobs.kill_at = self.kill_at
        self.store = store = RecordingStore(place / "cache.db")
        self.blobs = RecordingBlobs(place, partial(leftovers.take, store), store.disk)
        self.blobs.in_reclaim.update(
            ino for (ino,) in store.execute("SELECT ino FROM reclaim WHERE start > 0")
        )
        self.locks, self.validity = InodeLocks(), Validity(store, BLOCK)
        self.durable = Durable(store, self.blobs, self.locks)
        self.content = Content(store, self.blobs, self.validity, self.locks, self.durable.sync_wal)
        self.durable.attach(self.content)
        self.opened: set[int] = set()
        self.forgotten: list[int] = []  # inodes that the kernel is to forget
        self.namespace = Namespace(store, self.opened.__contains__, self.validity)
        self.retirement = Retirement(
            store, place / "gateway.db", self.content, self.forgotten.append
        )
        if recover:
            self.recover()
        if store.inode(ROOT) is None:
            with store:
                for ino in (ROOT, UNLINKED):
                    store.add(Inode(ino, stat.S_IFDIR | 0o755, 0, 0, 0, 2, 0, 0, 0, 0))
        self.root = store.inode(ROOT)
        self.calls.clear()

    def recover(self) -> None:
        Recovery(self.store, self.blobs, self.validity, self.namespace, self.retirement).run()

    def make(self, name: bytes) -> Inode:
        assert self.root
        return self.namespace.make(
            self.root, name, mode=stat.S_IFREG | 0o644, uid=0, gid=0, rdev=0, target=None
        )

    def uncached(self, name: bytes, size: int) -> Inode:
        """A file that only home holds."""
        inode = Inode(
            self.store.inos.take(), stat.S_IFREG | 0o644, 0, 0, 0, 1, size, 0, 0, 0,
            whole=False, home_valid=size, listed=LISTED, home_size=size, home_mtime=1, home_ino=9,
        )  # fmt: skip
        with self.store as store:
            store.add(inode)
            self.namespace.enter(ROOT, name, inode.ino)
        self.calls.clear()
        return inode

    def fetched(self, inode: Inode, start: int, data: bytes) -> None:
        self.content.fill(inode, start, memoryview(data), self.durable.point)

    def entries(self, ino: int, op: Op | None = None) -> list[Entry]:
        return [e for e in self.store.entries_of(ino) if op is None or e.op is op]

    def retire(self, inode: Inode, *, size: int | None = None) -> None:
        """The gateway has executed everything that is queued of the inode."""
        outcomes = [
            (e.id, e.id, e.ino, inode.size if size is None else size, 5, 9, "done", None)
            for e in self.entries(inode.ino)
        ]
        with self.store:
            self.retirement.retire(outcomes)
        self.calls.clear()

    def blob_length(self, inode: Inode) -> int | None:
        from afmfs.model.blocks import blob_name

        path = self.place / "blobs" / blob_name(inode.gen)
        return path.stat().st_size if path.exists() else None

    def again(self, *, lost_writes: bool = False, recover: bool = True) -> Parts:
        """The next run. With `lost_writes` as after a reboot (what was lost, the test arranges)."""
        self.kill_at.clear()
        if lost_writes:
            with self.store as store:
                store.put("boot_id", "another boot")
        self.close()
        self.following = Parts(self.place, recover=recover)
        return self.following

    def close(self) -> None:
        """Give back descriptors, and nothing more: what is on the disk stays as it is."""
        self.kill_at.clear()
        if self.following is not None:
            self.following.close()
        elif not self.closed:
            self.retirement.close()
            self.store.close()
            self.blobs.close()
        self.closed = True

    def inode(self, name: bytes) -> Inode:
        found = self.namespace.find(ROOT, name)
        assert found is not None
        return found


@pytest.fixture
def parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Parts]:
    made = Parts(tmp_path)
    real = durable_module.syncfs

    def syncfs(fd: int) -> None:
        made.calls.append("syncfs")
        real(fd)

    monkeypatch.setattr(durable_module, "syncfs", syncfs)
    yield made
    made.close()
