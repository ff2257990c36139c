"""A cache whose disk does not let it be opened: said in words, with the way out."""

from __future__ import annotations

import errno
import logging
import os
import shlex
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from afmfs.errors import Refused, is_full

log = logging.getLogger(__name__)

LEAST, LEAST_FILES = 2 << 20, 16
"""With less of the disk than this a cache may not be opened."""


@contextmanager
def opening(cache: Path) -> Iterator[None]:
    """Refused where the disk of `cache`, or what the cache holds, is why what is done fails."""
    try:
        yield
    except (OSError, sqlite3.OperationalError) as exc:
        why = _why(cache, exc)
        if not why:
            raise
        raise Refused(f"the cache {cache} can't be opened: {why}, then mount again") from exc
    except (ValueError, TypeError, LookupError, ArithmeticError) as exc:
        # A page that SQLite takes for sound need not hold what was written.
        log.debug("what the cache holds", exc_info=exc)
        raise Refused(
            f"the cache {cache} is damaged: it holds what makes no sense ({exc})"
            f"; see `afmctl {shlex.quote(str(cache))} check`"
        ) from exc


def _why(cache: Path, exc: OSError | sqlite3.OperationalError) -> str:
    found = os.statvfs(cache)
    if found.f_flag & os.ST_RDONLY or getattr(exc, "errno", 0) == errno.EROFS:
        return "its disk is read-only; make it writable"
    free, files = found.f_bavail * found.f_frsize, found.f_favail
    few = free < LEAST or (found.f_files > 0 and files < LEAST_FILES)
    of_database = isinstance(exc, sqlite3.OperationalError)  # it has no word for some of this
    if is_full(exc) or (few and of_database):
        return f"its disk is full ({free} bytes and {files} inodes are free); make room on it"
    code = getattr(exc, "sqlite_errorcode", 0) & 0xFF
    if getattr(exc, "errno", 0) == errno.EIO or code == sqlite3.SQLITE_IOERR:
        return f"its disk fails ({exc}); repair it"
    return ""
