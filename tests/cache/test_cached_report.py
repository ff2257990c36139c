"""What is said of one file: how much is cached, what home has lost, what was made null there."""

from __future__ import annotations

import json
import sqlite3

from afmfs.admin.offline import open_cache
from afmfs.cache.report.cached import cached_report
from afmfs.cache.report.status import CachedReport, render_cached
from afmfs.cache.store.inode import Inode
from afmfs.gateway.state.journal import Journal

from .parts import BLOCK, Parts, parts  # noqa: F401  # the fixture


def report(parts: Parts, inode: Inode) -> CachedReport:  # noqa: F811
    return cached_report(
        inode,
        parts.validity,
        dirty=bool(parts.store.pending([inode])),
        lost=parts.store.lost_by(inode.ino),
        nulled=parts.retirement.nulls.of(inode.ino),
    )


def lose(parts: Parts, inode: Inode) -> None:  # noqa: F811
    with parts.store as store:
        store.execute("INSERT INTO lost VALUES (?, 3)", (inode.ino,))


async def test_lost(parts: Parts) -> None:  # noqa: F811
    inode = parts.uncached(b"f", 2 * BLOCK)
    lose(parts, inode)
    found = report(parts, inode)
    assert (found.state, found.lost) == ("lost", 3)
    text = render_cached("f", found, as_json=False)
    assert text.splitlines() == [
        "lost 0 of 8192 bytes, 0 of 2 blocks of 4096 bytes",
        "lost: home does not have what is not cached (resync 3)",
    ]


async def test_what_was_written_of_a_lost_file_is_cached(parts: Parts) -> None:  # noqa: F811
    inode = parts.uncached(b"f", 2 * BLOCK)
    lose(parts, inode)
    await parts.content.write(inode, 0, b"x" * BLOCK)
    found = report(parts, inode)
    assert (found.state, found.lost, found.dirty) == ("partial", 3, True)


async def test_nulled(parts: Parts) -> None:  # noqa: F811
    inode = parts.uncached(b"f", 2 * BLOCK)
    Journal(parts.place).close()
    db = sqlite3.connect(parts.place / "gateway.db", isolation_level=None)
    db.executemany(
        "INSERT INTO nulled VALUES (?,?,?,?,?)",
        [(inode.ino, 0, 10, 3, 8), (inode.ino, BLOCK, BLOCK + 5, 4, None), (99, 0, 5, 3, 8)],
    )
    found = report(parts, inode)
    assert found.nulled_bytes == 15
    text = render_cached("f", found, as_json=False)
    assert text.splitlines()[1:] == [
        "nulled: 0-10 at home, by resync 3; see its trash, number 8",
        "nulled: 4096-4101 at home, by resync 4; as it was before",
    ]
    fields = json.loads(render_cached("f", found, as_json=True))
    assert fields["nulled"][0] == {"start": 0, "end": 10, "job": 3, "trash": 8}
    assert parts.retirement.nulls.files() == 2
    db.execute("DELETE FROM nulled WHERE ino=99")
    db.close()
    parts.retirement.nulls.outdated()
    assert parts.retirement.nulls.files() == 1


async def test_a_cache_that_is_not_mounted(parts: Parts) -> None:  # noqa: F811
    inode, other = parts.uncached(b"f", 2 * BLOCK), parts.uncached(b"g", 1)
    lose(parts, inode)
    with parts.store as store:
        store.put("block_size", BLOCK)
    where = parts.place / "gateway/1"
    Journal(where).close()
    with sqlite3.connect(where / "gateway.db") as db:
        db.execute("INSERT INTO nulled VALUES (?,0,1,3,8)", (other.ino,))
    db.close()
    with open_cache(str(parts.place)) as cache:
        assert cache.cached("f").lost == 3
        assert cache.cached("g").nulled[0].trash == 8
        status = cache.status()
    assert (status.lost, status.nulled_files) == (1, 1)


async def test_a_journal_of_an_older_version(parts: Parts) -> None:  # noqa: F811
    """It has no such table before its gateway has run once."""
    inode = parts.uncached(b"f", 1)
    with sqlite3.connect(parts.place / "gateway.db") as db:
        db.execute("CREATE TABLE state (key TEXT PRIMARY KEY, value) WITHOUT ROWID")
    db.close()
    assert report(parts, inode).nulled == []
    assert parts.retirement.nulls.files() == 0
