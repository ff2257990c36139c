"""A repair that is ended after any of its mends: the next one ends where one would have that was
left alone. What follows from a mend is in the mend's own transaction, so no trace is needed of what
was harmed."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from afmfs.cache.check.run import Mending
from afmfs.cache.content.blobs import blob_name
from afmfs.cache.content.harm import read_note
from afmfs.cache.job.jobs import stored_job
from afmfs.cache.store.store import Store
from afmfs.errors import Refused
from afmfs.model.findings import Finding
from tests.check.scene import CLEAN, Scene
from tests.check.test_databases import harm_page, page_of
from tests.harness.checking import findings

YOUNGER = 1 << 40
"""A generation that no table knows of."""


class Ended(BaseException):
    pass


def write_in_place(scene: Scene) -> None:
    """Of the same size, so that only the queue tells of it."""
    scene.engine.start()
    handle = scene.files.open(b"clean", os.O_RDWR)
    scene.files.write(handle, 10, b"only here")
    scene.files.close(handle)
    scene.files.chmod(b"clean", 0o600)


def bad_entry(scene: Scene) -> None:
    """What is left of the file's entries would retire its last change."""
    write_in_place(scene)
    scene.engine.stop()
    scene.sql(f"UPDATE queue SET op=99 WHERE ino={scene.ino(b'clean')} AND op=6")


def lost_entries(scene: Scene) -> None:
    scene.sql("DELETE FROM queue WHERE op=6", f"DELETE FROM dentry WHERE ino={new(scene)}")


def missing_blobs(scene: Scene) -> None:
    for path in (b"dirty", b"clean", b"made/new"):
        scene.blob(path).unlink()
    begin(scene, "SELECT id FROM queue")


def younger_blobs(scene: Scene) -> None:
    """The database is an older one, and a file that it calls clean was written to since."""
    for gen, data in ((YOUNGER, b"x"), (YOUNGER + 1, b"")):
        path = scene.cache / "blobs" / blob_name(gen)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
    later = bytearray(CLEAN)
    later[10:14] = b"only"
    scene.blob(b"clean").write_bytes(later)
    scene.blob(b"dirty").unlink()  # of which an event tells
    begin(scene, "SELECT 5000")


def log_cut_off(scene: Scene) -> None:
    write_in_place(scene)
    scene.kill()
    (scene.cache / "cache.db-wal").unlink()


def no_log(scene: Scene) -> None:
    """What stands in its place is none."""
    write_in_place(scene)
    scene.kill()
    with (scene.cache / "cache.db-wal").open("r+b") as file:
        file.write(bytes(32))


def shared_blob(scene: Scene) -> None:
    gen = scene.get(scene.ino(b"dirty"), "gen")
    scene.sql(f"UPDATE inode SET gen={gen} WHERE ino={scene.ino(b'tree/a')}")


def noise_in_a_map(scene: Scene) -> None:
    scene.sql("UPDATE blockmap SET bits=zeroblob(1024)", "UPDATE queue SET op=77 WHERE op=5")


def no_name(scene: Scene) -> None:
    scene.sql(
        f"DELETE FROM dentry WHERE ino IN ({new(scene)}, {scene.ino(b'clean')})",
        f"UPDATE inode SET nlink=9 WHERE ino={scene.ino(b'tree')}",
        "UPDATE fileset SET value=20 WHERE key='entry_limit'",
    )


def unknown_version(scene: Scene) -> None:
    """Found of what is clean as long as no job is to find out."""
    scene.sql(
        f"UPDATE inode SET home_size=1 WHERE ino IN ({scene.ino(b'clean')}, {scene.ino(b'tree/a')})"
    )


def page(table: str) -> Callable[[Scene], None]:
    def harm(scene: Scene) -> None:
        harm_page(scene, page_of(scene, table), b"\xa5")

    harm.__name__ = f"page of {table}"
    return harm


def begin(scene: Scene, numbers: str) -> None:
    """The gateway has begun with entries."""
    (journal,) = scene.cache.glob("gateway/1/gateway.db")
    with scene.tables() as db:
        rows = db.execute(numbers).fetchall()
    with closing(sqlite3.connect(journal)) as db, db:
        db.executemany("INSERT INTO flight VALUES (?, 1)", rows)


def new(scene: Scene) -> int:
    return scene.ino(b"made/new")


HARM = [
    bad_entry, lost_entries, missing_blobs, younger_blobs, log_cut_off, no_log, shared_blob,
    noise_in_a_map, no_name, unknown_version,
    *map(page, ("queue", "inode", "dentry", "blockmap", "span", "fresh", "fileset", "counters")),
]  # fmt: skip


