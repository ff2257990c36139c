"""Names: each leads from a directory to an inode, from where a look-up finds it.

Which names an inode has to have is the inode's side (`inodes`).
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from typing import Any

from afmfs.cache.check.repair import Repair, doing
from afmfs.cache.check.source import Source
from afmfs.cache.names.namespace import SLOTS, cookie
from afmfs.model.entry import ROOT, UNLINKED
from afmfs.model.findings import Finding
from afmfs.model.soundness import is_name

PAGE = 2000

_ROWS = (
    "SELECT d.parent, d.cookie, d.name, d.ino, i.mode, p.mode FROM dentry d"
    " LEFT JOIN inode i ON i.ino = d.ino LEFT JOIN inode p ON p.ino = d.parent"
    " WHERE (d.parent, d.cookie) > (?, ?) ORDER BY d.parent, d.cookie LIMIT ?"
)

Row = tuple[Any, Any, Any, Any, Any, Any]


def check(source: Source) -> Iterator[list[Finding]]:
    """The findings of each page."""
    after: tuple[Any, Any] = (-(1 << 63), -(1 << 63))
    near: dict[Any, Any] = {}  # names of the last slots -> their place
    parent = None
    while True:
        with source.snapshot():
            rows = source.execute(_ROWS, (*after, PAGE)).fetchall()
            if not rows:
                return
            found: list[Finding] = []
            for row in rows:
                if row[0] != parent:
                    parent, near = row[0], {}
                found += _of_row(source, row, near)
                near[row[2]] = row[1]
                if len(near) > 4 * SLOTS:
                    near = dict(list(near.items())[-2 * SLOTS :])
        after = rows[-1][0], rows[-1][1]
        yield found


def _of_row(source: Source, row: Row, near: dict[Any, Any]) -> Iterator[Finding]:
    parent, place, name, ino, mode, above = row
    if not is_name(name) or type(parent) is not int or type(place) is not int:
        yield _finding(source, row, "bad row", f"{name!r} can be no name", "the name is removed")
    elif mode is None:
        yield _finding(
            source, row, "dangling name", f"it leads to inode {ino}, which does not exist",
            "the name is removed; if home has it, it comes back",
        )  # fmt: skip
    elif parent not in (ROOT, UNLINKED) and (above is None or not stat.S_ISDIR(above)):
        what = "does not exist" if above is None else "is no directory"
        yield _finding(
            source, row, "lost parent", f"it is in inode {parent}, which {what}",
            "what is pending of it goes to lost+found",
        )  # fmt: skip
    elif parent == UNLINKED and (name != b"%x" % ino or not stat.S_ISREG(mode)):
        yield _finding(
            source, row, "bad row", f"inode {ino} is kept under a wrong name until its last close",
            "the name is removed",
        )  # fmt: skip
    elif not 0 <= place - (first := cookie(name)) < SLOTS:
        yield _finding(
            source, row, "misplaced name", f"no look-up finds it (at {place}, not {first})",
            "it is moved to its place", mend=doing(Repair.place_name, parent, place),
        )  # fmt: skip
    elif name in near and place - near[name] < SLOTS:
        yield _finding(
            source, row, "double name", "its directory has the name twice",
            "the second one is removed",
        )  # fmt: skip


def _finding(
    source: Source, row: Row, kind: str, text: str, repair: str, mend: Any = None
) -> Finding:
    parent, place, name, ino = row[:4]

    return Finding(
        kind=kind,
        text=text,
        repair=repair,
        path=source.path_of_name(parent, name),
        ino=ino if type(ino) is int else None,
        detail={"parent": str(parent), "place": str(place)},
        mend=mend or doing(Repair.remove_name, parent, place),
    )
