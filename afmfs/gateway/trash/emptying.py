"""Throwing away what is in home's trash: the one place where something at home is destroyed for
good, and only what an administrator names.

Walked by descriptors, following no symbolic link and entering nothing that is mounted.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from afmfs.gateway.home.home import Home
from afmfs.gateway.home.syscalls import mount_id
from afmfs.gateway.trash.book import INDEX, PATH, directory_of

DEEPEST = 64
"""Directories that are open at a time; what lies deeper is brought up first."""

_LIST = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_LOOK = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW


@dataclass(slots=True)
class Emptied:
    """What was thrown away, and what first stood in the way."""

    count: int = 0  # entries of the trash
    size: int = 0  # bytes of files that had no other name
    problem: OSError | None = None
    left: set[bytes] = field(default_factory=set)  # entries that are still there

    def meet(self, exc: OSError) -> None:
        if self.problem is None:
            self.problem = exc


def jobs_in_trash(home: Home) -> list[int]:
    """The numbers of the jobs that have a directory in home's trash."""
    try:
        fd = home.open_directory(PATH)
    except FileNotFoundError:
        return []
    try:
        return sorted(int(name) for name in os.listdir(fd) if name.isascii() and name.isdigit())
    finally:
        os.close(fd)


def empty(home: Home, job: int, done: Emptied, pulse: Callable[[], None]) -> None:
    """Remove all of a job's trash. OSError if it can't be looked into; what can't be removed is
    told by `done`."""
    try:
        top = home.open_directory(directory_of(job))
    except FileNotFoundError:
        return
    try:
        _Sweep(top, done, pulse).run()
    finally:
        os.close(top)
    if not done.left:
        home.rmdir(home.directory(PATH), b"%d" % job)
    home.forget_directory(directory_of(job))


class _Sweep:
    def __init__(self, top: int, done: Emptied, pulse: Callable[[], None]) -> None:
        self._top, self._done, self._pulse = top, done, pulse
        self._mount = mount_id(top)
        self._brought = 0
        self._prefix = b"%b%d." % (_BROUGHT, time.time_ns())  # not one of an interrupted sweep

    def run(self) -> None:
        """The index goes last: as long as something is there, it says what."""
        while True:
            names = [name for name in _names(self._top) if name != INDEX]
            fresh = [name for name in names if name not in self._done.left]
            if not fresh:
                break
            for name in fresh:
                if self._remove(self._top, name, 0):
                    self._done.count += not name.startswith(_BROUGHT)
                else:
                    self._done.left.add(name)
        if not self._done.left:
            self._remove(self._top, INDEX, 0)

    def _remove(self, dirfd: int, name: bytes, depth: int) -> bool:
        """Whether it is gone."""
        try:
            st = os.stat(name, dir_fd=dirfd, follow_symlinks=False)
            if stat.S_ISDIR(st.st_mode):
                return self._remove_directory(dirfd, name, st, depth)
            os.unlink(name, dir_fd=dirfd)
            if stat.S_ISREG(st.st_mode) and st.st_nlink == 1 and name != INDEX:
                self._done.size += st.st_size
        except FileNotFoundError:
            pass  # gone is what it was to be
        except OSError as exc:
            self._done.meet(exc)
            return False
        self._pulse()
        return True

    def _remove_directory(self, dirfd: int, name: bytes, st: os.stat_result, depth: int) -> bool:
        if depth == DEEPEST:
            self._brought += 1
            os.rename(
                name, self._prefix + b"%d" % self._brought, src_dir_fd=dirfd, dst_dir_fd=self._top
            )
            return True
        fd = self._enter(dirfd, name, st)
        try:
            gone = [self._remove(fd, inner, depth + 1) for inner in _names(fd)]
        finally:
            os.close(fd)
        if not all(gone):
            return False
        os.rmdir(name, dir_fd=dirfd)
        return True

    def _enter(self, dirfd: int, name: bytes, st: os.stat_result) -> int:
        """A descriptor of a directory to be emptied. EBUSY if something is mounted on it."""
        looked = os.open(name, _LOOK, dir_fd=dirfd)
        try:
            if mount_id(looked) != self._mount:
                raise OSError(errno.EBUSY, "something is mounted in it")
            if os.geteuid() and st.st_uid == os.geteuid() and st.st_mode & 0o700 != 0o700:
                os.chmod(f"/proc/self/fd/{looked}", 0o700)  # ours, and not writable even for us
            return os.open(b".", _LIST, dir_fd=looked)
        finally:
            os.close(looked)


_BROUGHT = b"deep."
"""Begins the name of a directory that was brought up from below."""


def _names(fd: int) -> list[bytes]:
    return [os.fsencode(name) for name in os.listdir(fd)]
