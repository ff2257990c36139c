"""The kernel's table of mounts: what is mounted where, without a touch of any of them."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

TABLE = "/proc/self/mountinfo"
FSTYPE = "fuse.afmfs"


@dataclass(frozen=True, slots=True)
class Mounted:
    """One line of it, proc_pid_mountinfo(5): paths as os.fsdecode has them."""

    device: str  # major:minor
    root: str  # what of the file system is mounted there; not / of a bind mount of a part
    point: str
    fstype: str
    source: str
    options: str  # the file system's own


def mounted() -> list[Mounted]:
    """All mounts of this mount namespace; what covers another comes after it."""
    with open(TABLE, "rb") as table:
        return parse(table.read())


def parse(table: bytes) -> list[Mounted]:
    return [_parse_line(line) for line in table.split(b"\n") if line]


def _parse_line(line: bytes) -> Mounted:
    here, _, there = line.partition(b" - ")
    _, _, device, root, point, *_ = here.split(b" ")
    fstype, source, options, *_ = there.split(b" ")
    return Mounted(*map(_decode, (device, root, point, fstype, source, options)))


def _decode(field: bytes) -> str:
    """Space, tab, newline and backslash are octal there."""
    return os.fsdecode(re.sub(rb"\\([0-7]{3})", lambda m: bytes([int(m[1], 8)]), field))
