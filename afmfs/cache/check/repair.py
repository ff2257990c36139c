"""What a check may change. Each method is one repair, in the caller's transaction.

Nothing is invented: clean bytes that can't be trusted are unmarked, and come from home again; what
was only here and is gone is recorded as lost, so that nobody reads zeros in its place, and none are
sent over what home has. What nobody knows the place of is kept in a lost+found.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from afmfs.cache.check.adoption import Adoption
from afmfs.cache.check.entry_repair import EntryRepair
from afmfs.cache.check.owed import home_is_unsure
from afmfs.cache.check.tables import index_sql
from afmfs.cache.content.blobs import blob_name
from afmfs.cache.content.damage import Damage
from afmfs.cache.content.validity import Validity
from afmfs.cache.evict.usage import may_be_evicted
from afmfs.cache.names.namespace import Namespace, cookie
from afmfs.cache.report.event import insert_event
from afmfs.cache.report.queue import Paths
from afmfs.cache.store.inode import LISTED, UNREAD, Inode
from afmfs.cache.store.schema import BAD_ROWS
from afmfs.cache.store.store import Store, with_row_sum
from afmfs.model import blocks, ranges
from afmfs.model.bitmap import CHUNK
from afmfs.model.entry import ROOT, Op
from afmfs.model.ranges import Ranges
from afmfs.model.soundness import END, Map, map_ranges


def doing(method: Callable[..., None], *values: Any) -> Callable[[Any], None]:
    """The repair of one finding: a method of Repair, and what it is to be called with."""
    return lambda repair: method(repair, *values)


class BadRows(NamedTuple):
    """Rows of a file's map that are not what was written."""

    ino: int | None  # None: of no file that can be named
    places: list[tuple[str, Any]]  # chunks, runs of them, and starts of spans
    only_here: bool  # home need not have what they were of


