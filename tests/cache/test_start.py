"""What it costs to open a cache does not grow with its files, and with its queue by one count."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from afmfs.model.entry import Op
from tests.harness.fake_gateway import Office, open_office

MANY = 100_000

_NUMBERS = "WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < ?)"
_FILES = f"""
INSERT INTO inode {_NUMBERS}
    SELECT 1000000 + i, 33188, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1, 0, 2, 0, 1, NULL, 0, 0, 0, NULL FROM n
"""
_ENTRIES = f"""
INSERT INTO queue (op, ino, kind, start, "end", flags, queued_ns)
    {_NUMBERS} SELECT {Op.ATTR:d}, 1000000 + i, 32768, 0, 0, 0, 0 FROM n
"""


@pytest.fixture
async def office() -> AsyncIterator[Office]:
    async with open_office() as office:
        yield office


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Instructions of SQLite's machine, on all connections of this process, counted up."""
    done, connect = [0], sqlite3.connect

    def count() -> None:
        done[0] += 1

    def counting(*words: Any, **named: Any) -> sqlite3.Connection:
        db: sqlite3.Connection = connect(*words, **named)
        db.set_progress_handler(count, 1)
        return db

    monkeypatch.setattr(sqlite3, "connect", counting)
    return done


def change(base: Path, *statements: str) -> None:
    with closing(sqlite3.connect(base / "cache/cache.db")) as db, db:
        for sql in statements:
            db.execute(sql, (MANY - 1,) if "?" in sql else ())


@pytest.mark.parametrize("clean", [True, False])
async def test_cost(office: Office, tmp_path: Path, steps: list[int], clean: bool) -> None:
    """Also after a kill: what it left half done is all that is looked at."""

    async def cost() -> int:
        change(tmp_path, f"UPDATE fileset SET value={clean:d} WHERE key='clean'")
        before = steps[0]
        async with office.fileset(tmp_path):
            return steps[0] - before

    async with office.fileset(tmp_path):
        pass
    alone = await cost()
    change(tmp_path, _FILES, f"UPDATE counters SET inodes = inodes + {MANY}")
    among_files = await cost()
    assert among_files < 2 * alone
    change(tmp_path, _ENTRIES, f"UPDATE counters SET queue_length = {MANY}")
    assert await cost() - among_files < 10 * MANY
