"""Errors that are no errno of a file system call.

What an application sees is a plain ``OSError`` with the exact errno. These are for the people who
mount and steer:

AfmError            carries the errno that a write to ``.afm/control`` answers
├── Refused         a mount or a command is refused; says why, and the way out
├── UnknownCommand  no such command, or malformed words (EINVAL)
└── Damaged         the cache's own data contradicts itself

BadRow is an error of SQLite's, and is met wherever these are.
"""

from __future__ import annotations

import errno
import sqlite3


class AfmError(Exception):
    """An error with an errno and a sentence that says what to do."""

    errno = errno.EIO

    def __init__(self, message: str, *, errno: int | None = None) -> None:
        super().__init__(message)
        if errno is not None:
            self.errno = errno


class Refused(AfmError):
    """The request is understood and not allowed now. EBUSY unless said otherwise."""

    errno = errno.EBUSY


class UnknownCommand(AfmError):
    """The words make no command."""

    errno = errno.EINVAL


class BadRow(sqlite3.DatabaseError):
    """SQLite takes a page of cache.db for sound, and what it reads there is not what was written:
    as good as a page that it can't read."""

    sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    sqlite_errorname = "SQLITE_CORRUPT"


class Damaged(AfmError):
    """The cache contradicts itself: nothing may be built on it."""

    errno = errno.EIO


_NOT_READABLE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def is_damage(exc: BaseException) -> bool:
    """Whether SQLite says that a database is not what it should be."""
    code = getattr(exc, "sqlite_errorcode", None) or 0
    return isinstance(exc, sqlite3.DatabaseError) and (
        code & 0xFF in _NOT_READABLE or code == sqlite3.SQLITE_IOERR_SHORT_READ
    )


def is_full(exc: BaseException) -> bool:
    """Whether an operation failed for want of room."""
    if isinstance(exc, OSError):
        return exc.errno in (errno.ENOSPC, errno.EDQUOT)
    if isinstance(exc, sqlite3.Error):
        return (getattr(exc, "sqlite_errorcode", None) or 0) & 0xFF == sqlite3.SQLITE_FULL
    return False
