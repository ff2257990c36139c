"""Inodes: their rows, their names, the block maps of files, and whether their blobs are there."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

from afmfs.cache.check.ancestry import Ancestry
from afmfs.cache.check.repair import Repair, doing
from afmfs.cache.check.source import Source
from afmfs.cache.check.suspects import Suspect, Suspects
from afmfs.cache.store.inode import LISTED, UNREAD, Inode
from afmfs.cache.store.schema import INODE_COLUMNS
from afmfs.model.entry import ROOT, UNLINKED
from afmfs.model.findings import Finding, Severity
from afmfs.model.soundness import (
    Map,
    inode_faults,
    is_inode,
    map_faults,
    map_ranges,
    version_fault,
)

PAGE = 1000

_DIRECTORY = "(i.mode & 61440) = 16384"


class Page:
    """What the tables say of some inodes, read in one snapshot."""

    def __init__(self, source: Source, rows: list[tuple[Any, ...]]) -> None:
        self.inodes = [Inode(*row) for row in rows if is_inode(row)]
        self.bad = [row for row in rows if not is_inode(row)]
        span = rows[0][0], rows[-1][0]
        self.names: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for ino, parent, place in source.execute(
            "SELECT ino, parent, cookie FROM dentry WHERE ino BETWEEN ? AND ? ORDER BY ino", span
        ):
            self.names[ino].append((parent, place))
        self.inside = {
            parent: (count, below)
            for parent, count, below in source.execute(
                f"SELECT d.parent, count(*), total({_DIRECTORY}) FROM dentry d"
                " LEFT JOIN inode i ON i.ino = d.ino WHERE d.parent BETWEEN ? AND ? GROUP BY 1",
                span,
            )
        }
        self.maps: dict[int, Map] = {}
        for ino, chunk, bits in source.execute(
            "SELECT ino, chunk, bits FROM blockmap WHERE ino BETWEEN ? AND ?", span
        ):
            self.maps.setdefault(ino, Map({}, [])).chunks[chunk] = bits
        for ino, start, end in source.execute(
            "SELECT ino, start, end FROM span WHERE ino BETWEEN ? AND ?", span
        ):
            self.maps.setdefault(ino, Map({}, [])).spans.append((start, end))
        changed = [one.changed for one in self.inodes if one.changed > one.retired]
        self.entries = {
            number: (ino, ino2)
            for number, ino, ino2 in source.execute(
                "SELECT id, ino, ino2 FROM queue WHERE id IN (SELECT value FROM json_each(?))",
                (json.dumps(changed),),
            )
        }


class Inodes:
    """One walk. What it learns on the way is used by later parts of the check."""

    def __init__(self, source: Source, suspects: Suspects) -> None:
        self._source, self._suspects = source, suspects
        self._ancestry = Ancestry(source)
        self.cached_bytes = self.count = 0

    def check(self) -> Iterator[list[Finding]]:
        """The findings of each page."""
        source, after = self._source, -(1 << 63)
        while True:
            with source.snapshot():
                rows = source.execute(
                    f"SELECT {INODE_COLUMNS} FROM inode WHERE ino > ? ORDER BY ino LIMIT ?",
                    (after, PAGE),
                ).fetchall()
                if not rows:
                    return
                page = Page(source, rows)
                found = [_bad(source, row) for row in page.bad]
                for inode in page.inodes:
                    found += self._of_inode(inode, page)
            found += self._blobs(page)
            after = rows[-1][0]
            yield found

    def _of_inode(self, inode: Inode, page: Page) -> Iterator[Finding]:
        self.count += 1
        yield from self._fields(inode)
        yield from self._named(inode, page.names.get(inode.ino, []))
        if inode.is_dir:
            yield from self._directory(inode, page)
        elif inode.is_file:
            yield from self._map(inode, page.maps.get(inode.ino))
        if inode.changed > inode.retired and not self._source.missing:
            entry = page.entries.get(inode.changed)
            if entry is None or inode.ino not in entry:
                yield self._finding(
                    inode, "lost entry", f"its last change (entry {inode.changed}) is not queued",
                    "it is compared with home, and sent again",
                    doing(Repair.missing_entry, inode.ino),
                )  # fmt: skip

    def _finding(
        self, inode: Inode, kind: str, text: str, repair: str, mend: Callable[[Any], None]
    ) -> Finding:
        return Finding(
            kind=kind,
            text=text,
            repair=repair,
            ino=inode.ino,
            path=self._source.path(inode.ino),
            mend=mend,
        )

    # -- fields ----------------------------------------------------------------------------------

    def _fields(self, inode: Inode) -> Iterator[Finding]:
        for fault in inode_faults(inode):
            yield self._finding(
                inode, "bad row", fault.text, "it is set right",
                doing(Repair.set_columns, inode.ino, dict(fault.right)),
            )  # fmt: skip
        unsound = version_fault(inode)
        if unsound is not None:
            right = dict(unsound.right)
            yield self._finding(
                inode, "version", unsound.text,
                "home's file is compared with what is cached before it is believed",
                doing(Repair.set_columns, inode.ino, right),
            )  # fmt: skip
        elif inode.is_file and inode.nlink and inode.changed <= inode.retired:
            unknown = inode.home_mtime is None
            if unknown or inode.home_size != inode.size:
                self._suspects.add(Suspect(inode, "version"))

    # -- names -----------------------------------------------------------------------------------

    def _named(self, inode: Inode, places: list[tuple[int, int]]) -> Iterator[Finding]:
        names = [place for place in places if place[0] != UNLINKED]
        if inode.ino in (ROOT, UNLINKED):
            if places:
                yield self._extra(inode, places, "it can have no name, and has one")
        elif inode.is_dir:
            if len(places) > 1:
                yield self._extra(inode, sorted(places)[1:], "it is a directory with several names")
            elif places:
                yield from self._loop(inode, places[0])
            else:
                yield self._nameless(inode)
        elif len(names) > inode.nlink:
            count = len(names)
            yield self._finding(
                inode, "link count", f"it has {count} names, and {inode.nlink} are counted",
                "the count is set right",
                doing(Repair.set_columns, inode.ino, {"nlink": count}),
            )  # fmt: skip
        elif inode.nlink and not places and self._must_have_name(inode):
            yield self._nameless(inode)

    def _must_have_name(self, inode: Inode) -> bool:
        """Not so where home has more names of the file than were read so far."""
        if inode.home_mtime is None:
            return True
        row = self._source.execute(
            "SELECT 1 FROM homelink WHERE ino=? LIMIT 1", (inode.ino,)
        ).fetchone()
        return row is None and self._source.home == 1

    def _extra(self, inode: Inode, places: list[tuple[int, int]], text: str) -> Finding:
        return self._finding(
            inode, "double name", text, "all but the first are removed",
            doing(Repair.remove_names, places),
        )  # fmt: skip

    def _nameless(self, inode: Inode) -> Finding:
        return self._finding(
            inode, "orphan inode", "no name leads to it",
            "if anything of it is pending it gets a name in lost+found, else it goes",
            doing(Repair.adopt_orphan, inode.ino),
        )  # fmt: skip

    def _loop(self, inode: Inode, place: tuple[int, int]) -> Iterator[Finding]:
        if self._ancestry.is_in_loop(inode.ino, place[0]):
            yield self._finding(
                inode, "cycle", "the directory is below itself", "it goes to lost+found",
                doing(Repair.remove_name, *place),
            )  # fmt: skip

    # -- directories -----------------------------------------------------------------------------

    def _directory(self, inode: Inode, page: Page) -> Iterator[Finding]:
        count, below = page.inside.get(inode.ino, (0, 0))
        if inode.ino == UNLINKED:
            return
        if inode.listed == UNREAD and count:
            yield self._finding(
                inode, "unread names", f"it was never read from home, and has {count} names",
                "what is clean of them is read again", doing(Repair.reread, inode.ino),
            )  # fmt: skip
        elif inode.listed == LISTED and inode.nlink and inode.nlink != 2 + below:
            right = {"nlink": 2 + int(below)}
            yield self._finding(
                inode, "link count", f"{inode.nlink} links are counted, {int(below)} directories"
                " are in it", "the count is set right",
                doing(Repair.set_columns, inode.ino, right),
            )  # fmt: skip

    # -- maps and blobs --------------------------------------------------------------------------

    def _map(self, inode: Inode, rows: Map | None) -> Iterator[Finding]:
        block = self._source.block
        if inode.whole:
            self.cached_bytes += inode.size
            if rows is not None:
                yield self._finding(
                    inode, "overlap", "all of it counts as cached, and it has a block map",
                    "what the map leaves out is fetched again",
                    doing(Repair.map_of_whole, inode.ino),
                )  # fmt: skip
        elif rows is not None:
            for kind, text in map_faults(rows, inode.size, block):
                yield self._finding(
                    inode,
                    kind,
                    text,
                    "the map is written anew",
                    doing(Repair.rewrite_map, inode.ino),
                )
            self.cached_bytes += _whole_blocks(rows, inode.size, block)

    def _blobs(self, page: Page) -> list[Finding]:
        """Outside the snapshot: the disk is looked at file by file."""
        source = self._source
        for inode in page.inodes:
            if not inode.is_file or not inode.gen or inode.ino in source.young:
                continue
            trouble = source.trouble(inode.ino, inode.gen, inode.size)
            if trouble:
                rows = page.maps.get(inode.ino, Map({}, []))
                whole = ((0, inode.size),) if inode.size else ()
                valid = whole if inode.whole else map_ranges(rows, inode.size, source.block)
                self._suspects.add(Suspect(inode, trouble, valid))
        return []


def _whole_blocks(rows: Map, size: int, block: int) -> int:
    """As the counter has it: cached blocks, the last cut at the end of the file."""
    bits = map_ranges(Map(rows.chunks, []), size, block)
    return sum(end - start for start, end in bits)


def _bad(source: Source, row: tuple[Any, ...]) -> Finding:
    ino = row[0]
    return Finding(
        kind="bad row",
        text="its row can't be read",
        repair="the row is removed, with what hangs on it",
        severity=Severity.LOST,
        ino=ino,
        path=source.path(ino),
        mend=doing(Repair.remove_inode, ino),
    )
