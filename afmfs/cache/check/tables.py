"""The tables and indexes that cache.db has to have."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing

from afmfs.cache.store.schema import SCHEMA


def wanted() -> dict[str, str]:
    """Names of tables and indexes, and which of the two they are."""
    with closing(sqlite3.connect(":memory:")) as db:
        db.executescript(SCHEMA)
        rows = db.execute("SELECT name, type FROM sqlite_master WHERE name NOT LIKE 'sqlite_%'")
        return dict(rows)


def index_sql(name: str) -> str:
    """What makes an index of the schema."""
    found = re.search(rf"CREATE INDEX {re.escape(name)} .*?;", SCHEMA, re.S)
    assert found, name
    return found[0].rstrip(";")
