"""The crash points: where in the code they lie, and what they are called.

Each call has two, "NAME: before" and "NAME: after". A transaction is named after what it does: it
runs inside one of `COMMITS`, or is one of `TOLD_BY_WHAT_THEY_WRITE`.
"""

from __future__ import annotations

MOUNT_CALLS = {
    "blob make": "afmfs.cache.content.blobs:Blobs._create",
    "blob pool": "afmfs.cache.content.blobs:Blobs.fill_pool",
    "blob write": "afmfs.cache.content.blobs:Blobs.write",
    "blob extend": "afmfs.cache.content.blobs:Blobs.extend",
    "blob clear": "afmfs.cache.content.blobs:Blobs.clear",
    "blob cut": "afmfs.cache.content.blobs:Blobs.cut",
    "blob destroy": "afmfs.cache.content.blobs:Blobs.destroy",
    "blob sync": "afmfs.cache.content.durable:Durable._sync_blob",
    "map mark": "afmfs.cache.content.validity:Validity.mark",
    "map shrink": "afmfs.cache.content.validity:Validity.shrink",
    "map forget": "afmfs.cache.content.validity:Validity.forget",
    "map become whole": "afmfs.cache.content.validity:Validity.become_whole",
    "overwrite begun": "afmfs.cache.content.content:Content._begin_half",
    "overwrite ended": "afmfs.cache.content.content:Content._end_half",
    "reclaim": "afmfs.cache.content.durable:Durable._reclaim",
    "reclaim whole": "afmfs.cache.content.durable:Durable._reclaim_whole",
    "reclaim tail": "afmfs.cache.content.durable:Durable._reclaim_tail",
    "durable point": "afmfs.cache.content.durable:Durable._make",
    "durable point sync": "afmfs.cache.content.durable:Durable._sync_all",
    "fsync": "afmfs.cache.content.durable:Durable.fsync",
    "log sync": "afmfs.cache.store.store:Store.sync_wal",
    "checkpoint": "afmfs.cache.store.checkpoint:Checkpointer._checkpoint",
    "recovery": "afmfs.cache.content.recovery:Recovery.run",
    "numbers": "afmfs.cache.store.store:Numbers.reserve",
}
"""In the mount process."""

COMMITS = {
    "afmfs.cache.content.content:Content._commit_write": "write",
    "afmfs.cache.content.content:Content._resize": "size",
    "afmfs.cache.content.content:Content.fill": "fetched",
    "afmfs.cache.content.content:Content.reclaim_tail": "reclaimed",
    "afmfs.cache.names.namespace:Namespace.make": "name",
    "afmfs.cache.names.namespace:Namespace.link": "name",
    "afmfs.cache.names.namespace:Namespace.remove": "name",
    "afmfs.cache.names.namespace:Namespace.rename": "name",
    "afmfs.cache.names.namespace:Namespace.set_attributes": "attributes",
    "afmfs.cache.home.retire:Retirement.step": "retired",
    "afmfs.cache.evict.evict:Evictions._evict": "evicted",
    "afmfs.cache.content.recovery:Recovery.run": "recovery",
}
"""Functions whose transactions have a name of their own."""

TOLD_BY_WHAT_THEY_WRITE = ("point", "fsync", "other")

AT_HOME = (
    "mkdir", "rmdir", "unlink", "link", "symlink", "mknod", "replace", "utime", "chmod", "chown",
    "ftruncate", "pwrite", "copy_file_range", "fsync",
)  # fmt: skip
"""System calls of the gateway, which makes them at home only; "home create" is an open."""

AT_HOME_TOO = ("renameat2", "syncfs")

JOURNAL = ("take_off", "land", "forget", "put", "transaction")
"""What the gateway's transactions are made by."""

GATEWAY_CALLS = {
    "point asked": "afmfs.gateway.replay.points:Points.make",
    "outcomes told": "afmfs.gateway.replay.steps:Steps.say_outcomes",
}

TORN = ("blob write: torn", "home pwrite: torn")
"""Killed when half of the bytes are written."""


def _pairs(names: list[str]) -> list[str]:
    return [f"{name}: {when}" for name in names for when in ("before", "after")]


OF_MOUNT = [
    *_pairs([*MOUNT_CALLS]),
    *_pairs([f"commit {n}" for n in dict.fromkeys([*COMMITS.values(), *TOLD_BY_WHAT_THEY_WRITE])]),
    TORN[0],
]
OF_GATEWAY = [
    *_pairs([*GATEWAY_CALLS, "home create"]),
    *_pairs([f"home {name}" for name in (*AT_HOME, *AT_HOME_TOO)]),
    *_pairs([f"journal {name}" for name in JOURNAL]),
    TORN[1],
]
POINTS = [*OF_MOUNT, *OF_GATEWAY]
ONLY_AT_START = _pairs(["recovery", "numbers", "commit recovery"])
AT_START = [*ONLY_AT_START, *_pairs(["commit other", "log sync"])]
"""Points of the mount process before it serves."""
