"""System calls that the standard library does not wrap."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2
AT_FDCWD = -100

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, path: bytes) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)


def renameat2(source: Path | bytes, target: Path | bytes, flags: int) -> None:
    old, new = os.fsencode(source), os.fsencode(target)
    _check(_libc.renameat2(AT_FDCWD, old, AT_FDCWD, new, flags), old)


def fallocate(descriptor: int, mode: int, offset: int, size: int) -> None:
    arguments = (ctypes.c_int64(offset), ctypes.c_int64(size))
    _check(_libc.fallocate(descriptor, mode, *arguments), b"")
