"""Inodes of which the queue has to say whether they are sound, and what of them is lost.

The queue has no index by inode for what is written, so it is asked for many at a time.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

from afmfs.cache.check.repair import Repair, doing
from afmfs.cache.check.source import Source
from afmfs.cache.content.blobs import blob_name
from afmfs.cache.store.inode import Inode
from afmfs.cache.store.schema import INODE_COLUMNS
from afmfs.model import ranges
from afmfs.model.entry import Op
from afmfs.model.findings import Finding, Severity
from afmfs.model.ranges import Ranges

MOST = 10_000
"""So many are kept before the queue is asked."""

_PENDING = (
    'SELECT op, ino, ino2, start, "end" FROM queue'
    " WHERE ino IN (SELECT value FROM json_each(?1)) OR ino2 IN (SELECT value FROM json_each(?1))"
)


class Suspect(NamedTuple):
    inode: Inode
    trouble: str  # "missing" or "short": its blob; "version": home is not known to hold it
    valid: Ranges = ()  # bytes that count as cached


class _Queued:
    """What is pending of some inodes."""

    def __init__(self, source: Source, inos: list[int]) -> None:
        self.pending: set[int] = set()
        writes: dict[int, list[tuple[int, int]]] = defaultdict(list)
        text = json.dumps(inos)
        for op, ino, ino2, start, end in source.execute(_PENDING, (text,)):
            self.pending.update(one for one in (ino, ino2) if one is not None)
            if op == Op.WRITE:
                writes[ino].append((start, end))
        self.dirty = {ino: ranges.union(pieces) for ino, pieces in writes.items()}
        self.unheld = self._among(source, "unrepresentable", text)
        # Home has lost it; or the cache, and then home has no more than was left.
        self.lost = self._among(source, "lost", text) | self._among(source, "damaged", text)
        self.known = {
            row[0]: Inode(*row)
            for row in source.execute(
                f"SELECT {INODE_COLUMNS} FROM inode WHERE ino IN (SELECT value FROM json_each(?))",
                (text,),
            )
        }

    def _among(self, source: Source, table: str, text: str) -> set[int]:
        rows = source.execute(
            f"SELECT ino FROM {table} WHERE ino IN (SELECT value FROM json_each(?))", (text,)
        )
        return {ino for (ino,) in rows}


class Suspects:
    def __init__(self, source: Source) -> None:
        self._source = source
        self._found: list[Suspect] = []

    def add(self, suspect: Suspect) -> None:
        self._found.append(suspect)

    def check(self, *, at_end: bool) -> Iterator[list[Finding]]:
        """The findings among those that were added, once they are many, or `at_end`."""
        if len(self._found) < MOST and not (at_end and self._found):
            return
        some, self._found = self._found, []
        with self._source.snapshot():
            queued = _Queued(self._source, sorted({one.inode.ino for one in some}))
        yield [finding for one in some for finding in self._judge(one, queued)]

    def _judge(self, suspect: Suspect, queued: _Queued) -> Iterator[Finding]:
        now = queued.known.get(suspect.inode.ino)
        if now is None or _facts(now) != _facts(suspect.inode):
            return  # the mount is at work on it
        if suspect.trouble == "version":
            yield from self._version(suspect.inode, queued)
        else:
            yield self._blob(suspect, queued)

    # -- versions --------------------------------------------------------------------------------

    def _version(self, inode: Inode, queued: _Queued) -> Iterator[Finding]:
        """Something that home does not have is pending, or recorded as what it can't hold."""
        source, ino = self._source, inode.ino
        if ino in queued.pending or ino in queued.unheld or ino in queued.lost:
            return
        if source.job or source.setting("needs_resync"):
            return  # what home has is being found out
        text = f"home is said to have {inode.home_size} bytes of it, it has {inode.size} here"
        if inode.home_mtime is None:
            text = "home is not known to have it"
        yield Finding(
            kind="version",
            text=f"{text}, and nothing of it is queued",
            repair="it is compared with home, and sent again",
            ino=ino,
            path=source.path(ino),
            mend=doing(Repair.missing_entry, ino),
        )

    # -- blobs -----------------------------------------------------------------------------------

    def _blob(self, suspect: Suspect, queued: _Queued) -> Finding:
        source, inode = self._source, suspect.inode
        ino, length = inode.ino, source.blob(inode.gen).length or 0
        gone = ranges.within(suspect.valid, length, inode.size)
        lost = gone
        if not self._is_only_copy(inode, queued):
            # Nothing from `home_valid` on is ever fetched, whatever entries say.
            dirty = ranges.union([*queued.dirty.get(ino, ()), (inode.home_valid, inode.size)])
            lost = tuple(part for a, b in gone for part in ranges.within(dirty, a, b))
            if source.unsure and gone:
                gone, lost = self._if_unsure(
                    suspect, gone, pending=bool(lost or ino in queued.dirty)
                )
        name = blob_name(inode.gen)
        text = f"its blob {name} is missing"
        if suspect.trouble == "short":
            text = f"its blob {name} has {length} of {inode.size} bytes"
        repair = "what is missing is fetched again" if gone else "it had nothing to be missed"
        if gone and source.unsure:
            text += "; home need not have it, as a resync or failover is due"
            repair = "it is fetched again if home has it; what is left of the blob is kept"
        if lost:
            shown = ", ".join(f"{a}-{b}" for a, b in lost[:4]) + ", ..." * (len(lost) > 4)
            text += f"; bytes {shown} were only here"
            repair = (
                "reads of these fail, nothing of them is sent, and nothing at all until `start`"
            )

        return Finding(
            kind=f"{suspect.trouble} blob",
            text=text,
            repair=repair,
            severity=Severity.LOST if lost or (gone and source.unsure) else Severity.ERROR,
            ino=ino,
            path=source.path(ino),
            detail={"blob": name, "length": length, "size": inode.size, "lost": lost},
            mend=doing(Repair.lose, ino, gone, lost),
        )

    def _if_unsure(self, suspect: Suspect, gone: Ranges, *, pending: bool) -> tuple[Ranges, Ranges]:
        """What is gone, and lost, where home need not have it. The job that is due finds out
        whether it has the file, if nothing of that is here: then it is read from home, or known to
        be lost. Of a part it would make a file with nulls for what is gone. So a clean file is
        given up as a whole; of one that has pending bytes, what is gone is lost."""
        return (gone, gone) if pending else (suspect.valid, ())

    def _is_only_copy(self, inode: Inode, queued: _Queued) -> bool:
        """Whether home may have nothing of what is cached, though no entry says so."""
        if inode.ino in queued.unheld:
            return True
        if inode.ino in queued.pending:
            return self._source.missing and inode.changed > inode.retired
        return inode.home_mtime is None or inode.changed > inode.retired


def _facts(inode: Inode) -> tuple[object, ...]:
    return (
        inode.gen, inode.size, inode.changed, inode.retired, inode.home_size, inode.home_mtime,
        inode.whole,
    )  # fmt: skip
