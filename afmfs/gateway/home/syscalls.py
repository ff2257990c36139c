"""System calls that the standard library doesn't offer. All release the GIL."""

from __future__ import annotations

import ctypes
import errno
import os
import sys

_libc = ctypes.CDLL(None, use_errno=True)
_renameat2 = _libc.renameat2
_renameat2.argtypes = (
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.c_uint,
)
_syncfs = _libc.syncfs
_syncfs.argtypes = (ctypes.c_int,)
_fallocate = _libc.fallocate
_fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
_fstatfs = _libc.fstatfs
_fstatfs.argtypes = (ctypes.c_int, ctypes.c_void_p)
_statx = _libc.statx
_statx.argtypes = (
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.c_int,
    ctypes.c_uint,
    ctypes.c_void_p,
)

RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2

KEEP_SIZE, PUNCH_HOLE = 1, 2

FUSE_SUPER_MAGIC = 0x65735546
MSDOS_SUPER_MAGIC = 0x4D44
EXFAT_SUPER_MAGIC = 0x2011BAB0

_AT_EMPTY_PATH = 0x1000
_AT_STATX_FORCE_SYNC = 0x2000
_AT_STATX_DONT_SYNC = 0x4000  # no question to a remote server
_STATX_MTIME = 0x40
_STATX_MNT_ID_UNIQUE = 0x4000  # Linux 6.8
_STATX_BYTES = 256
_STATX_MNT_ID_AT = 144
_STATFS_BYTES = 256


def _fail() -> OSError:
    code = ctypes.get_errno()
    return OSError(code, os.strerror(code))


def renameat2(dirfd: int, name: bytes, dirfd2: int, name2: bytes, flags: int) -> None:
    if _renameat2(dirfd, name, dirfd2, name2, flags) != 0:
        raise _fail()


def fallocate(fd: int, mode: int, start: int, length: int) -> None:
    """`mode`: KEEP_SIZE, perhaps with PUNCH_HOLE."""
    if _fallocate(fd, mode, start, length) != 0:
        raise _fail()


def syncfs(fd: int) -> None:
    """Reports write errors of the whole file system since `fd` (not O_PATH) was opened."""
    if _syncfs(fd) != 0:
        raise _fail()


def file_system_type(fd: int) -> int:
    """statfs's magic number of the file system that `fd` is on."""
    buf = ctypes.create_string_buffer(_STATFS_BYTES)
    if _fstatfs(fd, buf) != 0:
        raise _fail()
    word = ctypes.sizeof(ctypes.c_long)
    return int.from_bytes(buf.raw[:word], sys.byteorder) & 0xFFFFFFFF


def revalidate(fd: int) -> None:
    """Ask the server behind `fd`, whatever is cached of it here. OSError if it doesn't answer."""
    buf = ctypes.create_string_buffer(_STATX_BYTES)
    if _statx(fd, b"", _AT_EMPTY_PATH | _AT_STATX_FORCE_SYNC, _STATX_MTIME, buf) != 0:
        raise _fail()


def mount_id(fd: int) -> str:
    """Names the mount that `fd` was opened through.

    Never given twice within one boot on Linux 6.8 and later; before that the numbers of mounts
    that are gone may come again.
    """
    buf = ctypes.create_string_buffer(_STATX_BYTES)
    flags = _AT_EMPTY_PATH | _AT_STATX_DONT_SYNC
    if _statx(fd, b"", flags, _STATX_MNT_ID_UNIQUE, buf) == 0:
        mask = int.from_bytes(buf.raw[:4], sys.byteorder)
        if mask & _STATX_MNT_ID_UNIQUE:
            at = _STATX_MNT_ID_AT
            return f"u{int.from_bytes(buf.raw[at : at + 8], 'little')}"
    with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as info:
        for line in info:
            if line.startswith("mnt_id:"):
                return f"m{int(line.split()[1])}"
    raise OSError(errno.ENOSYS, "this kernel numbers no mounts")


def is_unique(number: str) -> bool:
    """Whether a mount_id will never name another mount, until the next boot."""
    return number.startswith("u")
