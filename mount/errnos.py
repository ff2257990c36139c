"""From exceptions to errnos: the one decorator that every handler wears.

pyfuse3 ends the whole mount at any exception but FUSEError, so nothing else may leave a handler.
Cancellation is no error and passes (it is a BaseException).
"""

from __future__ import annotations

import errno
import functools
import logging
import sqlite3
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar, TypeVarTuple

from pyfuse3 import FUSEError

from afmfs.errors import AfmError, is_damage

log = logging.getLogger(__name__)

Arguments = TypeVarTuple("Arguments")
R = TypeVar("R")


def handler(
    method: Callable[[*Arguments], Coroutine[Any, Any, R]],
) -> Callable[[*Arguments], Coroutine[Any, Any, R]]:
    """Let only FUSEError out of a coroutine method of `Operations`."""

    @functools.wraps(method)
    async def guarded(*args: *Arguments) -> R:  # pyfuse3 passes all by position
        try:
            return await method(*args)
        except FUSEError:
            raise
        except Exception as error:
            raise FUSEError(errno_of(error, method.__name__)) from error

    guarded.is_guarded = True  # type: ignore[attr-defined]  # a test looks for it
    return guarded


def errno_of(error: Exception, where: str) -> int:
    """What the application gets. What nobody foresaw is EIO, and a traceback in the log."""
    if isinstance(error, OSError) and error.errno:
        return error.errno
    if isinstance(error, AfmError):
        return error.errno
    if isinstance(error, sqlite3.Error):
        return _sqlite_errno(error, where)
    log.error("%s: unforeseen error, answered as EIO", where, exc_info=error)
    return errno.EIO


def _sqlite_errno(error: sqlite3.Error, where: str) -> int:
    # The extended code's low byte is the class: SQLITE_IOERR_WRITE is an SQLITE_IOERR.
    code = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
    if code == sqlite3.SQLITE_FULL:
        return errno.ENOSPC
    if code == sqlite3.SQLITE_READONLY:
        return errno.EROFS
    if is_damage(error):
        return errno.EIO  # the fileset tells of it
    log.error("%s: the cache's database failed", where, exc_info=error)
    return errno.EIO
