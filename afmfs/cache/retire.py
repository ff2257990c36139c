"""Taking over outcomes: what is durable at home leaves the queue.

Outcomes are read from gateway.db, where they are durable. Rows, stamps and `home_valid` change in
one transaction. The gateway may forget an outcome once a durable point has followed
(forget-after-durable).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import trio

from afmfs.cache.inode import Inode
from afmfs.cache.store import Store, connect_read_only
from afmfs.model.entry import IN_PLACE, Op

STEP = 256
"""Outcomes taken over in one transaction; other requests are answered between two."""

Outcome = tuple[int, int, int, int | None, int | None, int | None, str, int | None]
"""seq, entry, inode, home's size, mtime (ns) and inode number after it, result, errno."""


class Retirement:
    def __init__(self, store: Store, journal: Path, retired: Callable[[int, int], None]) -> None:
        self._store, self._journal, self._retired = store, journal, retired
        self._reader: sqlite3.Connection | None = None
        self._lock = trio.Lock()
        self.entries = self.bytes = 0  # retired by this process
        self.seq = 0  # outcomes up to here are retired, not yet durably so

    async def take_over(self) -> None:
        """Retire every outcome that gateway.db holds."""
        async with self._lock:
            while self.step():
                await trio.lowlevel.checkpoint()

    def step(self) -> bool:
        """Retire some outcomes in one transaction; whether there may be more."""
        outcomes = self.read()
        if outcomes:
            with self._store:
                self.retire(outcomes)
            self.seq = outcomes[-1][0]
        return len(outcomes) == STEP

    def read(self) -> list[Outcome]:
        """The next outcomes that are not retired yet."""
        if self._reader is None:
            if not self._journal.exists():
                return []
            self._reader = connect_read_only(self._journal)
        return self._reader.execute(
            "SELECT seq, id, ino, home_size, home_mtime, home_ino, result, errno"
            " FROM outcome WHERE seq > ? ORDER BY seq LIMIT ?",
            (self.seq, STEP),
        ).fetchall()

    def retire(self, outcomes: list[Outcome]) -> None:
        """In the caller's transaction."""
        store, counters = self._store, self._store.counters
        marks = ",".join("?" * len(outcomes))
        gone = store.execute(
            f'DELETE FROM queue WHERE id IN ({marks}) RETURNING id, op, ino, start, "end", flags',
            [outcome[1] for outcome in outcomes],
        ).fetchall()
        self.entries += len(gone)
        last: dict[int, int] = {}
        for number, op, ino, start, end, flags in gone:
            counters.queue_length -= 1
            if op == Op.WRITE:
                counters.bytes_pending -= end - start
                self.bytes += end - start
                if flags & IN_PLACE:
                    self._retired(ino, number)
            last[ino] = max(number, last.get(ino, 0))
        # An outcome that was retired before a restart says nothing new.
        now = {row[0] for row in gone}
        stamps = {o[2]: o for o in outcomes if o[1] in now and o[4] is not None}
        refused = {o[1]: o[7] for o in outcomes if o[6] == "unrepresentable"}
        store.db.executemany(
            "INSERT OR REPLACE INTO unrepresentable VALUES (?,?,?)",
            [(row[2], row[1], refused[row[0]]) for row in gone if row[0] in refused],
        )
        for ino, number in last.items():
            inode = store.inode(ino)
            if inode is not None:
                self._settle(inode, number, stamps.get(ino))

    def _settle(self, inode: Inode, number: int, stamp: Outcome | None) -> None:
        if stamp is None:
            self._store.save(inode, retired=max(inode.retired, number))
            return
        size, mtime, home_ino = stamp[3:6]
        self._store.save(
            inode, retired=max(inode.retired, number),
            home_size=size, home_mtime=mtime, home_ino=home_ino,
            home_valid=self._home_valid(inode, size or 0) if inode.is_file else 0,
        )  # fmt: skip

    def _home_valid(self, inode: Inode, size: int) -> int:
        """The smaller of the size at home and every size in an unretired entry (home-valid)."""
        row = self._store.execute(
            'SELECT min("end") FROM queue WHERE ino=? AND op<>6 AND op=?', (inode.ino, Op.SIZE)
        ).fetchone()
        smallest = row[0]
        return min(size, inode.size) if smallest is None else min(size, smallest, inode.size)

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()
