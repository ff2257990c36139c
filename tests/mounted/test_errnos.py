"""What an application gets for each kind of error."""

from __future__ import annotations

import errno
import logging
import sqlite3

import pytest
import trio
from pyfuse3 import FUSEError

from afmfs.errors import Refused
from mount.errnos import handler


def sqlite_error(code: int) -> sqlite3.Error:
    error = sqlite3.OperationalError("as SQLite has it")
    error.sqlite_errorcode = code
    return error


@pytest.mark.parametrize(
    "error, code",
    [
        (OSError(errno.ENOSPC, "full"), errno.ENOSPC),
        (FileNotFoundError(errno.ENOENT, "none"), errno.ENOENT),
        (FUSEError(errno.ENAMETOOLONG), errno.ENAMETOOLONG),
        (Refused("not now"), errno.EBUSY),
        (Refused("never", errno=errno.EPERM), errno.EPERM),
        (sqlite_error(sqlite3.SQLITE_FULL), errno.ENOSPC),
        (sqlite_error(sqlite3.SQLITE_READONLY | 1 << 8), errno.EROFS),
        (sqlite_error(sqlite3.SQLITE_IOERR | 3 << 8), errno.EIO),
        (ValueError("a bug"), errno.EIO),
        (OSError("without an errno"), errno.EIO),
    ],
)
async def test_errors_become_errnos(error: Exception, code: int) -> None:
    @handler
    async def fails() -> None:
        raise error

    with pytest.raises(FUSEError) as caught:
        await fails()
    assert caught.value.errno == code


async def test_what_nobody_foresaw_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    @handler
    async def unlink() -> None:
        raise ValueError("a bug")

    with caplog.at_level(logging.ERROR), pytest.raises(FUSEError):
        await unlink()
    (record,) = caplog.records
    assert "unlink" in record.message
    assert record.exc_info is not None


async def test_cancellation_passes() -> None:
    @handler
    async def waits() -> None:
        await trio.sleep_forever()

    with trio.move_on_after(0) as scope:
        await waits()
    assert scope.cancelled_caught
