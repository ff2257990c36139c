"""Moving into the trash what a rename can't move: it is on another file system than the trash.

Copied under a name of its own, made durable, and only then removed where it was; the final name
comes last, as it says that the old name is not to be looked at any more. Whatever step a crash
comes between, the bytes are in at least one place.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable

from afmfs.gateway.home import xattrs
from afmfs.gateway.home.home import NO_SYNC, Home
from afmfs.gateway.state import transfer

_COPYING, _COPIED, _EARLIER = b".copying", b".copied", b".earlier"
_NO_XATTRS = frozenset({errno.EOPNOTSUPP, errno.ENOSYS, errno.EPERM, errno.EACCES, errno.EINVAL})

Pulse = Callable[[], None]


def copy_aside(
    home: Home, dirfd: int, name: bytes, trash: int, moved: bytes, pulse: Pulse = lambda: None
) -> bool:
    """Bring (dirfd, name), no directory, to (trash, moved), where nothing is; False if there is
    nothing to bring. OSError from home; EBUSY if it is changed meanwhile."""
    copied = moved + _COPIED
    source, copy = _look(home, dirfd, name), _look(home, trash, copied)
    if copy is not None and source is not None and not _alike(source, copy):
        # The copied one was removed, by us or another, and this came in its place: both are kept.
        home.rename(trash, copied, trash, moved + _EARLIER)
        copy = None
    if source is None and copy is None:
        return False
    if source is not None:
        if copy is None:
            _copy(home, dirfd, name, trash, moved + _COPYING, source, pulse)
            home.rename(trash, moved + _COPYING, trash, copied)
        _sync(trash)  # the copy's name, before the only other one goes
        _want_same(_look(home, dirfd, name), source)
        home.unlink(dirfd, name)
    home.rename(trash, copied, trash, moved)
    return True


def is_aside(home: Home, trash: int, moved: bytes) -> bool:
    """Whether something was brought to (trash, moved). A copy that is complete but in name gets it:
    nobody else will bring it, and where it was it may be gone."""
    if _look(home, trash, moved) is not None:
        return True
    if _look(home, trash, moved + _COPIED) is None:
        return False
    home.rename(trash, moved + _COPIED, trash, moved)
    _sync(trash)
    return True


def _look(home: Home, dirfd: int, name: bytes) -> os.stat_result | None:
    try:
        return home.lstat(dirfd, name)
    except FileNotFoundError:
        return None


def _alike(source: os.stat_result, copy: os.stat_result) -> bool:
    """Whether the one may be a copy of the other. Times: as home's other file system keeps them."""
    second = 1_000_000_000
    return (
        stat.S_IFMT(source.st_mode) == stat.S_IFMT(copy.st_mode)
        and source.st_size == copy.st_size
        and abs(source.st_mtime_ns - copy.st_mtime_ns) < 2 * second
    )


def _want_same(now: os.stat_result | None, before: os.stat_result) -> None:
    if now is None or _version(now) != _version(before):
        raise OSError(errno.EBUSY, "it changes while it is moved to the trash")


def _version(st: os.stat_result) -> tuple[int, ...]:
    return st.st_dev, st.st_ino, st.st_mode, st.st_size, st.st_mtime_ns


def _copy(
    home: Home, dirfd: int, name: bytes, trash: int, part: bytes, st: os.stat_result, pulse: Pulse
) -> None:
    """A durable copy with all that can be kept. What an earlier attempt left is replaced."""
    if _look(home, trash, part) is not None:
        home.unlink(trash, part)
    if stat.S_ISREG(st.st_mode):
        _copy_file(home, dirfd, name, trash, part, pulse)
        return
    if stat.S_ISLNK(st.st_mode):
        home.symlink(home.readlink(dirfd, name), trash, part)
    else:
        home.mknod(trash, part, st.st_mode, st.st_rdev)
    home.set_attributes_at(trash, part, st.st_mode, st.st_uid, st.st_gid)
    home.set_times_at(trash, part, st.st_atime_ns, st.st_mtime_ns)


def _copy_file(home: Home, dirfd: int, name: bytes, trash: int, part: bytes, pulse: Pulse) -> None:
    fd, st = home.open_file(dirfd, name, os.O_RDONLY)
    try:
        copy = home.make_file(trash, part)
        try:
            copy_bytes(fd, copy, 0, st.st_size, pulse)
            os.ftruncate(copy, st.st_size)
            for key, value in xattrs.read(fd).items():
                _put_xattr(copy, key, value)
            home.set_attributes(copy, st.st_mode, st.st_uid, st.st_gid)
            home.set_times(copy, st.st_atime_ns, st.st_mtime_ns)
            os.fsync(copy)
        finally:
            os.close(copy)
        _want_same(os.fstat(fd), st)
    finally:
        os.close(fd)


def copy_bytes(fd: int, to: int, start: int, end: int, pulse: Pulse) -> None:
    """What `fd` stores in [start, end), to the same place; its holes are left out."""
    try:
        for first, last in transfer.stored(fd, start, end):
            transfer.copy(fd, to, first, last, pulse)
    except transfer.BlobError as exc:  # here home is read as well
        raise OSError(exc.errno, os.strerror(exc.errno)) from exc


def _put_xattr(fd: int, key: bytes, value: bytes) -> None:
    try:
        xattrs.put(fd, key, value)
    except OSError as exc:
        if exc.errno not in _NO_XATTRS:
            raise


def _sync(trash: int) -> None:
    """`trash` is O_PATH, which can't be synced."""
    fd = os.open(b".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=trash)
    try:
        os.fsync(fd)
    except OSError as exc:
        if exc.errno not in NO_SYNC:
            raise
    finally:
        os.close(fd)
