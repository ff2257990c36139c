"""What is done with tables of which something is missing that nobody knows: they lost rows when the
database was rebuilt, or are of an earlier time than the rest of the cache."""

from __future__ import annotations

import errno
import json
import os
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from afmfs.cache.check import journal_rows
from afmfs.cache.check.numbers import used_numbers
from afmfs.cache.check.owed import Owed, home_is_unsure
from afmfs.cache.content.blobs import blob_name
from afmfs.cache.content.recovery import may_have_lost_writes
from afmfs.cache.content.validity import Validity
from afmfs.cache.names.namespace import NAMES_LOST
from afmfs.cache.store.inode import Inode
from afmfs.cache.store.schema import REFILL_USED
from afmfs.cache.store.store import RESERVED, Store, must
from afmfs.model import ranges
from afmfs.model.blocks import DEFAULT_BLOCK, is_block_size
from afmfs.model.entry import FIRST_INO, Op
from afmfs.model.ranges import Range, Ranges

LOST_FOUND = "lost+found"
"""Below the cache's directory: blobs that no inode has."""

SLACK_NS = 20_000_000
"""Times of files go by a coarser clock."""


class Aftermath:
    """In the caller's transaction."""

    def __init__(self, store: Store, validity: Validity) -> None:
        self._store, self._validity, self._owed = store, validity, Owed(store)
        self.recall()
        # Before repairs add events, also those of one that did not come to its end.
        self._last_ns: int = self._owed.get("since_ns") or self._last_known_ns()

    def begin(self) -> None:
        """The first mend is about to be made."""
        self._owed.put(since_ns=self._last_ns)

    def is_old(self, proof: str) -> None:
        """The mends that follow take away what proves that the database is older than the rest."""
        self._owed.put(old=proof)

    def recall(self) -> None:
        """What gateway.db is yet to forget, as far as that is committed."""
        self.dropped: list[int] = self._owed.get("dropped") or []  # entries
        self.beyond: int | None = self._owed.get("beyond")
        """Entries with larger numbers are known to nobody."""

    def remember(self) -> None:
        self._owed.put(dropped=self.dropped or None, beyond=self.beyond)

    def forgotten(self) -> None:
        """It has forgotten that."""
        self.dropped, self.beyond = [], None
        self.remember()

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
        if "fileset" in incomplete:
            self._need_resync()
        if not is_block_size(store.get("block_size")):
            self.forget_maps()  # before they are read, and changed, by another size
        if "queue" in incomplete:
            # What was retired may have been found on pages that are in use no more. What is dropped
            # with it is made up for, as inodes tell of it.
            store.execute("DELETE FROM queue WHERE id <= (SELECT max(retired) FROM inode)")
        if incomplete & {"queue", "blockmap", "span"}:
            self.keep_parts()
        if incomplete & {"inode", "blockmap", "span"}:
            whole, since = "queue" not in incomplete, None
            if "inode" in incomplete:
                since = self._last_ns
            self._disbelieve_clean(queue_is_whole=whole, aside_since_ns=since)
        if incomplete & {"blockmap", "span"}:
            self.mark_pending()
        if "fileset" in incomplete:
            self._make_up_for_settings()
        if "fresh" in incomplete:
            self.disbelieve_fetched(queue_is_whole="queue" not in incomplete)
        if incomplete & {"used", "inode"}:
            store.execute(REFILL_USED)
        if incomplete & {"dentry", "inode"}:
            self.names_were_lost()
        self._owed.put(incomplete=None)

    def names_were_lost(self) -> None:
        """Home is asked for them by the next mount: what it has under them is not lost."""
        self._store.put(NAMES_LOST, 1)

    def _make_up_for_settings(self) -> None:
        """Which home it is, and which numbers are used."""
        store = self._store
        homes = [int(p.name) for p in (store.path.parent / "gateway").glob("[1-9]*")]
        self.go_on_beyond()
        if store.get("durable_entry") is None:
            # Else all that is pending would count as lost by a loss of power.
            store.put("durable_entry", used_numbers(store.db)[1])
        if store.get("home") is None and homes:
            store.put("home", max(homes))

    def _need_resync(self) -> None:
        """Nobody knows whether one was needed, or a failover was due."""
        store = self._store
        known = store.get("needs_resync") is not None and store.get("job") is not None
        if not known and not store.get("needs_resync"):
            store.put("needs_resync", "what was known of home was lost with a damaged cache.db")
            store.put("needs_resync_at", 0)

    # -- bytes that may not be what they were ----------------------------------------------------

    def disbelieve_fetched(self, *, queue_is_whole: bool = True) -> None:
        """Nobody knows what was fetched since the last durable point. That matters only where the
        last stop may have lost it: then a hole may be where data was."""
        store = self._store
        store.execute("DELETE FROM fresh")
        unknown = store.get("boot_id") is None and not store.get("clean", 0)
        if unknown or may_have_lost_writes(store.get, store.path.parent):
            self._disbelieve_clean(queue_is_whole=queue_is_whole)

    def _disbelieve_clean(self, *, queue_is_whole: bool, aside_since_ns: int | None = None) -> None:
        """All that home has as well is fetched again; what is only here stays. A blob that was
        written to later than `aside_since_ns`, by a file that counts as clean, may hold the only
        copy of something: it is kept in lost+found.

        Where home need not have it, what is clean may be the only copy as well, and is treated as
        what has changed: it stays, and is sent by the job that is due, from its beginning, or by
        the resync that is needed. The blob has the last bytes that were written or fetched at their
        place, so nothing is invented; but where it has a hole, what was there may have been evicted
        since: holes are unmarked. A job makes those null where home has nothing, which is what they
        are here."""
        store, unsure = self._store, home_is_unsure(self._store.get)
        dirty: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for ino, start, end in store.execute(
            'SELECT ino, start, "end" FROM queue WHERE op=?', (int(Op.WRITE),)
        ):
            dirty[ino].append((start, end))
        rows = store.execute(
            "SELECT i.ino, q.id IS NOT NULL FROM inode i LEFT JOIN queue q ON q.id = i.changed"
            " WHERE i.home_mtime IS NOT NULL"
            " AND i.ino NOT IN (SELECT ino FROM unrepresentable UNION SELECT ino FROM lost)"
        ).fetchall()
        for ino, queued in rows:
            inode = must(store.inode(ino), ino)
            pending = inode.changed > inode.retired
            if not inode.is_file or (pending and not (queued and queue_is_whole)):
                continue
            if aside_since_ns is not None and not dirty[ino] and not pending:
                self._keep_newer(inode, aside_since_ns, copy=unsure)
            end = min(inode.size, inode.home_valid)
            clean = ranges.gaps(ranges.union(dirty[ino]), 0, end)
            for low, high in self._holes(inode, clean) if unsure else clean:
                self._validity.unmark(inode, low, high)
        if unsure and store.get("job"):
            self._owed.make_up_for(0)

    def _holes(self, inode: Inode, among: Sequence[Range]) -> Ranges:
        """Where the blob has none of the bytes `among`, though they count as valid."""
        path = self._store.path.parent / "blobs" / blob_name(inode.gen)
        there = data_of(path) if inode.gen and path.exists() else ()
        return tuple(
            hole
            for low, high in among
            for a, b in self._validity.valid(inode, low, high)
            for hole in ranges.gaps(there, a, b)
        )

    def _keep_newer(self, inode: Inode, since_ns: int, *, copy: bool) -> None:
        path = self._store.path.parent / "blobs" / blob_name(inode.gen)
        if not (path.exists() and path.stat().st_mtime_ns > since_ns - SLACK_NS):
            return
        if copy:
            self._keep_copy(inode)
        else:
            self.set_aside(path.parent.name, path.name)
            self._store.save(inode, gen=0)

    def _keep_copy(self, inode: Inode) -> None:
        path = self._store.path.parent / "blobs" / blob_name(inode.gen)
        if inode.gen and path.exists():
            copy_sparse(path, self._place(path.parent.name, path.name))

    def forget_maps(self) -> None:
        """The size of a block is not known: in another one their rows would speak of bytes that
        nobody has fetched."""
        self.keep_parts()
        for table in ("blockmap", "span"):
            self._store.execute(f"DELETE FROM {table}")
        self.mark_pending()
        self._store.put("block_size", DEFAULT_BLOCK)

    def mark_pending(self) -> None:
        """What is pending is in the blobs: without its marks it would not be sent."""
        store = self._store
        for ino, start, end in store.execute(
            'SELECT ino, start, "end" FROM queue WHERE op=? ORDER BY id', (int(Op.WRITE),)
        ).fetchall():
            inode = store.inode(ino)
            if inode is not None and inode.is_file and not inode.whole and inode.gen:
                self._validity.mark(inode, start, min(end, inode.size), inode.size)

    def keep_parts(self, inos: Collection[int] | None = None) -> None:
        """Of a file that is partly here nobody may know any more what was written: a copy of its
        blob is kept, before what is not known is fetched again: where home need not have it, of
        each of them. `inos`: of these only."""
        rows = self._store.execute(
            "SELECT ino FROM inode WHERE NOT whole AND gen AND (changed > retired OR ?2"
            " OR ino IN (SELECT ino FROM unrepresentable UNION SELECT ino FROM lost))"
            " AND (?1 IS NULL OR ino IN (SELECT value FROM json_each(?1)))",
            (None if inos is None else json.dumps([*inos]), home_is_unsure(self._store.get)),
        )
        for (ino,) in rows.fetchall():
            self._keep_copy(must(self._store.inode(ino), ino))

    def set_aside(self, shard: str, name: str) -> None:
        """Keep a blob that no inode has."""
        source = self._store.path.parent / "blobs" / shard / name
        if source.exists() and not source.stat().st_size:
            source.unlink()  # made in advance
        elif source.exists():
            os.rename(source, self._place(shard, name))

    def _place(self, shard: str, name: str) -> Path:
        """A free path in lost+found."""
        directory = self._store.path.parent / LOST_FOUND
        directory.mkdir(mode=0o700, exist_ok=True)
        path, number = directory / f"blob-{shard}-{name}", 1
        while os.path.lexists(path):
            number += 1
            path = directory / f"blob-{shard}-{name}.{number}"
        return path

    # -- an older database -----------------------------------------------------------------------

    def mend_old_database(self) -> None:
        """What it calls clean may have been written to since; and what the gateway knows of later
        entries would have home's versions taken for ours."""
        store, self.beyond = self._store, used_numbers(self._store.db)[1]
        # What was executed was durable here, and is known as far as that.
        known = min(self.beyond, self._largest_executed())
        store.put("durable_entry", max(int(store.get("durable_entry") or 0), known))
        since = self._last_ns
        self.go_on_beyond()
        self._disbelieve_clean(queue_is_whole=True, aside_since_ns=since)
        self.names_were_lost()
        self._owed.put(old=None, renewed=True)

    def _last_known_ns(self) -> int:
        """When something was done that the tables know of, last."""
        (last,) = self._store.execute(
            "SELECT max(ifnull((SELECT max(queued_ns) FROM queue), 0),"
            " ifnull((SELECT max(time_ns) FROM event), 0),"
            " ifnull((SELECT max(ctime) FROM inode WHERE changed > 0), 0))"
        ).fetchone()
        return int(last)

    def go_on_beyond(self) -> None:
        """Numbers that may have been used are never used again. Executed ones are known to home."""
        store = self._store
        ino, number = used_numbers(store.db)
        number = max(number, self._largest_blob(), self._largest_executed())
        for key, last in (("ino_limit", ino), ("entry_limit", number)):
            limit = store.get(key)
            known = limit if type(limit) is int else FIRST_INO
            store.put(key, max(known, last + 1) + RESERVED)
        self.keep_orphans()

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


def data_of(path: Path) -> Ranges:
    """Where a blob has bytes, and no holes."""
    with path.open("rb") as file:
        return tuple(_data(file.fileno()))


def _data(fd: int) -> Iterator[Range]:
    size, end = os.fstat(fd).st_size, 0
    while end < size:
        try:
            start = os.lseek(fd, end, os.SEEK_DATA)
        except OSError as exc:
            if exc.errno != errno.ENXIO:
                raise
            return  # holes to the end
        end = os.lseek(fd, start, os.SEEK_HOLE)
        yield start, end


def copy_sparse(source: Path, target: Path) -> None:
    """A copy with the same holes."""
    with source.open("rb") as one, target.open("xb") as other:
        os.truncate(other.fileno(), os.fstat(one.fileno()).st_size)
        for start, end in _data(one.fileno()):
            while start < end:
                data = os.pread(one.fileno(), min(end - start, 1 << 20), start)
                start += os.pwrite(other.fileno(), data, start)