class Repair(EntryRepair):
    def __init__(self, store: Store, block: int) -> None:
        super().__init__(store, Validity(store, block))
        self._block = block
        self._namespace = Namespace(store, lambda ino: False, self._validity)
        self._adoption = Adoption(store, self._namespace)
        self._damage = Damage(store)

    def finish(self) -> None:
        """What can be done at the end only, and can be done again at any time."""
        self.recount()
        self._owed.put(job=None)  # what is found from here on is judged by the job that there is

    # -- rows ------------------------------------------------------------------------------------

    def set_columns(self, ino: int, columns: dict[str, int]) -> None:
        sets = ",".join(f"{key}=?" for key in columns)
        self._store.execute(f"UPDATE inode SET {sets} WHERE ino=?", (*columns.values(), ino))
        self._store.drop(ino)

    def delete(self, table: str, where: str, *values: Any) -> None:
        self._store.execute(f"DELETE FROM {table} WHERE {where}", values)

    def remove_inode(self, ino: int) -> None:
        """The row, and what hangs on it. Its names go with the next look."""
        for table in ("inode", "blockmap", "span", "fresh", "xattr", "used"):
            self.delete(table, "ino IS ?", ino)
        self._store.drop(ino)

    def make_index(self, name: str) -> None:
        self._store.execute(index_sql(name))

    def forget_setting(self, key: str) -> None:
        if key == "job":
            self._owed.forget_job()
        else:
            self.delete("fileset", "key=?", key)

    def recount(self) -> None:
        """Objects and cached bytes, as they are."""
        store = self._store
        (inodes,) = store.execute("SELECT count(*) FROM inode").fetchone()
        cached = 0
        rows = store.db.execute(
            "SELECT ino, size, whole FROM inode WHERE mode & 61440 = 32768 AND (whole OR gen)"
        )
        for ino, size, whole in rows:
            if whole:
                cached += size
                continue
            chunks = dict(store.db.execute("SELECT chunk, bits FROM blockmap WHERE ino=?", (ino,)))
            cached += ranges.total(map_ranges(Map(chunks, []), size, self._block))
        store.counters.inodes, store.counters.cached_bytes = inodes, cached

    # -- names -----------------------------------------------------------------------------------

    def remove_name(self, parent: Any, place: Any) -> None:
        """Home may have something under it."""
        self._remove_name(parent, place)
        self.names_were_lost()

    def _remove_name(self, parent: Any, place: Any) -> None:
        self.delete("dentry", "parent IS ? AND cookie IS ?", parent, place)

    def remove_names(self, places: Iterable[tuple[int, int]]) -> None:
        for parent, place in places:
            self.remove_name(parent, place)

    def place_name(self, parent: int, place: int) -> None:
        """To where a look-up finds it, unless the directory has the name there."""
        row = self._store.execute(
            "SELECT name, ino FROM dentry WHERE parent=? AND cookie=?", (parent, place)
        ).fetchone()
        if row is None:
            return
        self._remove_name(parent, place)
        first = cookie(row[0])
        there = self._store.execute(
            "SELECT 1 FROM dentry WHERE parent=? AND cookie>=? AND cookie<? AND name=?",
            (parent, first, first + 8, row[0]),
        ).fetchone()
        if not there:
            self._namespace.enter(parent, row[0], row[1])

    def adopt_orphan(self, ino: int) -> None:
        """A name in lost+found if anything of it, or below it, is only here; else it goes."""
        inode = self._store.inode(ino)
        if inode is None:
            return
        self.names_were_lost()
        if self._adoption.drop_if_clean(inode):
            return
        if self._adoption.is_possible():
            self._adoption.adopt(inode)
            self._owed.make_up_for(1)
        else:
            self._forget_orphan(inode)

    def _forget_orphan(self, inode: Inode) -> None:
        """There is no place for its name, as the root is yet to be read: its bytes are kept."""
        if inode.gen:
            self.set_aside(*os.path.split(blob_name(inode.gen)))
            insert_event(self._store.db, "afmDamaged", {"ino": inode.ino, "kept": inode.gen})
        self.drop_entries_of(inode.ino)
        self.remove_inode(inode.ino)

    def reread(self, ino: int) -> None:
        """A directory that was never read has names: what is clean of them goes, and if nothing is
        left it is read from home. Else it counts as read."""
        inode = self._store.inode(ino)
        if inode is None:
            return
        for (child,) in self._store.execute(
            "SELECT ino FROM dentry WHERE parent=?", (ino,)
        ).fetchall():
            below = self._store.inode(child)
            if below is not None and self._adoption.drop_if_clean(below):
                self.delete("dentry", "parent=? AND ino=?", ino, child)
        left = self._store.execute("SELECT 1 FROM dentry WHERE parent=?", (ino,)).fetchone()
        self._store.save(inode, listed=LISTED if left else UNREAD)

    def plant(self, ino: int) -> None:
        """The root, or the hidden directory. The root's attributes come with the next change."""
        mode = 0o40755 if ino == ROOT else 0o40700
        listed = UNREAD if ino == ROOT else LISTED
        self._store.add(
            Inode(ino, mode, os.geteuid(), os.getegid(), 0, 2, 0, 0, 0, 0, listed=listed)
        )
        below = "SELECT 1 FROM dentry WHERE parent=?"
        if ino == ROOT and self._store.execute(below, (ROOT,)).fetchone():
            self.set_columns(ROOT, {"listed": LISTED})

    # -- bytes -----------------------------------------------------------------------------------

    def lose(self, ino: int, gone: Ranges, lost: Ranges) -> None:
        """The bytes `gone` are not in the blob any more; `lost` of them are nowhere."""
        store, inode = self._store, self._store.inode(ino)
        if inode is None:
            return
        if gone and home_is_unsure(store.get):
            self._keep_copy(inode)  # what is left may be all that there is of it
        for start, end in gone:
            self._validity.unmark(inode, start, end)
        if lost:
            self._give_up(inode, lost)
        path = store.path.parent / "blobs" / blob_name(inode.gen)
        if path.exists():
            os.truncate(path, max(path.stat().st_size, blocks.blob_length(inode.size)))
        elif inode.gen:
            store.save(inode, gen=0, whole=inode.size == 0)
        may_be_evicted(store, [inode])

    def _give_up(self, inode: Inode, lost: Ranges) -> None:
        """Record what is lost, and send nothing of it. Where the file is about to be cut at home,
        what is left of the new version must not destroy the old one: nothing of it is sent."""
        store, ino = self._store, inode.ino
        (cut,) = store.execute(
            'SELECT min("end") FROM queue WHERE op<>6 AND op=? AND ino=?', (int(Op.SIZE), ino)
        ).fetchone()
        if cut is not None and cut < (inode.home_size or 0):
            rows = store.execute(
                "SELECT id FROM queue WHERE op IN (?,?) AND ino=?",
                (int(Op.WRITE), int(Op.SIZE), ino),
            )
            self._drop([number for (number,) in rows])
        for start, end in lost:
            self._cut_entries(ino, start, end)
        # Nor by a job that makes up for lost entries: it would have zeros for what is lost.
        self._settle_changed(ino)
        # As of entries that an administrator drops: what is left of it may be the only copy.
        store.execute(
            "INSERT OR REPLACE INTO unrepresentable VALUES (?,?,?)",
            (ino, int(Op.WRITE), errno.ECANCELED),
        )
        self._damage.add(inode, lost)
        self._owed.stop()
        text = os.fsdecode(self._path(ino))
        insert_event(store.db, "afmDamaged", {"path": text, "ino": ino, "lost": lost})

    def _path(self, ino: int) -> bytes:
        return Paths(self._store.db).of(ino) or b"#%d" % ino

    def give_up_blob(self, ino: int) -> None:
        """Nothing in the inode's blob is believed."""
        inode = self._store.inode(ino)
        if inode is None:
            return
        valid = self._validity.valid(inode, 0, inode.size)
        rows = self._store.execute(
            'SELECT start, "end" FROM queue WHERE op=? AND ino=?', (int(Op.WRITE), ino)
        )
        dirty = ranges.union(rows)
        lost = tuple(part for a, b in valid for part in ranges.within(dirty, a, b))
        if lost and home_is_unsure(self._store.get):
            lost = valid  # as of any blob that is gone (`Suspects`)
        gen = inode.gen
        self._store.save(inode, gen=0)
        self.lose(ino, valid, lost)
        self.set_aside(os.path.dirname(blob_name(gen)), os.path.basename(blob_name(gen)))

    def rewrite_map(self, ino: int) -> None:
        """The same bytes, as the rows should say it."""
        inode = self._store.inode(ino)
        if inode is None or inode.whole:
            return
        chunks = dict(
            self._store.execute("SELECT chunk, bits FROM blockmap WHERE ino=?", (ino,)).fetchall()
        )
        spans = self._store.execute("SELECT start, end FROM span WHERE ino=?", (ino,)).fetchall()
        if home_is_unsure(self._store.get):
            self._keep_copy(inode)  # of what the rows don't say
        self._write_map(inode, map_ranges(Map(chunks, spans), inode.size, self._block))

    def _write_map(self, inode: Inode, valid: Ranges) -> None:
        for table in ("blockmap", "span"):
            self.delete(table, "ino=?", inode.ino)
        for start, end in valid:
            self._validity.mark(inode, start, end, inode.size)

    def drop_map_rows(self, bad: Sequence[BadRows]) -> None:
        """Rows that are not what was written go, all at once: what is marked after that must not
        meet another."""
        with_row_sum(self._store.db)
        gone = sum(
            self._store.execute(f"DELETE FROM {table} WHERE {where}").rowcount
            for table, where in BAD_ROWS.items()
        )
        if not gone:
            return  # done, for an earlier one of `bad`
        unsure = home_is_unsure(self._store.get)
        partial = [(one, self._partial(one.ino)) for one in bad]
        if all(inode for _, inode in partial):
            self.keep_parts({one.ino for one in bad if one.ino is not None})
        else:
            self.keep_parts()  # of some file or other
        self.mark_pending()
        for one, inode in partial:
            if inode is not None and one.only_here:
                self._give_up(inode, self._not_valid(inode, one.places))
            elif inode is not None and unsure and inode.changed <= inode.retired:
                # A part of it would go to a home without it, with nulls for the rest.
                self._write_map(inode, ())
            if inode is not None:
                may_be_evicted(self._store, [inode])

    def _partial(self, ino: int | None) -> Inode | None:
        inode = None if ino is None else self._store.inode(ino)
        return inode if inode is not None and inode.is_file and not inode.whole else None

    def _not_valid(self, inode: Inode, places: Iterable[tuple[str, Any]]) -> Ranges:
        """What rows at `places` may have said, but for what is valid all the same."""
        found: list[tuple[int, int]] = []
        for column, place in places:
            reach = self._block * (1 if column == "start" else CHUNK)
            first = place // self._block if column == "start" else place
            end = self._next_row(inode.ino, place) if column == "run" else first + 1
            found.append((first * reach, end * reach))
        return tuple(
            gap
            for a, b in ranges.within(ranges.union(found), 0, inode.size)
            for gap in ranges.gaps(self._validity.valid(inode, a, b), a, b)
        )

    def _next_row(self, ino: int, chunk: int) -> int:
        """How far a run from `chunk` on may have reached."""
        sql = "SELECT min(chunk) FROM blockmap WHERE ino=? AND chunk>?"
        (found,) = self._store.execute(sql, (ino, chunk)).fetchone()
        return int(found or END // CHUNK)

    def map_of_whole(self, ino: int) -> None:
        """It counts as whole, and has a map: the map, and what is pending, is believed."""
        inode = self._store.inode(ino)
        if inode is None:
            return
        self._store.save(inode, whole=False)
        self.rewrite_map(ino)
        for start, end in self._store.execute(
            'SELECT start, "end" FROM queue WHERE op=? AND ino=?', (int(Op.WRITE), ino)
        ).fetchall():
            if start < min(end, inode.size):
                self._validity.mark(inode, start, min(end, inode.size), inode.size)
