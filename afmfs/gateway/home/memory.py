"""Looking past what a FUSE home remembers of a name.

sshfs remembers by the name, for 20 s: it shows late what was changed on the server, or under
another of a file's names; and a name that it was told to move or to remove seems to be there still
if the answer was lost, though the server has done it. The kernel believes it and asks no server.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from afmfs.gateway.home import syscalls

if TYPE_CHECKING:
    from afmfs.gateway.home.home import Home

KEPT_S = 3600.0
"""A look at home is over by then."""

_LINKED = frozenset({stat.S_IFREG, stat.S_IFLNK})
_NO_LINK = frozenset(
    {errno.EPERM, errno.EACCES, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
)
_NOT_OURS = frozenset({errno.EPERM, errno.EACCES, errno.EROFS})


def look_anew(home: Home, dirfd: int, name: bytes) -> os.stat_result:
    """As home.lstat: under a name that it never had, where home has hard links; else, and for a
    directory, it is asked how full its file system is, which says at least whether it is there."""
    st = home.lstat(dirfd, name)
    if not home.properties.is_fuse:
        return st
    if home.properties.hard_links and stat.S_IFMT(st.st_mode) in _LINKED:
        try:
            return _look_beside(home, dirfd, name)
        except OSError as exc:
            if not stat.S_ISLNK(st.st_mode) or exc.errno not in _NO_LINK:
                raise
    elif not stat.S_ISLNK(st.st_mode):  # of which the server would tell where it leads
        _ask(dirfd, name)
    return st


def _look_beside(home: Home, dirfd: int, name: bytes) -> os.stat_result:
    alias = b"look-%s-%d" % (os.urandom(8).hex().encode(), time.time())
    scratch = home.scratch()
    home.link(dirfd, name, scratch, alias)
    try:
        return home.lstat(scratch, alias)
    finally:
        home.unlink(scratch, alias)


def fstat_own(fd: int) -> os.stat_result:
    """Of an open file of ours, past what sshfs remembers: it forgets what is given a mode, the one
    that it has. Of a file that is looked at while another thread gives it a time, sshfs may have
    remembered the earlier one."""
    if syscalls.file_system_type(fd) == syscalls.FUSE_SUPER_MAGIC:
        try:
            os.fchmod(fd, stat.S_IMODE(os.fstat(fd).st_mode))
        except OSError as exc:
            if exc.errno not in _NOT_OURS:
                raise
        syscalls.revalidate(fd)
    return os.fstat(fd)


def is_left_over(name: bytes) -> bool:
    """Whether it is such a name in home's scratch directory, and nobody can be looking any more:
    home went away before it was removed."""
    return (
        name.startswith(b"look-")
        and (made := name.rpartition(b"-")[2]).isdigit()
        and abs(time.time() - int(made)) > KEPT_S
    )


def _ask(dirfd: int, name: bytes) -> None:
    """FileNotFoundError if the server says that it is not there."""
    fd = os.open(name, os.O_PATH | os.O_NOFOLLOW, dir_fd=dirfd)
    try:
        os.fstatvfs(fd)
    finally:
        os.close(fd)


def want_free(home: Home, dirfd: int, name: bytes) -> bool:
    """FileExistsError if something is there; whether home only remembers so: a rename to that name
    makes it forget, where what it remembers is a directory if the other is one."""
    try:
        os.stat(name, dir_fd=dirfd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    if not _is_gone(home, dirfd, name):
        raise OSError(errno.EEXIST, os.strerror(errno.EEXIST), name)
    return True


@contextmanager
def making(home: Home, dirfd: int, name: bytes) -> Iterator[None]:
    """EAGAIN, in the place of EEXIST, where home only remembers that something is there: the kernel
    believes it, and asks no server. It may be tried again when that is forgotten."""
    try:
        yield
    except FileExistsError as exc:
        if _is_gone(home, dirfd, name):
            raise later(name) from exc
        raise


def later(name: bytes) -> OSError:
    """What can't be done as long as home remembers the name."""
    return OSError(errno.EAGAIN, os.strerror(errno.EAGAIN), name)


def _is_gone(home: Home, dirfd: int, name: bytes) -> bool:
    """Whether home only remembers the name."""
    if not home.properties.is_fuse:
        return False
    try:
        look_anew(home, dirfd, name)
    except FileNotFoundError:
        with suppress(OSError):  # sshfs forgets a file at once that it can't open
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
            os.close(os.open(name, flags, dir_fd=dirfd))
        return True
    return False
