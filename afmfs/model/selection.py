"""Which files an eviction takes, and in which order: what its words mean."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase
from os import fsencode

_UNITS = {"": 0, "k": 10, "m": 20, "g": 30, "t": 40, "p": 50}
LARGEST = (1 << 63) - 1


class Order(StrEnum):
    LRU = "LRU"  # least recently used first
    SIZE = "SIZE"  # biggest first


@dataclass(frozen=True, slots=True)
class Selection:
    order: Order = Order.LRU
    pattern: bytes | None = None  # of a shell, for any name of the file
    smallest: int = 1  # bytes
    largest: int = LARGEST

    def names(self, name: bytes) -> bool:
        """Whether a name is one of those meant."""
        return self.pattern is None or fnmatchcase(name, self.pattern)


def parse_size(text: str) -> int:
    """Bytes; K, M, G, T and P are powers of 1024. ValueError says what is wrong."""
    found = re.fullmatch(r"([0-9]+)([kmgtp]?)(?:i?b)?", text.lower(), re.ASCII)
    if not found or (size := int(found[1]) << _UNITS[found[2]]) > LARGEST:
        raise ValueError(f"a size in bytes, like 500M or 10G, not {text!r}")
    return size


def select(order: str, filters: Iterable[str]) -> Selection:
    """The selection that ATTR=VALUE words make; of several, all must hold. ValueError says what
    is wrong with one."""
    if order.upper() not in (*Order, ""):
        raise ValueError(f"the order is LRU or SIZE, not {order!r}")
    values: dict[str, str] = {}
    for one in filters:
        name, equals, value = one.partition("=")
        if not equals or name.upper() not in ("FILENAME", "MINFILESIZE", "MAXFILESIZE"):
            raise ValueError(
                f"a filter is FILENAME=PATTERN, MINFILESIZE=SIZE or MAXFILESIZE=SIZE, not {one!r}"
            )
        if name.upper() in values:
            raise ValueError(f"{name} is given twice")
        values[name.upper()] = value
    pattern = values.get("FILENAME")
    if pattern is not None and ("/" in pattern or not pattern):
        raise ValueError("FILENAME is a pattern for names, not for paths")
    return Selection(
        Order(order.upper() or Order.LRU),
        None if pattern is None else fsencode(pattern),
        max(1, parse_size(values.get("MINFILESIZE", "1"))),
        parse_size(values.get("MAXFILESIZE", str(LARGEST))),
    )
