"""The words in gateway.db for what became of an entry, or of an inode.

An outcome of entry 0 tells of an inode. Its stamp, if it has one, is the version now at home.
"""

from __future__ import annotations

DONE, UNREPRESENTABLE, DROPPED = "done", "unrepresentable", "dropped"
"""What became of an entry."""

RESYNCED, NULLED, ADOPTED, LOST = "resynced", "nulled", "adopted", "lost"
"""What became of an inode by a resync, a failover or a recovery: home has what is cached of it; and
reads as zeros elsewhere; nothing is cached, home's version stands; nothing is cached, home has
nothing."""

UNLINKED = "unlinked"
"""What became of an inode as well: home has it, and can't have it under all of its names."""
