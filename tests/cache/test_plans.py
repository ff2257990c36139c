"""What is asked about one file does not read what is kept of all the others."""

from __future__ import annotations

import os

from tests.cache.parts import BLOCK, Parts, parts  # noqa: F401


async def test_what_was_fetched_lately_is_found_by_file(parts: Parts) -> None:  # noqa: F811
    """As it may be a hundred thousand files, each of which may be removed, evicted or synced."""
    inode, db = parts.uncached(b"f", 2 * BLOCK), parts.store.db
    said: list[str] = []
    db.set_trace_callback(said.append)
    parts.fetched(inode, 0, os.urandom(BLOCK))
    await parts.content.write(inode, BLOCK, b"more")
    assert parts.durable.is_doubtful(inode, 0, BLOCK)
    await parts.durable.fsync(inode)
    assert not db.execute("SELECT 1 FROM fresh").fetchall()
    del said[-1]
    with parts.store as store:
        parts.validity.forget(inode)
        store.delete(inode)
    db.set_trace_callback(None)
    asked = [sql for sql in said if "fresh" in sql and not sql.startswith("INSERT")]
    assert len(asked) == 5, asked  # looked at; synced, in two; evicted; removed
    for sql in asked:
        plan = [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {sql}")]
        assert any("fresh" in step for step in plan)
        assert not any(step.startswith("SCAN fresh") for step in plan), (sql, plan)
