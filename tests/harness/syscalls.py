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


_STATX_FORCE_SYNC, _SYMLINK_NOFOLLOW, _BASIC_STATS, _STATX_SIZE = 0x2000, 0x100, 0x7FF, 256


def look_anew(path: bytes) -> None:
    """Have the kernel ask a file system for attributes, though it knows them."""
    found = ctypes.create_string_buffer(_STATX_SIZE)
    flags = _STATX_FORCE_SYNC | _SYMLINK_NOFOLLOW
    _check(_libc.statx(AT_FDCWD, path, flags, _BASIC_STATS, found), path)
