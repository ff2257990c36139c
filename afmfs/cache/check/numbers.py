"""Numbers that are in use, by the tables."""

from __future__ import annotations

import sqlite3


def used_numbers(db: sqlite3.Connection) -> tuple[int, int]:
    """The largest number of an inode, and of an entry or a generation, that the tables know."""
    ino, *numbers = db.execute(
        "SELECT max(ino), max(gen), max(changed), max(retired), max(synced) FROM inode"
    ).fetchone()
    numbers += db.execute("SELECT max(id) FROM queue").fetchone()
    return ino or 0, max(n if type(n) is int else 0 for n in numbers)
