"""Which gateway.db the cache works with, as cache.db remembers it: one for each home.

The gateway's journal knows what is under way at home, and which outcomes are not taken over yet.
With it lost, all that may have been executed is in doubt. How far that reaches is known here: with
each durable point, and so before anything of it is executed, the gateway says the largest entry
that it has begun. What was queued later is as it was.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from afmfs.cache.store.store import Store


class Remembered(NamedTuple):
    id: str = ""  # the journal's name for itself; empty: there was none yet
    turn: int = 0  # its transactions, as far as heard of: an older copy has had fewer
    begun: int = 0  # the largest entry that may have been executed at this home


def key_of(home: int | str) -> str:
    """Its name among the settings."""
    return f"journal/{home}"


def remembered(store: Store, home: int | str) -> Remembered:
    """`home` is the number of the home."""
    return Remembered(*json.loads(store.get(key_of(home)) or "[]"))


def remember(store: Store, home: int | str, journal: Remembered) -> None:
    """In the caller's transaction."""
    store.put(key_of(home), json.dumps(journal))
