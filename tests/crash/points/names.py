"""The crash points: where in the code they lie, and what they are called.

Each call has two, "NAME: before" and "NAME: after". A transaction is named after what it does: it
runs inside one of `COMMITS`, or is one of `TOLD_BY_WHAT_THEY_WRITE`.
"""

from __future__ import annotations

MOUNT_CALLS = {
    "blob make": "afmfs.cache.blobs:Blobs._create",
    "blob pool": "afmfs.cache.blobs:Blobs.fill_pool",
    "blob write": "afmfs.cache.blobs:Blobs.write",
    "blob extend": "afmfs.cache.blobs:Blobs.extend",
    "blob clear": "afmfs.cache.blobs:Blobs.clear",
    "blob cut": "afmfs.cache.blobs:Blobs.cut",
    "blob destroy": "afmfs.cache.blobs:Blobs.destroy",
    "blob sync": "afmfs.cache.durable:Durable._sync_blob",
    "map mark": "afmfs.cache.validity:Validity.mark",
    "map shrink": "afmfs.cache.validity:Validity.shrink",
    "map forget": "afmfs.cache.validity:Validity.forget",
    "map become whole": "afmfs.cache.validity:Validity.become_whole",
    "overwrite begun": "afmfs.cache.content:Content._begin_half",
    "overwrite ended": "afmfs.cache.content:Content._end_half",
    "reclaim": "afmfs.cache.durable:Durable._reclaim",
    "reclaim whole": "afmfs.cache.durable:Durable._reclaim_whole",
    "reclaim tail": "afmfs.cache.durable:Durable._reclaim_tail",
    "durable point": "afmfs.cache.durable:Durable._make",
    "durable point sync": "afmfs.cache.durable:Durable._sync_all",
    "fsync": "afmfs.cache.durable:Durable.fsync",
    "log sync": "afmfs.cache.store:Store.sync_wal",
    "checkpoint": "afmfs.cache.checkpoint:Checkpointer._checkpoint",
    "recovery": "afmfs.cache.recovery:Recovery.run",
    "numbers": "afmfs.cache.store:Numbers.reserve",
}
"""In the mount process."""

COMMITS = {
    "afmfs.cache.content:Content._commit_write": "write",
    "afmfs.cache.content:Content._resize": "size",
    "afmfs.cache.content:Content.fill": "fetched",
    "afmfs.cache.content:Content.reclaim_tail": "reclaimed",
    "afmfs.cache.namespace:Namespace.make": "name",
    "afmfs.cache.namespace:Namespace.link": "name",
    "afmfs.cache.namespace:Namespace.remove": "name",
    "afmfs.cache.namespace:Namespace.rename": "name",
    "afmfs.cache.namespace:Namespace.set_attributes": "attributes",
    "afmfs.cache.retire:Retirement.step": "retired",
    "afmfs.cache.evict:Evictions._evict": "evicted",
    "afmfs.cache.recovery:Recovery.run": "recovery",
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
    "point asked": "afmfs.gateway.points:Points.make",
    "outcomes told": "afmfs.gateway.steps:Steps.say_outcomes",
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
