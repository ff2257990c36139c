"""Version stamps: what home returned for a file after our last own operation on it."""

from __future__ import annotations

import os
from typing import NamedTuple

from afmfs.model import times


class Stamp(NamedTuple):
    size: int  # bytes
    mtime: int  # ns, as home returned it
    ino: int | None  # home's inode number, None where home does not keep them stable


def take(st: os.stat_result, *, stable_inodes: bool) -> Stamp:
    return Stamp(st.st_size, times.held(st.st_mtime_ns), st.st_ino if stable_inodes else None)


def same(expected: Stamp, found: Stamp, granularity: int) -> bool:
    """Whether home still holds the version `expected`.

    `granularity` is that of home's mtime in ns: a home that keeps whole seconds may have answered
    with more right after it was told the time.
    """
    return (
        expected.size == found.size
        and expected.mtime // granularity == found.mtime // granularity
        and (expected.ino is None or found.ino is None or expected.ino == found.ino)
    )
