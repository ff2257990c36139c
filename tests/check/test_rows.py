"""Rows of inodes, maps, versions and settings that can't be, and numbers that count as free."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from afmfs.errors import Damaged, Refused
from afmfs.model.blocks import blob_name
from tests.check.scene import BLOCK, CLEAN, NEW, WRITTEN, Scene


def kinds(scene: Scene) -> list[str]:
    return [one.kind for one in scene.found()]


@pytest.mark.parametrize(
    "harm",
    ["home_valid=size+5", "whole=7", "retired=changed+1", "home_mtime=NULL", "home_size='x'"],
)
def test_columns_of_a_clean_file(scene: Scene, harm: str) -> None:
    ino = scene.ino(b"clean")
    scene.sql(f"UPDATE inode SET {harm} WHERE ino={ino}")
    assert kinds(scene), harm
    scene.mend()
    scene.assert_serves()


@pytest.mark.parametrize("harm", ["mode=NULL", "mode=12345", "size='much'", "gen=-1", "nlink=x''"])
def test_rows_that_can_not_be_read(scene: Scene, harm: str) -> None:
    """The inode goes with its name; home still has the file."""
    ino = scene.ino(b"clean")
    scene.sql(f"UPDATE inode SET {harm} WHERE ino={ino}")
    assert "bad row" in kinds(scene)
    scene.mend()
    scene.assert_serves(clean=None)


def test_a_directory_with_bytes(scene: Scene) -> None:
    scene.sql(f"UPDATE inode SET whole=0, home_valid=9 WHERE ino={scene.ino(b'tree')}")
    assert kinds(scene) == ["bad row"]
    scene.mend()
    scene.assert_serves()


# -- maps ----------------------------------------------------------------------------------------


VOUCHED_FOR = (
    "UPDATE blockmap SET crc=row_sum(ino, chunk, bits)",
    ('UPDATE span SET crc=row_sum(ino, start, "end")'),
)
"""It was not noise that wrote the rows, but a fault of ours."""


def bits(*numbers: int) -> str:
    return sum(1 << n for n in numbers).to_bytes(1024, "little").hex()


def test_bits_beyond_the_size(scene: Scene) -> None:
    ino = scene.ino(b"part")
    scene.sql(f"UPDATE blockmap SET bits=x'{bits(1, 9)}' WHERE ino={ino}", *VOUCHED_FOR)
    assert kinds(scene) == ["stale bit"]
    scene.mend()
    scene.assert_serves()


@pytest.mark.parametrize(
    ("start", "end", "kind"),
    [
        (10 * BLOCK, 10 * BLOCK + 5, "stale bit"),
        (BLOCK + 5, BLOCK + 9, "overlap"),  # its bit is set
        (3 * BLOCK + 40, 3 * BLOCK + 52, "overlap"),  # in the patch
        (3 * BLOCK - 5, 3 * BLOCK + 3, "overlap"),  # of two blocks
        (9, 9, "bad row"),
        (-5, 3, "bad row"),
    ],
)
def test_spans(scene: Scene, start: int, end: int, kind: str) -> None:
    """What they wrongly call cached reads as what home has, in the end."""
    ino = scene.ino(b"part")
    scene.sql(f"INSERT INTO span VALUES ({ino}, {start}, {end}, 0)", *VOUCHED_FOR)
    assert kind in kinds(scene)
    scene.mend()
    assert scene.found() == []


def test_a_chunk_that_is_none(scene: Scene) -> None:
    ino = scene.ino(b"part")
    scene.sql(f"UPDATE blockmap SET bits=x'0102' WHERE ino={ino}", *VOUCHED_FOR)
    assert "bad row" in kinds(scene)
    scene.mend()
    scene.assert_serves()


def test_a_map_of_a_whole_file(scene: Scene) -> None:
    """What the map leaves out is fetched again; what is pending is believed."""
    scene.sql(
        f"INSERT INTO blockmap VALUES ({scene.ino(b'clean')}, 0, x'{bits(0)}', 0)",
        f"INSERT INTO span VALUES ({scene.ino(b'dirty')}, 5, 9, 0)",
        *VOUCHED_FOR,
    )
    assert set(kinds(scene)) == {"overlap"}
    scene.mend()
    assert scene.get(scene.ino(b"clean"), "whole") == 0
    scene.assert_serves()


# -- versions ------------------------------------------------------------------------------------


def test_a_file_that_home_never_got_and_nobody_sends(scene: Scene) -> None:
    """It is sent again."""
    ino = scene.ino(b"made/new")
    scene.sql(
        f"DELETE FROM queue WHERE ino={ino}",
        f"UPDATE inode SET retired=changed WHERE ino={ino}",
        "UPDATE counters SET (queue_length, bytes_pending) ="
        ' (SELECT count(*), sum(CASE op WHEN 6 THEN "end"-start ELSE 0 END) FROM queue)',
    )
    assert kinds(scene) == ["version"]
    scene.mend()
    scene.assert_serves()
    scene.flushed()
    assert (scene.home / "made/new").exists()


def test_a_size_that_home_never_got(scene: Scene) -> None:
    ino = scene.ino(b"clean")
    scene.sql(f"UPDATE inode SET home_size=17 WHERE ino={ino}")
    assert kinds(scene) == ["version"]
    scene.mend()
    scene.flushed()
    assert (scene.home / "clean").read_bytes() == CLEAN


# -- settings and numbers ------------------------------------------------------------------------


def test_a_setting_that_is_lost(scene: Scene) -> None:
    """Nobody can say what home it was: it stays so."""
    scene.sql("DELETE FROM fileset WHERE key='identity'")
    (one,) = scene.found()
    assert one.kind == "setting" and one.mend is None


@pytest.mark.parametrize("harm", ["DELETE FROM fileset", "UPDATE fileset SET value=12345"])
def test_blocks_of_which_nobody_knows_the_size(scene: Scene, harm: str) -> None:
    """Read in blocks of another size, a map would speak of bytes that nobody has fetched."""
    scene.sql(f"{harm} WHERE key='block_size'")
    with pytest.raises(Refused, match="size of its blocks any more; .* check --repair"):
        scene.engine.start()
    assert "setting" in kinds(scene)
    scene.mend()
    scene.engine.options = replace(scene.engine.options, block_size=None)
    scene.assert_serves()
    scene.flushed()
    assert (scene.home / "part").read_bytes() == WRITTEN


def test_a_setting_that_can_not_be_read(scene: Scene) -> None:
    scene.sql("UPDATE fileset SET value='{' WHERE key='statvfs'")
    assert kinds(scene) == ["setting"]
    scene.mend()
    scene.assert_serves()


@pytest.mark.parametrize("key", ["entry_limit", "ino_limit"])
def test_numbers_that_would_be_used_twice(scene: Scene, key: str) -> None:
    """As after a log that was cut off."""
    scene.sql(f"UPDATE fileset SET value=17 WHERE key='{key}'")
    assert "numbers" in kinds(scene)
    scene.mend()
    assert_numbers(scene)
    scene.assert_serves()


def assert_numbers(scene: Scene) -> None:
    with scene.tables() as db:
        limits = dict(db.execute("SELECT key, value FROM fileset WHERE key LIKE '%_limit'"))
        (ino,) = db.execute("SELECT max(ino) FROM inode").fetchone()
        (entry,) = db.execute("SELECT max(id) FROM queue").fetchone()
    largest = max(int(p.name, 16) for p in (scene.cache / "blobs").glob("??/*"))
    assert limits["ino_limit"] > ino
    assert limits["entry_limit"] > max(entry, largest)


def test_a_database_without_its_log(scene: Scene) -> None:
    """Killed, and the log is gone: what is on the disk is younger than what cache.db knows."""
    before = (scene.cache / "cache.db").read_bytes()
    scene.engine.start()
    scene.write(b"later", NEW)
    scene.engine.stop()
    for suffix in ("-wal", "-shm"):
        (scene.cache / f"cache.db{suffix}").unlink(missing_ok=True)
    (scene.cache / "cache.db").write_bytes(before)
    for n in range(3):  # made in advance, at a kill
        (scene.cache / "blobs/ff").mkdir(exist_ok=True)
        (scene.cache / "blobs" / blob_name((1 << 30) + 0xFF * 1024 + n)).touch()
    told = [one.text for one in scene.found() if one.kind != "old database"]
    assert len(told) == 2
    assert "empty blobs that are younger than cache.db: 3" in told
    scene.mend()
    assert_numbers(scene)
    assert all(path.stat().st_size for path in (scene.cache / "lost+found").iterdir())
    kept = [path.read_bytes() for path in (scene.cache / "lost+found").iterdir()]
    assert NEW in kept


def test_a_log_that_is_none(scene: Scene) -> None:
    (scene.cache / "cache.db-wal").write_bytes(os.urandom(5000))
    assert kinds(scene) == ["damaged log"]
    scene.mend()
    (kept,) = scene.cache.glob("cache.db.damaged-*-wal")
    assert kept.stat().st_size == 5000
    scene.assert_serves()


def test_what_was_lost_is_lost_at_the_next_mount_as_well(scene: Scene) -> None:
    scene.blob(b"dirty").unlink()
    scene.mend()
    scene.assert_serves(dirty=Damaged)
    scene.assert_serves(dirty=Damaged)
