"""The common case, a new small file, with nothing but the system calls that it takes.

Half of the time of a replay of many small files would otherwise go into telling cases apart.
Whatever is out of the ordinary, errors included, is left to the long way, which meets it again.
"""

from __future__ import annotations

import os

from afmfs.gateway.home.stamp import take
from afmfs.gateway.home.trouble import HomeAway, MayEnd, Verb
from afmfs.gateway.replay.work import Done, Failed, Work
from afmfs.gateway.state.transfer import PAGE, SMALL
from afmfs.model.action import Make


def make_small(work: Work, action: Make, dirfd: int) -> Done | None:
    """Make a file in directory `dirfd` with its content; None: not done, take the long way."""
    content, row = action.content, work.rows.get(action.ino)
    if row is None or not row.whole or content.xattrs or work.sync_files or work.doubt:
        return None
    size = content.size or 0
    if size > SMALL or size > row.size or content.ranges != (((0, size),) if size else ()):
        return None
    data = b""
    if size:
        blob = work.view.open_blob(row.ino, row.gen)
        if blob is None:
            return None
        try:
            data = os.pread(blob, size, 0)
        except OSError:
            return None
        finally:
            os.close(blob)
        if len(data) < size or PAGE in data or not (data[0] or data[-1] or any(data)):
            return None  # there may be holes in it
    name, home = action.place[1], work.home
    try:
        fd = home.make_file(dirfd, name)
    except OSError as exc:
        # Not tried again: a call that failed half-way would find its own file.
        raise work.trouble(exc, action.place, Verb.MAKE, action.kind) from exc
    try:
        try:
            if size and os.pwrite(fd, data, 0) != size:
                raise OSError
            os.utime(fd, ns=(row.atime, row.mtime))
            st = os.fstat(fd)
            home.set_attributes(fd, row.mode, row.uid, row.gid, st)
        finally:
            os.close(fd)
    except OSError as exc:
        trouble = work.trouble(exc, action.place, Verb.WRITE)
        if isinstance(trouble, HomeAway):
            raise trouble from exc
        try:
            home.unlink(dirfd, name)
        except OSError:
            raise Failed(MayEnd(trouble.errno, str(trouble)), partial=True) from exc
        return None
    return Done(take(st, stable_inodes=home.properties.stable_inodes))