@pytest.mark.parametrize("job", ["", "failover"])
@pytest.mark.parametrize("harm", HARM, ids=lambda one: one.__name__)
def test_a_repair_that_is_ended_after_any_mend(
    scene: Scene, harm: Callable[[Scene], None], job: str
) -> None:
    if job:
        scene.sql(
            "INSERT OR REPLACE INTO fileset VALUES ('job', '"
            '{"id": 1, "kind": "failover", "bound": 40, "manual": true, "keep_uncached": false,'
            ' "reason": "", "started_ns": 1}\')',
            "INSERT OR REPLACE INTO fileset VALUES ('job_number', 1)",
        )
    harm(scene)
    kept = scene.copy()
    count = len(mends(scene.cache))
    expected = state(scene)
    assert count or job  # which is to find out what home has
    for after in some(count):
        shutil.rmtree(scene.cache)
        shutil.copytree(kept, scene.cache)
        with pytest.raises(Ended):
            mends(scene.cache, after)
        mends(scene.cache)
        for key, value in state(scene).items():
            assert value == expected[key], f"{key}, ended after mend {after} of {count}"


def some(count: int) -> list[int]:
    """All, where they are few; else the first ones, which differ most, and the last."""
    return [n for n in range(1, count + 1) if n <= 12 or n in (count // 2, count)]


def mends(cache: Path, end_after: int | None = None) -> list[Finding]:
    """What was mended, till the repair is ended."""
    found: list[Finding] = []

    def told(finding: Finding, done: bool) -> None:
        if done:
            found.append(finding)
            if len(found) == end_after:
                raise Ended

    Mending(cache, told).run()
    return found


def state(scene: Scene) -> dict[str, Any]:
    """What matters of a cache, but for numbers that were taken on the way."""
    assert read_note(scene.cache) is None
    left = [one for one in findings(scene.cache) if one.kind not in ("setting", "journal")]
    assert not left
    found: dict[str, Any] = {}
    with scene.tables() as db:
        settings = dict(db.execute("SELECT key, value FROM fileset"))
        found["settings"] = {
            key: settings.get(key)
            for key in ("stopped", "needs_resync", "names_lost", "repair", "home", "block_size")
        }
        inodes = {row[0]: row[1:] for row in db.execute(
            "SELECT ino, mode, nlink, size, gen, whole, home_valid, listed, home_size, home_mtime,"
            " retired, changed>retired FROM inode"
        )}  # fmt: skip
        found["names"] = sorted(
            (path, inodes.get(ino, ()))
            for ino, path in named(db)
            if not path.endswith(b"lost+found")
        )
        found["queue"] = sorted(
            map(repr, db.execute('SELECT op, ino, name, start, "end", flags FROM queue'
                                 " WHERE name IS NOT x'6c6f73742b666f756e64'"))
        )  # fmt: skip
        for table in ("blockmap", "span", "damaged", "unrepresentable", "reclaim", "lost"):
            found[table] = db.execute(f"SELECT * FROM {table}").fetchall()
        counted = db.execute(
            "SELECT queue_length, bytes_pending, cached_bytes, inodes FROM counters"
        )
        found["counters"] = counted.fetchall()
    store = Store(scene.cache / "cache.db")
    job = stored_job(store)
    store.close()
    found["job"] = job and (job.kind, job.missing > 0, job.manual, job.doubt)
    if job is not None and job.missing:
        assert job.bound >= max(changed(scene), default=0)
    aside = [*(scene.cache / "lost+found").glob("*")]
    found["kept"] = sorted(path.read_bytes() for path in aside)
    (journal,) = scene.cache.glob("gateway/1/gateway.db")
    with closing(sqlite3.connect(journal)) as db:
        found["journal"] = db.execute(
            "SELECT id FROM flight UNION ALL SELECT id FROM requeued"
            " UNION ALL SELECT id FROM outcome"
        ).fetchall()
    return found


def named(db: sqlite3.Connection) -> Iterator[tuple[int, bytes]]:
    todo = [(1, b"")]
    while todo:
        ino, path = todo.pop()
        yield ino, path
        for name, child in db.execute("SELECT name, ino FROM dentry WHERE parent=?", (ino,)):
            todo.append((child, path + b"/" + name))


def changed(scene: Scene) -> list[int]:
    with scene.tables() as db:
        return [row[0] for row in db.execute("SELECT changed FROM inode WHERE changed > retired")]


def test_no_mount_takes_over_from_a_repair(scene: Scene) -> None:
    """What is owed yet is the next repair's to do."""
    younger_blobs(scene)
    with pytest.raises(Ended):
        mends(scene.cache, 1)
    with pytest.raises(Refused, match="did not come to its end"):
        scene.engine.start()
    scene.mend()
    scene.engine.start()


def test_what_is_lost_of_the_queue_gets_home_all_the_same(scene: Scene) -> None:
    bad_entry(scene)
    with pytest.raises(Ended):
        mends(scene.cache, 1)
    scene.mend()
    scene.flushed()
    assert (scene.home / "clean").read_bytes() == CLEAN[:10] + b"only here" + CLEAN[19:]
