"""The queue: each entry makes sense, is about what there is, and is counted."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterable, Iterator
from typing import Any

from afmfs.cache.check.repair import Repair, doing
from afmfs.cache.check.source import Source
from afmfs.cache.store.schema import ENTRY_COLUMNS
from afmfs.model.entry import DATA_OPS, LAST, UNLINKED, Entry, Op, describe
from afmfs.model.findings import Finding, Severity
from afmfs.model.soundness import entry_fault

PAGE = 2000


class Entries:
    def __init__(self, source: Source) -> None:
        self._source = source

    def check(self) -> Iterator[list[Finding]]:
        """The findings of each page."""
        source, after = self._source, -(1 << 63)
        while True:
            with source.snapshot():
                rows = source.execute(
                    f"SELECT {ENTRY_COLUMNS} FROM queue WHERE id > ? ORDER BY id LIMIT ?",
                    (after, PAGE),
                ).fetchall()
                if not rows:
                    return
                found = [*self._of_page(rows)]
            after = rows[-1][0]
            yield found

    def _of_page(self, rows: list[tuple[Any, ...]]) -> Iterator[Finding]:
        sound: list[Entry] = []
        for row in rows:
            fault = entry_fault(row)
            if fault:
                yield self._bad(row, fault)
            else:
                sound.append(Entry(*row)._replace(op=Op(row[1])))
        modes, changed = self._inodes({ino for e in sound for ino in _about(e) if ino is not None})
        gone: dict[int, Entry] = {}
        for e in sound:
            settled = e.op in DATA_OPS and e.id <= self._source.settled_through
            for ino in (e.ino, e.ino2):
                if ino is not None and ino not in modes and not settled:
                    gone[ino] = e
            yield from self._parents(e, modes)
            if e.op in DATA_OPS and e.id > changed.get(e.ino, e.id):
                yield self._later(e, changed[e.ino])
        for ino in gone.keys() - self._removed(gone):
            yield self._of_nothing(ino, gone[ino])

    def _inodes(self, inos: Iterable[int]) -> tuple[dict[int, int], dict[int, int]]:
        """Mode, and last change, of each that there is."""
        rows = self._source.execute(
            "SELECT ino, mode, changed FROM inode WHERE ino IN (SELECT value FROM json_each(?))",
            (json.dumps(sorted(inos)),),
        ).fetchall()
        return {row[0]: row[1] for row in rows}, {row[0]: row[2] for row in rows}

    def _removed(self, inos: Iterable[int]) -> set[int]:
        """Those that a pending entry removes for good: their inodes have gone at once."""
        text = json.dumps([*inos])
        rows = self._source.execute(
            "SELECT ino FROM queue WHERE op=?2 AND flags & ?4 AND op <> 6"
            " AND ino IN (SELECT value FROM json_each(?1))"
            " UNION SELECT ino2 FROM queue WHERE op=?3 AND flags & ?4"
            " AND ino2 IN (SELECT value FROM json_each(?1))",
            (text, int(Op.REMOVE), int(Op.RENAME), LAST),
        )
        return {ino for (ino,) in rows}

    # -- findings --------------------------------------------------------------------------------

    def _bad(self, row: tuple[Any, ...], fault: str) -> Finding:
        number = row[0]
        return Finding(
            kind="bad entry",
            text=f"entry {number} of the queue: {fault}",
            repair="it is removed, and what was changed is compared with home",
            severity=Severity.LOST,
            detail={"entry": number},
            mend=doing(Repair.lose_entries, [number]),
        )

    def _later(self, entry: Entry, changed: int) -> Finding:
        """Its inode would count as clean while the entry is pending."""
        return Finding(
            kind="bad row",
            text=f"its last change is said to be entry {changed}, and {entry.id} is queued",
            repair="it is set right",
            ino=entry.ino,
            path=self._source.path(entry.ino),
            mend=doing(Repair.set_columns, entry.ino, {"changed": entry.id}),
        )

    def _of_nothing(self, ino: int, entry: Entry) -> Finding:
        """Its inode's row is gone, and nobody has removed it."""
        what = describe(entry.op, entry.kind)
        return Finding(
            kind="entry of nothing",
            text=f"entry {entry.id} ({what}) is about inode {ino}, which does not exist",
            repair="what is pending of it is dropped",
            severity=Severity.LOST,
            ino=ino,
            path=self._source.path(ino),
            detail={"entry": entry.id},
            mend=doing(Repair.drop_entries_of, ino),
        )

    def _parents(self, entry: Entry, modes: dict[int, int]) -> Iterator[Finding]:
        """A name that is made or moved to has to be in a directory."""
        if entry.op in DATA_OPS:
            return
        for parent in (entry.parent, entry.parent2):
            if parent is None or parent == UNLINKED:
                continue
            if parent in modes and not stat.S_ISDIR(modes[parent]):
                yield Finding(
                    kind="bad entry",
                    text=f"entry {entry.id} is about a name in inode {parent}, no directory",
                    repair="it is removed, and what was changed is compared with home",
                    severity=Severity.LOST,
                    ino=entry.ino,
                    path=self._source.path(entry.ino),
                    detail={"entry": entry.id},
                    mend=doing(Repair.lose_entries, [entry.id]),
                )

    def counters(self, cached_bytes: int | None) -> list[Finding]:
        """What the counters say against what there is. `cached_bytes` is None where it can't be
        told, as the cache goes on."""
        source = self._source
        with source.snapshot():
            said = source.execute(
                "SELECT queue_length, bytes_pending, cached_bytes, inodes FROM counters"
            ).fetchall()
            length, data = source.execute(
                'SELECT count(*), total(CASE op WHEN ? THEN "end" - start END) FROM queue',
                (int(Op.WRITE),),
            ).fetchone()
            (inodes,) = source.execute("SELECT count(*) FROM inode").fetchone()
        if len(said) != 1 or not all(type(value) is int for value in said[0]):
            return []  # told of already
        found: list[Finding] = []
        there = {"queue_length": length, "bytes_pending": int(data)}
        other = {"inodes": inodes}
        if cached_bytes is not None:
            other["cached_bytes"] = cached_bytes
        names = ("queue_length", "bytes_pending", "cached_bytes", "inodes")
        told = dict(zip(names, said[0], strict=True))
        wrong = [name for name in there if told[name] != there[name]]
        if wrong:
            text = "; ".join(f"{name} is {told[name]}, {there[name]} are there" for name in wrong)
            found.append(
                Finding(
                    kind="lost entries",
                    text=f"entries of the queue were lost: {text}",
                    repair="every changed object is compared with home, and sent again",
                    mend=Repair.entries_were_lost,
                )
            )
        for name, value in other.items():
            if told[name] != value:
                text = f"{name} is {told[name]}, {value} are there"
                found.append(
                    Finding(kind="counter", text=text, repair="counted anew", mend=Repair.recount)
                )
        return found


def _about(entry: Entry) -> tuple[int | None, ...]:
    if entry.op in DATA_OPS:
        return (entry.ino,)
    return entry.ino, entry.ino2, entry.parent, entry.parent2
