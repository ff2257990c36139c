"""Names that lead nowhere, inodes that no name leads to, counts of links."""

from __future__ import annotations

import sqlite3
from typing import Any

import pytest

from afmfs.cache.names.namespace import cookie
from afmfs.cache.store.inode import UNREAD
from tests.check.scene import CLEAN, INSIDE, Scene
from tests.harness.mounting import wait_until


def kinds(scene: Scene) -> list[tuple[str, bytes | None]]:
    return [(one.kind, one.path) for one in scene.found()]


def move(db: sqlite3.Connection, ino: int, **columns: Any) -> None:
    sets = ",".join(f"{name}=?" for name in columns)
    db.execute(f"UPDATE dentry SET {sets} WHERE ino=?", (*columns.values(), ino))


def test_a_dangling_name(scene: Scene) -> None:
    """The row of a clean file is gone: its name goes, home still has it, its blob is kept."""
    ino = scene.ino(b"clean")
    scene.sql(f"DELETE FROM inode WHERE ino={ino}")
    assert set(kinds(scene)) == {
        ("dangling name", b"clean"), ("orphan blob", None), ("counter", None),
    }  # fmt: skip
    scene.mend()
    assert (scene.home / "clean").exists()
    scene.assert_serves(clean=None)


def test_a_name_in_what_is_no_directory(scene: Scene) -> None:
    with scene.tables() as db:
        parent = db.execute("SELECT parent FROM dentry WHERE name=?", (b"a",)).fetchone()[0]
        db.execute("UPDATE dentry SET parent=9999 WHERE name=?", (b"a",))
    assert ("lost parent", None) in kinds(scene)
    scene.mend()
    scene.assert_serves(tree__a=None)
    assert parent


def test_what_is_pending_of_a_lost_directory_is_found_again(scene: Scene) -> None:
    """Its row is gone, with what it was called: what was only here gets a name in lost+found."""
    made, new = scene.ino(b"made"), scene.ino(b"made/new")
    scene.sql(f"DELETE FROM inode WHERE ino={made}")
    found = kinds(scene)
    assert ("dangling name", b"made") in found and ("entry of nothing", b"made") in found
    scene.mend()
    place = f"lost+found/#{new}".replace("/", "__")
    gone = {"made__new": None, "made__moved": None}
    scene.assert_serves(**gone, **{place: INSIDE})
    scene.flushed()
    assert (scene.home / f"lost+found/#{new}").read_bytes() == INSIDE


def test_a_lost_name_of_what_is_pending(scene: Scene) -> None:
    new = scene.ino(b"made/new")
    scene.sql(f"DELETE FROM dentry WHERE ino={new}")
    assert [kind for kind, _ in kinds(scene)] == ["orphan inode"]
    scene.mend()
    scene.assert_serves(made__new=None, **{f"lost+found__#{new}": INSIDE})
    scene.flushed()
    assert (scene.home / f"lost+found/#{new}").read_bytes() == INSIDE


def test_a_lost_name_of_a_directory_in_which_nothing_is_pending(scene: Scene) -> None:
    """Home has all of it: it is forgotten, with what is below."""
    scene.sql(f"DELETE FROM dentry WHERE ino={scene.ino(b'tree')}")
    assert {kind for kind, _ in kinds(scene)} == {"orphan inode", "link count"}
    scene.mend()
    scene.assert_serves(tree__a=None, tree__b=None, tree__below__c=None)
    assert not (scene.home / "lost+found").exists()


def test_a_misplaced_name(scene: Scene) -> None:
    with scene.tables() as db:
        move(db, db.execute("SELECT ino FROM dentry WHERE name=?", (b"clean",)).fetchone()[0],
             cookie=cookie(b"clean") + 8)  # fmt: skip
    assert kinds(scene) == [("misplaced name", b"clean")]
    scene.mend()
    scene.assert_serves()


def test_a_name_that_is_there_twice(scene: Scene) -> None:
    other = scene.ino(b"tree/a")
    with scene.tables() as db:
        db.execute(
            "INSERT INTO dentry VALUES (1, ?, ?, ?)", (cookie(b"clean") + 5, b"clean", other)
        )
    assert ("double name", b"clean") in kinds(scene)
    scene.mend()
    scene.assert_serves()


