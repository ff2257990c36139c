"""The merged effect of all changes to one inode's content and attributes."""

from __future__ import annotations

import stat
from collections.abc import Iterator, Sequence

from afmfs.model.action import Content
from afmfs.model.entry import Entry, Op
from afmfs.model.ranges import Range, union

_NEW_FILE = Content(smallest=0, size=0)
_NEW_OTHER = Content()


def new_content(kind: int, entries: Sequence[Entry]) -> Content:
    """What an object of `kind` holds that is made together with `entries`."""
    is_file = stat.S_ISREG(kind)
    if not entries:
        return _NEW_FILE if is_file else _NEW_OTHER
    return merge(entries, size=0 if is_file else None)


def merge(entries: Sequence[Entry], *, size: int | None = None) -> Content:
    """DATA_OPS entries of one inode, oldest first, as one.

    `size` is the size in bytes before them; None: not known here, it is what home has.
    """
    smallest, attr, xattrs = size, False, set[bytes]()
    for e in entries:
        if e.op == Op.WRITE:
            size = size if size is None else max(size, e.end)
        elif e.op == Op.SIZE:
            size = e.end
            smallest = size if smallest is None else min(smallest, size)
        elif e.op == Op.ATTR:
            attr = True
        elif e.name is not None:
            xattrs.add(e.name)
    return Content(smallest, size, union(_surviving(entries)), attr, frozenset(xattrs))


def _surviving(entries: Sequence[Entry]) -> Iterator[Range]:
    """The written ranges, without what a later truncation cut off again.

    Newest first, so that each write meets one limit: the smallest size that came after it.
    """
    limit: int | None = None
    for e in reversed(entries):
        if e.op == Op.SIZE:
            limit = e.end if limit is None else min(limit, e.end)
        elif e.op == Op.WRITE:
            yield e.start, e.end if limit is None else min(e.end, limit)
