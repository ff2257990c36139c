"""Rows of block maps that are not what was written, though SQLite can read them.

Looked for, and mended, before anything else is read by the maps. What such a row said is not known,
nor for certain which file it was of: the number that it has may be noise as well.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from afmfs.cache.check.repair import BadRows, Repair, doing
from afmfs.cache.check.source import Source
from afmfs.cache.store.schema import BAD_ROWS
from afmfs.cache.store.store import with_row_sum
from afmfs.model import bitmap
from afmfs.model.findings import Finding, Severity

MAP = "damaged map"

PAGE = 1000

_PLACES = {"blockmap": "chunk", "span": "start"}
_KINDS = {
    "blockmap": f"CASE length(bits) WHEN {len(bitmap.run(0))} THEN 'run' ELSE 'chunk' END",
    "span": "'start'",
}
_FIRST = -(1 << 63)


def check(source: Source) -> Iterator[list[Finding]]:
    """All findings at the end, as they are mended in one; before that, an empty page for each that
    was looked at."""
    with_row_sum(source.db)
    found: dict[Any, list[tuple[str, Any]]] = defaultdict(list)
    for table in BAD_ROWS:
        for page in _pages(source, table):
            for ino, place, kind, is_bad in page:
                if is_bad:
                    found[ino].append((kind, place))
            yield []
    bad = [
        BadRows(ino if type(ino) is int else None, places, _is_only_copy(source, ino))
        for ino, places in found.items()
    ]
    yield [_finding(source, one, bad) for one in bad]


def _pages(source: Source, table: str) -> Iterator[list[tuple[Any, Any, str, int]]]:
    """The content is compared inside SQLite: noise need not be something that Python can read."""
    place = _PLACES[table]
    sql = (
        f"SELECT ino, {place}, {_KINDS[table]}, {BAD_ROWS[table]} FROM {table}"
        f" WHERE (ino, {place}) > (?, ?) ORDER BY ino, {place} LIMIT {PAGE}"
    )
    after: tuple[Any, Any] = _FIRST, _FIRST
    while rows := source.execute(sql, after).fetchall():
        yield rows
        after = rows[-1][:2]


def _is_only_copy(source: Source, ino: Any) -> bool:
    """Whether home may have nothing of what is cached of a file with a map, and no entry of the
    queue says so."""
    row = source.execute(
        "SELECT home_mtime IS NULL, changed > retired,"
        " EXISTS (SELECT 1 FROM queue WHERE id = changed),"
        " EXISTS (SELECT 1 FROM unrepresentable AS u WHERE u.ino = inode.ino)"
        " OR EXISTS (SELECT 1 FROM lost WHERE lost.ino = inode.ino)"
        " FROM inode WHERE ino = ? AND NOT whole",
        (ino,),
    ).fetchone()
    if row is None:
        return False
    never_sent, pending, queued, unheld = row
    not_told = source.missing or not queued or source.unsure
    return bool(never_sent or unheld or (pending and not_told))


def _finding(source: Source, one: BadRows, every: list[BadRows]) -> Finding:
    places = ", ".join(f"{column} {place}" for column, place in one.places[:4])
    more = ", ..." * (len(one.places) > 4)
    text = f"rows of its map are not what was written ({places}{more})"
    repair = "what home has is fetched again, what is pending stays"
    if one.only_here:
        text += ", and home need not have what they were of"
        repair = "reads of that fail, and nothing is sent until `start`; a copy of the blob is kept"
    elif source.unsure:
        text += ", and home need not have it, as a resync or failover is due"
        repair = "the file is fetched again if home has it; a copy of the blob is kept"
    return Finding(
        kind=MAP,
        text=text,
        repair=repair,
        severity=Severity.LOST if one.only_here or source.unsure else Severity.ERROR,
        ino=one.ino,
        path=None if one.ino is None else source.path(one.ino),
        mend=doing(Repair.drop_map_rows, every),
    )
