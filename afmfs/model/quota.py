"""How much may be cached: what `cache_size=` says, and the marks that follow from it. Pure.

As AFM's quotas of a fileset: from the soft one on, clean files are evicted, the least recently used
first; more than the hard one is never cached.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from afmfs.model.selection import parse_size

EVICT_AT = 90
"""Per cent of `cache_size` from which on files are evicted, unless something else is said."""

EASE = 10
"""Eviction ends so many per cent of `cache_size` below where it begins."""


class Quota(NamedTuple):
    """Bytes of cached blocks."""

    hard: int  # never more
    soft: int  # from here on files are evicted
    low: int  # down to here


UNLIMITED = Quota(*[(1 << 63) - 1] * 3)


def check_cache_size(text: str) -> str:
    """A size in bytes, or a share of the cache's disk, as it is remembered; '0': no limit.
    ValueError says what is wrong."""
    if share := re.fullmatch(r"([0-9]{1,3})%", text):
        if not 1 <= int(share[1]) <= 100:
            raise ValueError("a share of the cache's disk from 1% to 100%")
        return text
    try:
        return "0" if parse_size(text) == 0 else text
    except ValueError as error:
        raise ValueError(f"{error}, or 50% of the cache's disk") from None


def quota(cache_size: str, evict_at: int, total: int) -> Quota:
    """The marks for a cache on a disk of `total` bytes."""
    if cache_size == "0":
        return UNLIMITED
    share = cache_size.endswith("%")
    hard = total * int(cache_size[:-1]) // 100 if share else parse_size(cache_size)
    return Quota(hard, hard * evict_at // 100, hard * max(0, evict_at - EASE) // 100)
