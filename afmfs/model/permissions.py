"""Whether the permissions that the cache shows give somebody more than home's own do.

The gateway may read and write what whoever asks may not. It does so for an object that the cache
shows with that object's own permissions; if home has another object under the name by now (somebody
may move or link what they may not open), they say nothing about it.
"""

from __future__ import annotations

from typing import NamedTuple

_READ, _WRITE = 4, 2


class Permissions(NamedTuple):
    mode: int
    uid: int
    gid: int


def give_more(ours: Permissions, homes: Permissions) -> bool:
    """Whether anybody but root may read or write by `ours` what they may not by `homes`."""
    if ours.uid not in (0, homes.uid):
        return True  # an owner may permit themselves what they like
    return any(_gives_more(ours, homes, bit) for bit in (_READ, _WRITE))


def _gives_more(ours: Permissions, homes: Permissions, bit: int) -> bool:
    group, others = homes.mode >> 3 & bit, homes.mode & bit
    # Whoever is in another group here may be in home's group there, or in none of the two.
    everybody = group and others
    by_group = group if ours.gid == homes.gid else everybody
    if ours.mode >> 3 & bit and not by_group:
        return True
    return bool(ours.mode & bit) and not (others if ours.gid == homes.gid else everybody)
