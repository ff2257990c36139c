"""A fileset that remembers what was asked of it."""

from __future__ import annotations

import errno
import json
import stat
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any

from afmfs.cache.callback.callbacks import Callbacks
from afmfs.cache.evict.evict import Evictions
from afmfs.cache.home.trash import TrashDesk
from afmfs.cache.report.status import CachedReport, Status
from afmfs.cache.store.inode import Inode
from afmfs.errors import Refused

TREE = {(1, b"dir"): 16, (16, b"a file"): 17, (16, b"\xff\n"): 18}


class FakeFileset:
    mount_point = "/mnt/sw1"
    trash: TrashDesk  # none of these is there
    callbacks: Callbacks
    evictions: Evictions

    def __init__(self, **status: Any) -> None:
        values = {"device": "fs1", "fileset": "sw1", "target": "/home", "state": "Active"}
        self.shown = Status(**({"gateway": "gw", **values} | status))
        self.calls: list[Any] = []
        self.pending = 1
        self.rows: list[dict[str, Any]] = [{"summary": {}}]  # of a report
        self.broken: OSError | None = None  # what reading its control directory raises

    def status(self) -> Status:
        return self.shown

    def touch(self) -> None:
        self.calls.append("touch")

    def flush_pending(self) -> int:
        self.calls.append("flush")
        return 42

    def stop(self) -> None:
        self.calls.append("stop")

    def start(self) -> None:
        self.calls.append("start")

    def resume_requeued(self) -> int:
        self.calls.append("resume")
        return 1

    async def resync(self, *, keep_uncached: bool) -> None:
        self.calls.append(("resync", keep_uncached))

    async def failover(self, target: str, *, target_only: bool) -> None:
        self.calls.append(("failover", target, target_only))

    def start_report(self, kind: str, **options: Any) -> int:
        self.calls.append((kind, options))
        number = (self.shown.report or {"number": 0})["number"] + 1
        report = {"number": number, "kind": kind, "running": False, "errno": 0, "reason": ""}
        self.shown = replace(self.shown, report=report)
        return number

    def report_lines(self) -> bytes:
        """What `.afm/report` has: the rows, the summary with the report's number."""
        *rows, last = self.rows
        number = self.shown.report and self.shown.report["number"]
        return b"".join(
            json.dumps(row).encode() + b"\n" for row in [*rows, last | {"report": number}]
        )

    def set_auto_resync(self, *, on: bool) -> None:
        self.shown = replace(self.shown, auto_resync=on)

    async def drop(self, number: int) -> None:
        if number != 7:
            raise Refused(f"no entry {number}")
        self.calls.append(("drop", number))

    async def lookup(self, parent: int, name: bytes) -> Inode:
        if (parent, name) not in TREE:
            raise OSError(errno.ENOENT, "no such name")
        mode = stat.S_IFREG | 0o644
        return Inode(TREE[parent, name], mode, 0, 0, 0, 1, 0, 0, 0, 0)

    def cached(self, ino: int) -> CachedReport:
        return CachedReport(
            state="partial",
            size=ino,
            cached_bytes=1,
            blocks=2,
            cached_blocks=1,
            block_size=4096,
            dirty=False,
        )

    def events(self) -> list[dict[str, Any]]:
        return [{"number": 1, "time": "T", "name": "afmStarted"}]

    async def queue_lines(self) -> AsyncGenerator[bytes, None]:
        for n in range(self.pending):
            yield b'{"id": %d}\n' % n
