"""What the cache's disk has room for, and whether it still keeps what it is given.

The databases need a reserve: without it the queue could not go down, and no room would ever come
back. Whatever makes the cache grow asks here first. Of the free space, what the log will make
cache.db longer by (`owed`) is spoken for; free pages inside cache.db (`spare`), which SQLite never
gives back, are a part of the reserve, but for the half of it that the logs may need. What takes
away (removals) may use a quarter of it, what never asks (durable points, outcomes, retirement,
eviction) all of it.

A look costs some microseconds, so it is taken on credit: while there is plenty, only once in
`CREDIT` bytes. Others may fill the disk between two looks. Then the system call fails, or the
transaction, which rolls back: the reserve is for going on, and never what keeps the books right.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from afmfs.cache.content.harm import Harm
from afmfs.errors import is_full

RESERVE = 64 << 20
"""Bytes of the disk that are left to the databases; a tenth of a small disk."""

FILES = 64
"""Inodes of the disk that are left to the databases; a tenth of those of a small disk."""

SLACK = 64 << 20
"""Bytes above the reserve from which on room is made; a twentieth of a small disk."""

CREDIT = 4 << 20
"""Most bytes that are taken between two looks."""

ENTRY = 16 << 10
"""What an operation's transaction adds to the log, about, at most."""

LOG = 16 << 20
"""Bytes of a log that are worth keeping; a fortieth of a small disk."""

BALLAST = 2 << 20
"""Bytes that cache.db and its log each have of the disk whatever others do, beyond what they need
now: enough for an eviction. A fortieth of a small disk."""

BELIEVED_S = 60.0
"""How long an error is told of that does not show again."""

MANY = 1 << 62


_KEEP_SIZE = 1
_fallocate = ctypes.CDLL(None, use_errno=True).fallocate
_fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


class Room(NamedTuple):
    """What is left, in bytes and in inodes; below 0: the reserve is being used."""

    left: int
    files: int
    reserve: int
    slack: int
    few_files: int  # from here on room is made
    free: int  # of the disk itself

    @property
    def is_short(self) -> bool:
        return self.left < self.slack or self.files < self.few_files

    @property
    def is_bare(self) -> bool:
        """Whether others have taken the reserve as well, so that the queue may not go down."""
        return self.free < self.reserve // 8

    @property
    def is_full(self) -> bool:
        return self.left <= 0 or self.files <= 0


class Lacking(NamedTuple):
    """What would have to go, for some ease."""

    bytes: int
    files: int


