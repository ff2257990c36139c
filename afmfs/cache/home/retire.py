"""Taking over outcomes: what is durable at home leaves the queue.

Outcomes are read from gateway.db, where they are durable, and taken over in their order: of two
that tell a version of one file, the later one holds. Rows, stamps and `home_valid` change in one
transaction. The gateway may forget an outcome once a durable point has followed
(forget-after-durable).
"""

from __future__ import annotations

import errno
import json
import logging
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from pathlib import Path

import trio

from afmfs.cache.content.content import Content
from afmfs.cache.evict.usage import may_be_evicted
from afmfs.cache.home.known_journal import remembered
from afmfs.cache.home.nulls import Nulls
from afmfs.cache.home.settle import Settlement
from afmfs.cache.store.inode import Inode
from afmfs.cache.store.store import Store, connect_read_only
from afmfs.model.entry import IN_PLACE, Op
from afmfs.model.outcome import ADOPTED, DROPPED, NULLED, UNREPRESENTABLE

log = logging.getLogger(__name__)

STEP = 256
"""Outcomes taken over in one transaction; other requests are answered between two."""

Outcome = tuple[int, int, int, int | None, int | None, int | None, str, int | None]
"""seq, entry (0: it tells of an inode), inode, home's size, mtime (ns) and inode number after it,
result, errno."""


