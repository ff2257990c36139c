"""What vouches for a row of a file's map, beyond what SQLite checks of the page that it is on.

A page of noise, or one that a disk put in the place of another, can pass for rows; believed, it has
zeros of a blob read as a file's bytes.
"""

from __future__ import annotations

from struct import Struct
from typing import Any
from zlib import crc32

_TWO, _THREE = Struct("<qq").pack, Struct("<qqq").pack

NONE = -1
"""Of what is no row: no row has it."""


def row_sum(ino: Any, place: Any, content: Any) -> int:
    """The checksum of a row: a chunk of blocks (its bits), or a span (its end)."""
    if type(ino) is not int or type(place) is not int:
        return NONE
    if type(content) is bytes:
        return crc32(_TWO(ino, place) + content)
    return crc32(_THREE(ino, place, content)) if type(content) is int else NONE