class Disk:
    """The file system of a cache. `growth` tells what cache.db is owed, and what it has spare."""

    def __init__(self, cache: Path, growth: Callable[[], tuple[int, int]] = lambda: (0, 0)) -> None:
        self._fd = os.open(cache, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._growth = growth
        self._credit = 0
        self.failed = ""  # why nothing may be promised any more; '' while all is well
        self._failure = errno.EIO
        self.error = ""  # the last error but for want of room
        self._error_code, self._error_at = 0, 0.0
        self.harm = Harm(cache)  # what it has not kept
        self.short: Callable[[], None] = lambda: None  # called when room should be made

    # -- asking ----------------------------------------------------------------------------------

    def take(self, size: int) -> None:
        """So many bytes are about to be written to blobs. ENOSPC if there is no room; EIO or EROFS
        if the disk takes nothing more, or the cache is damaged."""
        self.harm.check()
        self._credit -= size
        if self._credit < 0:
            self._look(size)

    def enter(self, *, frees: bool = False, size: int = ENTRY) -> None:
        """A transaction is about to make the databases grow; as `take`. `frees`: in the end it
        gives back more."""
        self._credit -= size
        if self._credit < 0:
            self._look(size, frees=frees)

    def take_file(self) -> None:
        """A file is about to be made; as `take`."""
        self.harm.check()
        self.check()
        if self.room().files <= 0:
            self.short()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _look(self, size: int, *, frees: bool = False) -> None:
        self.check()
        room = self.room()
        if room.is_short:
            self.short()
        if room.left + (room.reserve // 4 if frees else 0) < size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._credit = min(CREDIT, room.left // 4) - size

    def room(self) -> Room:
        """The present figures."""
        found = os.fstatvfs(self._fd)
        unit = found.f_frsize
        total, free = found.f_blocks * unit, found.f_bavail * unit
        owed, spare = self._growth()
        reserve = min(RESERVE, total // 10)
        free -= owed
        few = min(FILES, found.f_files // 10)
        return Room(
            left=min(free + spare - reserve, free - reserve // 2),
            files=found.f_favail - few if found.f_files else MANY,  # some have no number of them
            reserve=reserve,
            slack=min(SLACK, total // 20),
            few_files=few,
            free=found.f_bavail * unit,
        )

    def lacking(self) -> Lacking:
        """What would have to go before the disk is not short any more, with something over."""
        room = self.room()
        if not room.is_short:
            return Lacking(0, 0)
        files = 2 * room.few_files - room.files if room.files < room.few_files else 0
        data = 2 * room.slack - room.left if room.left < room.slack else 0
        return Lacking(data, files)

    @property
    def log_limit(self) -> int:
        """Bytes of a database's log that are kept when it begins anew."""
        return min(LOG, self.room().reserve // 4)

    @property
    def total(self) -> int:
        """Bytes of the whole file system."""
        found = os.fstatvfs(self._fd)
        return found.f_blocks * found.f_frsize

    # -- trouble ---------------------------------------------------------------------------------

    def check(self) -> None:
        """EIO or EROFS if the disk has failed, or is read-only."""
        self._check_sound()
        if os.fstatvfs(self._fd).f_flag & os.ST_RDONLY:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    def _check_sound(self) -> None:
        if self.failed:
            raise OSError(self._failure, os.strerror(self._failure))

    def sync(self, call: Callable[[int], None], fd: int) -> None:
        """Sync by `call`; may run in a thread. One that fails is the last: see `fail`."""
        self._check_sound()
        try:
            call(fd)
        except OSError as exc:
            self.fail(exc)
            raise

    def fail(self, exc: OSError) -> None:
        """A sync has failed: the kernel tells of what it could not write once, and the next sync
        succeeds on nothing. So nothing is promised any more until the cache is opened anew."""
        if not self.failed:
            self.failed = exc.strerror or str(exc)
            self._failure = errno.EROFS if exc.errno == errno.EROFS else errno.EIO
        self._credit = -1  # whoever asks looks

    def met(self, exc: Exception) -> Exception:
        """An operation has failed: remember why, unless it was for want of room. The error as
        whoever asked should get it: a database has no word for a disk that became read-only."""
        if is_full(exc):
            return exc
        now = self._try()
        if isinstance(exc, sqlite3.Error) and now is not None:
            exc = now
        self.error = getattr(exc, "strerror", None) or str(exc)
        self._error_code = getattr(exc, "errno", None) or errno.EIO
        self._error_at = time.monotonic()
        return exc

    def _try(self) -> OSError | None:
        """What the disk says to the smallest of changes."""
        try:
            os.utime(self._fd)
        except OSError as exc:
            return exc
        return None

    def look_again(self) -> None:
        """Whether the last error still stands. What can't be tried is believed for a while."""
        if self.error and self._try() is None:
            late = time.monotonic() > self._error_at + BELIEVED_S
            if late or self._error_code == errno.EROFS:
                self.error = ""

    def keep(self, fd: int, size: int) -> None:
        """Have so many bytes of the disk belong to a file, whose size stays. One that can't do so
        does without."""
        _fallocate(fd, _KEEP_SIZE, 0, size)

    def claim(self, fd: int, start: int, end: int) -> None:
        """Have a place on the disk for [start, end) of a file, so that writing there does not fail
        for want of room. ENOSPC."""
        if _fallocate(fd, _KEEP_SIZE, start, end - start) != 0:
            code = ctypes.get_errno()
            if code in (errno.ENOSPC, errno.EDQUOT):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def close(self) -> None:
        os.close(self._fd)