class Retirement:
    """`changed` is told of files whose content is another now than what the kernel may hold;
    `adopted` as well where it is home's version, with where the file ended before."""

    def __init__(
        self,
        store: Store,
        journal: Path,
        content: Content,
        changed: Callable[[int], None] = lambda ino: None,
        adopted: Callable[[int, int], None] = lambda ino, end: None,
    ) -> None:
        self._store, self._journal, self._content = store, journal, content
        self.changed, self.adopted = changed, adopted
        self._settlement = Settlement(store, content)
        self._reader: sqlite3.Connection | None = None
        self._lock = trio.Lock()
        self.nulls = Nulls(self._connection)
        self._name = ""  # of the journal
        self._told = 0  # the last outcome of it that was taken over in a former run
        self.entries = self.bytes = 0  # retired by this process
        self.seq = 0  # outcomes up to here are retired, not yet durably so
        self.unsure = 0  # up to this entry the queue has lost some, and no job has mended that yet

    async def follow(self, journal: Path) -> None:
        """Read another gateway.db from here on."""
        async with self._lock:
            self.close()
            self._reader, self._journal, self.seq = None, journal, 0

    async def take_over(self) -> None:
        """Retire every outcome that gateway.db holds."""
        async with self._lock:
            while self.step():
                await trio.lowlevel.checkpoint()

    def step(self) -> bool:
        """Retire some outcomes in one transaction; whether there may be more."""
        outcomes = self.read()
        if outcomes:
            ends = self._ends(outcomes)
            with self._store:
                changed = self.retire(outcomes)
            self.seq = outcomes[-1][0]
            for ino in changed:
                self.changed(ino)
                if ino in ends:
                    self.adopted(ino, ends[ino])
        return len(outcomes) == STEP

    def _ends(self, outcomes: list[Outcome]) -> dict[int, int]:
        """Where files end now of which home's version is to be adopted."""
        inodes = (self._store.inode(o[2]) for o in outcomes if o[6] == ADOPTED)
        return {inode.ino: inode.size for inode in inodes if inode is not None}

    def read(self) -> list[Outcome]:
        """The next outcomes that are not retired yet."""
        reader = self._connection()
        if reader is None:
            return []
        return reader.execute(
            "SELECT seq, id, ino, home_size, home_mtime, home_ino, result, errno"
            " FROM outcome WHERE seq > ? ORDER BY seq LIMIT ?",
            (self.seq, STEP),
        ).fetchall()

    def _connection(self) -> sqlite3.Connection | None:
        """To the journal that the cache works with. Another one, which has come in its place, says
        nothing of our entries: the gateway sets it aside, or it is new."""
        if self._reader is None and self._journal.exists():
            reader = connect_read_only(self._journal)
            try:
                row = reader.execute("SELECT value FROM state WHERE key='journal'").fetchone()
            except sqlite3.Error:
                reader.close()
                raise
            name = str(row[0]) if row else ""
            if remembered(self._store, self._journal.parent.name).id not in ("", name):
                reader.close()
                return None
            self._reader, self._name, self._told = reader, name, self.told(name)
        return self._reader

    def told(self, journal: str) -> int:
        """The last outcome that was taken over from a journal."""
        name, seq = json.loads(self._store.get("told") or '["", 0]')
        return int(seq) if name == journal else 0

    def is_sound(self) -> bool:
        """Whether what the journal says can be believed. For a start: the gateway asks as well."""
        try:
            reader = self._connection()
            return reader is None or reader.execute("PRAGMA quick_check(1)").fetchone()[0] == "ok"
        except sqlite3.DatabaseError as exc:
            log.error("%s: %s", self._journal, exc)
            return False

    # -- in the caller's transaction -------------------------------------------------------------

    def retire(self, outcomes: list[Outcome]) -> set[int]:
        """Take over outcomes in their order; the inodes whose content the kernel must forget."""
        changed: set[int] = set()
        for of_entries, run in groupby(outcomes, key=lambda outcome: outcome[1] != 0):
            if of_entries:
                self._retire_entries(list(run))
            else:
                changed |= self._retire_inodes(list(run))
        if self._reader is not None:
            self._store.put("told", json.dumps([self._name, outcomes[-1][0]]))
        return changed

    def _retire_entries(self, outcomes: list[Outcome]) -> None:
        store, counters = self._store, self._store.counters
        marks = ",".join("?" * len(outcomes))
        gone = store.execute(
            f"DELETE FROM queue WHERE id IN ({marks})"
            ' RETURNING id, op, ino, ino2, start, "end", flags',
            [outcome[1] for outcome in outcomes],
        ).fetchall()
        self.entries += len(gone)
        store.behind.retired((row[0], row[2], row[3]) for row in gone)
        last: dict[int, int] = {}
        for number, op, ino, ino2, start, end, flags in gone:
            counters.queue_length -= 1
            if op == Op.WRITE:
                counters.bytes_pending -= end - start
                self.bytes += end - start
                if flags & IN_PLACE:
                    self._content.retired(ino, number)
            last[ino] = max(number, last.get(ino, 0))
            if ino2 is not None:
                last[ino2] = max(number, last.get(ino2, 0))
        # An outcome that was retired before a restart says nothing new.
        now = {row[0] for row in gone}
        stamps = {o[2]: o for o in outcomes if o[1] in now and o[4] is not None}
        store.db.executemany(
            "INSERT OR REPLACE INTO unrepresentable VALUES (?,?,?)",
            list(_never_at_home(gone, outcomes)),
        )
        clean: list[Inode] = []
        for ino, number in last.items():
            inode = store.inode(ino)
            if inode is not None:
                self._settle(inode, number, stamps.get(ino))
                if inode.changed <= inode.retired:
                    clean.append(inode)
        may_be_evicted(store, clean)

    def _settle(self, inode: Inode, number: int, stamp: Outcome | None) -> None:
        if number > self.unsure:  # else one that was lost before it may be pending still
            self._store.save(inode, retired=max(inode.retired, number))
        if stamp is not None:
            before = inode.home_valid
            self._settlement.stamp(inode, stamp[3:6])
            if self.unsure and inode.changed > number and inode.home_valid > before:
                # A lost entry may have cut the file since: what was behind the cut is never
                # fetched (home-valid). The job that sends the file again says how far home goes.
                self._store.save(inode, home_valid=before)

    def _retire_inodes(self, outcomes: Iterable[Outcome]) -> set[int]:
        """What a job found and did. No row in the queue says whether an outcome was taken over
        before a restart, and an old stamp would contradict what was pushed since: the last number
        is kept."""
        new = [outcome for outcome in outcomes if outcome[0] > self._told]
        if not new:
            return set()
        nulled = {o[2]: self.nulls.ranges(o[2]) for o in new if o[6] == NULLED}
        if nulled:  # durable in gateway.db before the outcome is
            self.nulls.outdated()
        return self._settlement.take_over([(o[2], o[6], o[3:6], o[7]) for o in new], nulled)

    def forget_nulls(self) -> set[int]:
        """Home is another from now on: what the old one was made to read as nulls, and was fetched
        since, says nothing of it. In the caller's transaction; the inodes whose content changed."""
        changed = set()
        for ino in self.nulls.inos():
            inode = self._store.inode(ino)
            if inode is not None and self._settlement.unmark_clean(inode, self.nulls.ranges(ino)):
                changed.add(ino)
        return changed

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()


def _never_at_home(
    gone: Iterable[tuple[int, ...]], outcomes: Iterable[Outcome]
) -> Iterator[tuple[int, int, int | None]]:
    """Inode, operation and errno of what home refused for good, and of bytes whose entry was
    dropped: the cache has the only copy of them, which must not be evicted."""
    said = {o[1]: (o[6], o[7]) for o in outcomes if o[6] in (UNREPRESENTABLE, DROPPED)}
    for number, op, ino, *_ in gone:
        result, code = said.get(number, ("", None))
        if result == UNREPRESENTABLE:
            yield ino, op, code
        elif result == DROPPED and op in (Op.WRITE, Op.SIZE):
            yield ino, op, errno.ECANCELED