@pytest.mark.parametrize("name", [b"", b"..", b"a/b", b"a\0", b"x" * 256, "text"])
def test_what_can_be_no_name(scene: Scene, name: bytes | str) -> None:
    with scene.tables() as db:
        db.execute("INSERT INTO dentry VALUES (1, 77, ?, ?)", (name, scene_ino(db)))
    assert ("bad row") in [kind for kind, _ in kinds(scene)]
    scene.mend()
    scene.assert_serves()


def scene_ino(db: sqlite3.Connection) -> int:
    return int(db.execute("SELECT ino FROM dentry WHERE name=?", (b"clean",)).fetchone()[0])


def test_a_directory_below_itself(scene: Scene) -> None:
    """It comes back in lost+found if anything of it is pending."""
    tree, below = scene.ino(b"tree"), scene.ino(b"tree/below")
    scene.sql(f"UPDATE dentry SET parent={below} WHERE ino={tree}")
    assert [kind for kind, _ in kinds(scene)].count("cycle") == 1
    scene.mend()
    scene.assert_serves(tree__a=None, tree__b=None, tree__below__c=None)


def test_a_directory_with_two_names(scene: Scene) -> None:
    tree = scene.ino(b"tree")
    with scene.tables() as db:
        db.execute("INSERT INTO dentry VALUES (1, ?, ?, ?)", (cookie(b"zwei"), b"zwei", tree))
        first = db.execute("SELECT min(cookie) FROM dentry WHERE ino=?", (tree,)).fetchone()[0]
        kept = db.execute("SELECT name FROM dentry WHERE cookie=?", (first,)).fetchone()[0]
    assert "double name" in [kind for kind, _ in kinds(scene)]
    scene.mend()
    if kept == b"zwei":
        gone = {"tree__a": None, "tree__b": None, "tree__below__c": None}
        scene.assert_serves(**gone, zwei__a=INSIDE)
    else:
        scene.assert_serves(zwei__a=None)


@pytest.mark.parametrize(("path", "links"), [(b"tree", 7), (b"clean", 0)])
def test_a_wrong_count_of_links(scene: Scene, path: bytes, links: int) -> None:
    right = scene.get(scene.ino(path), "nlink")
    scene.sql(f"UPDATE inode SET nlink={links} WHERE ino={scene.ino(path)}")
    assert kinds(scene) == [("link count", path)]
    scene.mend()
    assert scene.get(scene.ino(path), "nlink") == right
    scene.assert_serves()


@pytest.mark.parametrize("path", [b"tree", b"made"])
def test_names_in_a_directory_that_was_never_read(scene: Scene, path: bytes) -> None:
    """What is clean is read from home again; what is pending stays."""
    scene.sql(f"UPDATE inode SET listed=0 WHERE ino={scene.ino(path)}")
    assert kinds(scene) == [("unread names", path)]
    scene.mend()
    assert (scene.get(scene.ino(path), "listed") == UNREAD) == (path == b"tree")
    scene.assert_serves()


def test_a_root_that_is_gone(scene: Scene) -> None:
    scene.sql("DELETE FROM inode WHERE ino=1")
    assert ("orphan inode", None) in kinds(scene)
    scene.mend()
    scene.assert_serves()


def test_names_of_home_that_were_not_read_are_no_damage(scene: Scene) -> None:
    """Of a file with two names at home one was known, and was removed."""
    ino = scene.ino(b"tree/b")
    scene.sql(
        f"UPDATE inode SET nlink=1 WHERE ino={ino}",
        f"DELETE FROM dentry WHERE ino={ino}",
        f"INSERT INTO homelink SELECT home_ino, ino FROM inode WHERE ino={ino}",
    )
    assert kinds(scene) == []


def test_names_that_were_lost_are_read_from_home_again(scene: Scene) -> None:
    """Once nothing is pending: what is only here removed, or renamed, does not come back."""
    scene.sql("DELETE FROM dentry WHERE name IN (CAST('clean' AS BLOB), CAST('tree' AS BLOB))")
    scene.mend()
    (scene.home / "tree/since").write_bytes(b"s")
    scene.engine.start()
    scene.files.unlink(b"part")
    left = {b"dirty", b"made", b"link"}
    assert set(scene.files.names(b"")) == left
    scene.engine.flush()
    wait_until(lambda: b"clean" in scene.files.names(b""), 30, "the names are there")
    assert set(scene.files.names(b"")) == left | {b"clean", b"tree"}
    assert set(scene.files.names(b"tree")) == {b"a", b"b", b"below", b"since"}
    assert scene.read(b"clean") == CLEAN
