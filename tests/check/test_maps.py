"""Noise in a row of a block map that SQLite takes for sound: told, mended, and never believed."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import pytest

from afmfs.cache.check.live import LiveCheck
from afmfs.cache.check.repair import Repair
from afmfs.cache.check.run import Mending
from afmfs.cache.check.salvage import _without_rowid
from afmfs.cache.content.harm import read_note
from afmfs.cache.content.validity import Validity
from afmfs.cache.store.inode import Inode
from afmfs.cache.store.schema import VERSION
from afmfs.cache.store.store import Store
from afmfs.errors import Damaged, Refused, is_damage
from afmfs.model.bitmap import CHUNK, run
from afmfs.model.row_sum import row_sum
from tests.check.scene import BLOCK, PART, PATCH, WRITTEN, Scene
from tests.check.test_harm import assert_read_only, assert_says_so, status
from tests.harness.mounting import wait_until

NOISE = {
    "bits": "UPDATE blockmap SET bits=randomblob(1024) WHERE ino={ino}",
    "no bits": "UPDATE blockmap SET bits=zeroblob(1024) WHERE ino={ino}",
    "a run": "UPDATE blockmap SET bits=randomblob(8) WHERE ino={ino}",
    "a text": "UPDATE blockmap SET bits=CAST(x'ff00fe' AS TEXT) WHERE ino={ino}",
    "a chunk": "UPDATE blockmap SET chunk=chunk+1 WHERE ino={ino}",
    "a span": f'UPDATE span SET "end"={4 * BLOCK} WHERE ino={{ino}}',
    "the start of a span": f"UPDATE span SET start={3 * BLOCK} WHERE ino={{ino}}",
}


def plant(scene: Scene, noise: str) -> None:
    scene.sql(NOISE[noise].format(ino=scene.ino(b"part")))


def read_anywhere(scene: Scene) -> list[bytes | None]:
    """What is read of the file, block by block; None where it fails."""
    found: list[bytes | None] = []
    handle = scene.files.open(b"part", os.O_RDONLY)
    for start in range(0, len(PART), BLOCK):
        try:
            found.append(scene.files.read(handle, start, BLOCK))
        except (sqlite3.DatabaseError, Damaged) as exc:  # to applications EIO
            assert isinstance(exc, Damaged) or is_damage(exc), exc
            found.append(None)
    scene.files.close(handle)
    return found


@pytest.mark.parametrize("noise", NOISE)
def test_noise_in_a_row(scene: Scene, noise: str) -> None:
    """Read, it is proof; found by a check, and mended: nothing is lost of what is only here."""
    plant(scene, noise)
    found = [one for one in scene.found() if one.kind == "damaged map"]
    assert [one.path for one in found] == [b"part"]
    scene.engine.start()
    if noise != "a chunk":  # else the row is not met; what it was of is fetched
        pieces = read_anywhere(scene)
        assert None in pieces
        for n, piece in enumerate(pieces):
            assert piece in (None, WRITTEN[n * BLOCK : (n + 1) * BLOCK]), f"block {n}"
        ino = scene.engine.call(lambda: ino_of(scene))
        assert_says_so(scene, f"the map of inode {ino} is not what was written")
        assert_read_only(scene)
    scene.engine.stop()
    if noise != "a chunk":
        with pytest.raises(Refused, match="is not what was written; .*check --repair"):
            scene.engine.start()
    scene.mend()
    scene.assert_serves()
    kept = [path.read_bytes() for path in (scene.cache / "lost+found").iterdir()]
    assert [one[PATCH : PATCH + 5] for one in kept] == [b"patch"], "no copy of the blob"
    scene.flushed()
    assert (scene.home / "part").read_bytes() == WRITTEN


async def ino_of(scene: Scene) -> int:
    return (await scene.engine.fileset.lookup(1, b"part")).ino


@pytest.mark.parametrize("noise", ["bits", "a run"])
def test_what_home_never_had_is_not_read_as_zeros(scene: Scene, noise: str) -> None:
    """Home refused it for good: what the row was of is lost, and a copy of the blob is kept."""
    ino = scene.ino(b"part")
    scene.sql(
        f"DELETE FROM queue WHERE ino={ino}",
        f"INSERT INTO unrepresentable VALUES ({ino}, 6, 125)",
        "UPDATE counters SET (queue_length, bytes_pending) ="
        ' (SELECT count(*), sum(CASE op WHEN 6 THEN "end"-start ELSE 0 END) FROM queue)',
        f"UPDATE inode SET retired=changed WHERE ino={ino}",
    )
    assert "damaged map" not in {one.kind for one in scene.found()}
    plant(scene, noise)
    told = {one.kind: one.severity for one in scene.found()}
    assert told["damaged map"] == "lost"
    scene.mend()
    scene.engine.start()
    assert set(read_anywhere(scene)) == {None}
    scene.engine.stop()


def test_how_far_a_bad_run_may_have_reached(tmp_path: Path) -> None:
    """To the next row that is left, or to the end; a bad chunk no further than it is long."""
    store, chunk = Store(tmp_path / "cache.db"), BLOCK * CHUNK
    with store:
        inode = store.add(Inode(17, 0o100644, 0, 0, 0, 1, 90 * chunk, 0, 0, 0, whole=False))
        repair = Repair(store, BLOCK)
        assert repair._not_valid(inode, [("run", 3)]) == ((3 * chunk, 90 * chunk),)
        Validity(store, BLOCK).mark(inode, 40 * chunk, 41 * chunk, inode.size)
        assert repair._not_valid(inode, [("run", 3)]) == ((3 * chunk, 40 * chunk),)
        assert repair._not_valid(inode, [("chunk", 3)]) == ((3 * chunk, 4 * chunk),)
    store.close()


def test_runs_are_recognized_in_what_is_left_of_a_database() -> None:
    stored = run(1 << 20)
    assert _without_rowid((17, 5, stored, row_sum(17, 5, stored))) == "blockmap"
    assert _without_rowid((17, 5, stored, row_sum(17, 6, stored))) == ""
    assert _without_rowid((17, 5, b"longname", 18)) == "dentry"


def test_a_map_that_the_gateway_meets(scene: Scene) -> None:
    """Nothing is sent by it."""
    plant(scene, "the start of a span")
    scene.engine.start()

    async def flush() -> None:
        scene.engine.fileset.flush_pending()

    try:
        scene.engine.call(flush)
        wait_until(lambda: status(scene).state == "Stopped", 30, "the damage is met")
        assert_says_so(scene, "is not what was written")
        assert (scene.home / "part").read_bytes() == PART
    finally:
        scene.engine.stop()


def test_a_check_beside_the_mount_proves_it(scene: Scene) -> None:
    plant(scene, "no bits")
    proofs: list[tuple[str, bool]] = []
    rows: list[dict[str, object]] = []
    LiveCheck(
        scene.cache, rows.append, lambda text, database: proofs.append((text, database))
    ).run()
    assert [row["kind"] for row in rows if "kind" in row] == ["damaged map"]
    assert [database for _, database in proofs] == [True]
    assert read_note(scene.cache) is None, "a check changes nothing by itself"


def test_a_rebuilt_database_has_no_such_row(scene: Scene) -> None:
    """Something else is why it is rebuilt; bad rows are not taken along."""
    plant(scene, "bits")
    scene.sql("DROP TABLE xattr")
    Mending(scene.cache, lambda finding, done: None).run()
    assert not scene.found()
    scene.assert_serves()


def test_a_cache_of_an_earlier_version(scene: Scene) -> None:
    """Its rows get their checksums as it is mounted."""
    with scene.tables() as db:
        db.execute("ALTER TABLE blockmap DROP COLUMN crc")
        db.execute("ALTER TABLE span DROP COLUMN crc")
        db.execute("DROP INDEX fresh_ino")
        db.execute("PRAGMA user_version=4")
    scene.engine.start()
    scene.engine.stop()
    with scene.tables() as db:
        assert db.execute("PRAGMA user_version").fetchone() == (VERSION,)
        assert (None,) not in db.execute("SELECT crc FROM blockmap UNION SELECT crc FROM span")
    assert not scene.found()
    plant(scene, "no bits")
    assert "damaged map" in {one.kind for one in scene.found()}
    scene.mend()
    scene.assert_serves()
