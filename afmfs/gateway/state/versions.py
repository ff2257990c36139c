"""Whether home's file is still the version that it is known to hold, or may pass for it."""

from __future__ import annotations

import os

from afmfs.gateway.home import xattrs
from afmfs.gateway.home.stamp import Stamp, same, take
from afmfs.gateway.home.xattrs import Where
from afmfs.gateway.state.progress import Progress
from afmfs.gateway.state.transfer import BlobError, agrees
from afmfs.gateway.state.view import Row, View
from afmfs.model.entry import Op
from afmfs.model.permissions import Permissions, give_more
from afmfs.model.properties import Properties
from afmfs.model.ranges import Ranges, cut, subtract


def expected(view: View, progress: Progress, ino: int) -> list[Stamp]:
    """The versions that home may hold: that of our last operation, and the cache's.

    Asked for in this order: once an outcome is forgotten, a row read before is old.
    """
    made = progress.stamp(ino)
    row = view.row(ino)
    known = None if row is None else row.stamp
    return [stamp for stamp in (made, known) if stamp is not None]


def is_known(
    view: View, progress: Progress, properties: Properties, ino: int, st: os.stat_result
) -> bool:
    """Also where nothing is known of the file's version."""
    stamps = expected(view, progress, ino)
    found = take(st, stable_inodes=properties.stable_inodes)
    return not stamps or any(same(stamp, found, properties.mtime_ns) for stamp in stamps)


def is_newest(
    view: View, progress: Progress, properties: Properties, ino: int, st: os.stat_result
) -> bool:
    """Whether it is certainly the version of our last operation: an earlier one may be known still,
    and be what home remembers."""
    found = take(st, stable_inodes=properties.stable_inodes)
    newest = expected(view, progress, ino)[:1]
    return any(same(stamp, found, properties.mtime_ns) for stamp in newest)


def may_be_ours(
    view: View, progress: Progress, properties: Properties, ino: int, st: os.stat_result
) -> bool:
    """Whether home's file may be the known one, in whatever version: that an interrupted push of
    ours went to, say. A push keeps the file that it finds: one of another number has come in its
    place."""
    numbers = {stamp.ino for stamp in expected(view, progress, ino)} - {None}
    return not properties.stable_inodes or not numbers or st.st_ino in numbers


def is_foreign(
    view: View, progress: Progress, properties: Properties, ino: int, at: Where, st: os.stat_result
) -> bool:
    """Whether home's file is another object than the known one, and closed to somebody who may open
    ours: who may not open it has moved it here, or has given it one more name. Through us they
    could read and write it."""
    row = view.row(ino)
    if row is None or may_be_ours(view, progress, properties, ino, st) or not properties.modes:
        return False
    mode = xattrs.narrowed(at, st.st_mode) if properties.xattrs else st.st_mode
    owner = (st.st_uid, st.st_gid) if properties.owners else (row.uid, row.gid)
    return give_more(Permissions(row.mode, row.uid, row.gid), Permissions(mode, *owner))


def adoptable(
    view: View, progress: Progress, properties: Properties, ino: int, fd: int, st: os.stat_result
) -> bool:
    """Whether home's file, of another version than the known one, may pass for it: it is as long,
    and holds what every clean cached byte says (somebody's `touch`, or a copy put back)."""
    if is_foreign(view, progress, properties, ino, fd, st):
        return False
    if not may_be_ours(view, progress, properties, ino, st) and _has_more_names(view, ino, st):
        return False  # a push would go wherever else it has a name
    if all(stamp.size != st.st_size for stamp in expected(view, progress, ino)[:1]):
        return False
    row, clean = clean_ranges(view, ino, st.st_size)
    if row is None or not clean:
        return True
    blob = view.open_blob(ino, row.gen)
    try:
        if agrees(blob, fd, clean):
            return True
    except BlobError:
        return False  # the cache's own copy can't be read: nothing can be said for it
    finally:
        if blob is not None:
            os.close(blob)
    # It may have been evicted meanwhile, and its blob be gone: then nothing is cached to differ.
    now = view.row(ino)
    return (
        now is not None
        and now.gen != row.gen
        and adoptable(view, progress, properties, ino, fd, st)
    )


def _has_more_names(view: View, ino: int, st: os.stat_result) -> bool:
    row = view.row(ino)
    return st.st_nlink > (1 if row is None else max(1, row.nlink))


def clean_ranges(view: View, ino: int, size: int) -> tuple[Row | None, Ranges]:
    """The bytes below `size` (home's) that are valid here and that no entry covers."""
    with view.snapshot():
        sources = view.sources(ino, ((0, size),) if size else ())
        entries = view.content_entries(ino)
    if sources is None:
        return None, ()
    clean = cut(sources.valid, size)
    for entry in entries:
        if entry.op is Op.SIZE:
            clean = cut(clean, entry.end)
        else:
            clean = subtract(clean, entry.start, entry.end)
    return sources.row, clean
