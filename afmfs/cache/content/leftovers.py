"""Blobs that a crash left behind: written to, and no table knows of them.

New bytes reach a blob before the transaction that makes them the inode's. Killed in between, the
blob is nobody's: its number was of the pool, and is never used again. Which of them are nobody's is
looked up beside the requests, as no index tells it; what has to be looked at is remembered until it
was (`leftover`, a list of ranges of generations), over any number of crashes.
"""

from __future__ import annotations

import json
import logging
import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing

import trio

from afmfs.cache.content.blobs import Blobs
from afmfs.cache.store.store import Store, connect_read_only
from afmfs.model.blocks import SHARDS, blob_name

log = logging.getLogger(__name__)

_KEY = "leftover"
_BY_NAME = 4096
"""Up to so many blobs are looked for by name, else whole directories are read."""


def ranges_of(store: Store) -> list[range]:
    """Generations that an unclean stop may have left behind."""
    return [range(*pair) for pair in json.loads(store.get(_KEY) or "[]")]


def note(store: Store, numbers: range) -> None:
    """Have generations looked at, in the caller's transaction."""
    pairs = [[one.start, one.stop] for one in (*ranges_of(store), numbers) if one]
    store.put(_KEY, json.dumps(pairs))


def begin(store: Store) -> None:
    """No blob is ready, in the caller's transaction: those that come have larger numbers than were
    ever used."""
    number = store.entries.last + 1
    store.put("pool", json.dumps([number, number]))


def pool_of(store: Store) -> range:
    """Numbers of blobs that were made since the start and may have no inode yet."""
    first, stop = json.loads(store.get("pool") or "[0, 0]")
    return range(first, stop) if first else range(store.entries.last + 1, store.entries.last + 1)


def take(store: Store) -> int:
    """The number of a blob that is made at once, as none is ready. Noted before there is a file of
    it: a kill may leave that to nobody. Not inside a transaction."""
    first, number = pool_of(store).start, store.entries.take()
    with store:
        store.put("pool", json.dumps([first, number + 1]))
    return number


async def clear(store: Store, blobs: Blobs) -> None:
    """Remove what is nobody's. An error leaves it to the next mount."""
    pending = ranges_of(store)
    if not pending:
        return
    try:
        gone = await trio.to_thread.run_sync(_remove, store, blobs, pending)
        with store:
            store.put(_KEY, "")
    except (OSError, sqlite3.Error) as exc:
        log.error("what a crash left in blobs/ can't be cleared away: %s", exc)
    else:
        if gone:
            log.info("%d blobs that a crash had left were removed", gone)


def _remove(store: Store, blobs: Blobs, pending: list[range]) -> int:
    """How many there were. For a thread. None of these numbers comes into use any more."""
    there = {gen for numbers in pending for gen in existing(blobs.root_descriptor, numbers)}
    if there:
        with closing(connect_read_only(store.path)) as db:
            there -= used(db, min(there), max(there) + 1)
    blobs.destroy(there)
    return len(there)


def existing(root: int, numbers: range) -> Iterator[int]:
    """The generations among `numbers` that have a blob below the directory `root`."""
    if len(numbers) <= _BY_NAME:
        yield from (gen for gen in numbers if _exists(root, gen))
        return
    for shard in range(SHARDS):
        yield from (gen for gen in _listed(root, f"{shard:02x}") if gen in numbers)


def _exists(root: int, gen: int) -> bool:
    try:
        os.stat(blob_name(gen), dir_fd=root)
    except FileNotFoundError:
        return False
    return True


def _listed(root: int, shard: str) -> Iterable[int]:
    try:
        fd = os.open(shard, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=root)
    except FileNotFoundError:
        return  # never needed
    try:
        names = os.listdir(fd)
    finally:
        os.close(fd)
    for name in names:
        try:
            yield int(name, 16)
        except ValueError:
            continue  # none of ours


def used(db: sqlite3.Connection, first: int, end: int) -> set[int]:
    """Generations of [first, end) that an inode has, or that wait to be destroyed: power loss may
    bring the inodes of these back. In one snapshot: what goes, goes from the one to the other."""
    rows = db.execute(
        "SELECT gen FROM inode WHERE gen>=?1 AND gen<?2"
        " UNION SELECT gen FROM reclaim WHERE gen>=?1 AND gen<?2",
        (first, end),
    )
    return {gen for (gen,) in rows}
