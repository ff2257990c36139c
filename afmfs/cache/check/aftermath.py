"""What is done with tables of which something is missing that nobody knows: they lost rows when the
database was rebuilt, or are of an earlier time than the rest of the cache."""

from __future__ import annotations

import json

from afmfs.cache.check import journal_rows
from afmfs.cache.check.numbers import used_numbers
from afmfs.cache.schema import REFILL_USED
from afmfs.cache.store import RESERVED, Store
from afmfs.cache.validity import Validity
from afmfs.model.entry import FIRST_INO, Op


class Aftermath:
    """In the caller's transaction."""

    def __init__(self, store: Store, validity: Validity) -> None:
        self._store, self._validity = store, validity

    def disbelieve_last(self) -> None:
        """The next mount goes to work as after a power loss."""
        self._store.put("clean", 0)
        self._store.put("boot_id", "not known")

    def keep_orphans(self) -> None:
        """No blob counts as left by a crash, for the next mount to clear away: any of them may be
        one of which the inode is lost."""
        limit = int(self._store.get("entry_limit") or 1)
        self._store.put("pool", json.dumps([limit, limit]))
        self._store.put("leftover", "")

    def after_salvage(self, incomplete: set[str]) -> None:
        """What rows that may be missing would have said."""
        store = self._store
        self.keep_orphans()
        if incomplete & {"blockmap", "span"}:
            # What is pending is in the blobs: without its marks it would not be sent.
            for ino, start, end in store.execute(
                'SELECT ino, start, "end" FROM queue WHERE op=? ORDER BY id', (int(Op.WRITE),)
            ).fetchall():
                inode = store.inode(ino)
                if inode is not None and inode.is_file and not inode.whole and inode.gen:
                    self._validity.mark(inode, start, min(end, inode.size), inode.size)
        if "fresh" in incomplete:
            self.disbelieve_last()
        if "fileset" in incomplete:
            self._make_up_for_settings()
        if incomplete & {"used", "inode"}:
            store.execute(REFILL_USED)

    def _make_up_for_settings(self) -> None:
        """Which home it is, and that it may need a resync."""
        store = self._store
        homes = [int(p.name) for p in (store.path.parent / "gateway").glob("[1-9]*")]
        self.go_on_beyond()
        if store.get("home") is None and homes:
            store.put("home", max(homes))
        if store.get("needs_resync") is None:
            store.put("needs_resync", "what was known of home was lost with a damaged cache.db")
            store.put("needs_resync_at", 0)

    # -- an older database -----------------------------------------------------------------------

    def go_on_beyond(self) -> None:
        """Numbers that may have been used are never used again. Executed ones are known to home."""
        store = self._store
        ino, number = used_numbers(store.db)
        executed = self._largest_executed()
        number = max(number, self._largest_blob(), executed)
        store.put("repaired_beyond", executed)
        for key, last in (("ino_limit", ino), ("entry_limit", number)):
            limit = store.get(key)
            known = limit if type(limit) is int else FIRST_INO
            store.put(key, max(known, last + 1) + RESERVED)
        self.keep_orphans()
        self.disbelieve_last()

    def _largest_executed(self) -> int:
        home = self._store.get("home", 1)
        return journal_rows.largest_entry(
            self._store.path.parent / "gateway" / str(home) / "gateway.db"
        )

    def _largest_blob(self) -> int:
        largest = 0
        for path in (self._store.path.parent / "blobs").glob("??/*"):
            try:
                largest = max(largest, int(path.name, 16))
            except ValueError:
                continue
        return largest
