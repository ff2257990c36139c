"""What a check may change of the queue. Each method is one repair, in the caller's transaction."""

from __future__ import annotations

import json
from collections.abc import Sequence

from afmfs.cache.check.aftermath import Aftermath
from afmfs.cache.home import lost_entries
from afmfs.model import ranges
from afmfs.model.entry import Op


class EntryRepair(Aftermath):
    def lose_entries(self, numbers: Sequence[int]) -> None:
        """Entries that nobody can make sense of go, and what they may have said is found out."""
        self._store.execute(
            "DELETE FROM queue WHERE id IN (SELECT value FROM json_each(?))",
            (json.dumps(list(numbers)),),
        )
        lost_entries.count(self._store)
        self.dropped += numbers
        self._owed.make_up_for(len(numbers))

    def _drop(self, numbers: Sequence[int]) -> None:
        """Entries of which nothing is left to be sent."""
        gone = self._store.execute(
            "DELETE FROM queue WHERE id IN (SELECT value FROM json_each(?))"
            ' RETURNING id, ino, op, start, "end"',
            (json.dumps(list(numbers)),),
        ).fetchall()
        self._store.counters.queue_length -= len(gone)
        self._store.counters.bytes_pending -= sum(
            end - start for _, _, op, start, end in gone if op == Op.WRITE
        )
        self.dropped += [row[0] for row in gone]
        for ino in {row[1] for row in gone}:
            self._settle_changed(ino)

    def _settle_changed(self, ino: int) -> None:
        """The last change of an inode is the last one that is left."""
        inode = self._store.inode(ino)
        if inode is None or inode.changed <= inode.retired:
            return
        (last,) = self._store.execute(
            "SELECT max(id) FROM queue WHERE ino=?1 OR ino2=?1", (ino,)
        ).fetchone()
        self._store.save(inode, changed=max(inode.retired, last or 0))

    def drop_entries_of(self, ino: int) -> None:
        rows = self._store.execute("DELETE FROM queue WHERE ino=? RETURNING id", (ino,)).fetchall()
        self.dropped += [number for (number,) in rows]
        lost_entries.count(self._store)

    def missing_entry(self, ino: int) -> None:
        """The inode changed, and no entry says so: a job sends it again."""
        inode = self._store.inode(ino)
        if inode is not None:
            if inode.changed <= inode.retired:
                self._store.save(inode, changed=self._store.entries.take())
            self._owed.make_up_for(1)

    def entries_were_lost(self) -> None:
        self._owed.make_up_for(1)
        lost_entries.count(self._store)

    def entries_are_missing(self, numbers: Sequence[int]) -> None:
        self._owed.make_up_for(len(numbers))

    def _cut_entries(self, ino: int, start: int, end: int) -> None:
        """What is pending of [start, end) is dropped; the rest of its entries stays."""
        store = self._store
        rows = store.execute(
            'SELECT id, start, "end" FROM queue WHERE op=? AND ino=? AND start<? AND "end">?',
            (int(Op.WRITE), ino, end, start),
        ).fetchall()
        for number, first, last in rows:
            left = ranges.subtract(((first, last),), start, end)
            if left:  # a blob is lost as a whole, or from somewhere on
                store.execute('UPDATE queue SET start=?, "end"=? WHERE id=?', (*left[0], number))
                store.counters.bytes_pending -= last - first - ranges.total(left[:1])
            else:
                self._drop([number])
