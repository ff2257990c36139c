"""Entries that moved something were lost: what home alone has is found, and brought back."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from afmfs.gateway.home.home import Home
from afmfs.gateway.job import strays
from afmfs.model.entry import Op
from tests.gateway.fake_mount import FakeMount


def plant(mount: FakeMount, *paths: str) -> dict[str, int]:
    """Files at home, each of its own content, of which nothing is cached; their inodes."""
    inodes = {"": 1}
    for path in paths:
        file = mount.home / path
        for above in reversed(Path(path).parents[:-1]):
            if str(above) not in inodes:
                (mount.home / above).mkdir()
                inodes[str(above)] = adopt(mount, above, inodes)
        file.write_bytes(path.encode())
        inodes[path] = adopt(mount, Path(path), inodes)
    return inodes


def adopt(mount: FakeMount, path: Path, inodes: dict[str, int]) -> int:
    above = "" if str(path.parent) == "." else str(path.parent)
    return mount.adopt(os.fsencode(path.name), inodes[above], above)


def lose(mount: FakeMount, where: str = "1") -> None:
    mount.db.execute(f"DELETE FROM queue WHERE {where}")


def recover(mount: FakeMount, **more: Any) -> dict[str, Any]:
    job = {"id": 1, "kind": "recovery", "bound": mount.next_id - 1, "missing": 1} | more
    mount.start(job=job)
    summary: dict[str, Any] = mount.await_message("progress", phase="done")["summary"]
    mount.stop()
    return summary


def tree(home: Path) -> dict[str, str]:
    """What each file holds: the path that it had."""
    return {
        str(path.relative_to(home)): path.read_text()
        for path in sorted(home.rglob("*"))
        if path.is_file() and ".afm" not in path.parts
    }


def held(mount: FakeMount) -> list[str]:
    waiting = mount.home / ".afm/unlinked"
    return os.listdir(waiting) if waiting.exists() else []


def test_files_that_have_swapped_their_names(mount: FakeMount) -> None:
    plant(mount, "a", "b", "c")
    mount.rename(b"a", b"tmp")
    mount.rename(b"b", b"a")
    mount.rename(b"tmp", b"b")
    lose(mount)
    done = recover(mount)
    assert tree(mount.home) == {"a": "b", "b": "a", "c": "c"}
    assert (done["lost"], done["aside"], done["nulled"], held(mount)) == (0, 0, 0, [])


def test_what_is_below_a_directory_comes_with_it(mount: FakeMount) -> None:
    inodes = plant(mount, "d/e/one", "d/e/two", "d/three")
    mount.rename(b"d", b"moved")
    mount.rename(b"two", b"out", inodes["d/e"], 1)
    mount.rename(b"e", b"f", inodes["d"], inodes["d"])
    lose(mount)
    assert recover(mount)["lost"] == 0
    assert tree(mount.home) == {
        "moved/f/one": "d/e/one", "moved/three": "d/three", "out": "d/e/two",
    }  # fmt: skip
    assert not (mount.home / "d").exists()


def test_into_a_directory_that_home_lacks(mount: FakeMount) -> None:
    plant(mount, "file")
    above = mount.mkdir(b"new")
    inner = mount.mkdir(b"inner", above)
    mount.rename(b"file", b"file", 1, inner)
    lose(mount)
    assert recover(mount)["lost"] == 0
    assert tree(mount.home) == {"new/inner/file": "file"}


def test_over_what_was_replaced(mount: FakeMount) -> None:
    """That is moved aside: nobody knows any more that it was to go."""
    plant(mount, "a", "b")
    mount.rename(b"a", b"b")
    lose(mount)
    done = recover(mount)
    assert tree(mount.home) == {"b": "a"} and done["lost"] == 0
    (aside,) = (mount.home / ".afm/.afmtrash/1").glob("[0-9]*")
    assert aside.read_text() == "b"


def test_what_is_not_there_at_all_is_lost(mount: FakeMount) -> None:
    plant(mount, "a")
    mount.rename(b"a", b"b")
    lose(mount)
    os.unlink(mount.home / "a")
    assert recover(mount)["lost"] == 1


def test_a_number_that_another_kind_has_now(mount: FakeMount) -> None:
    inodes = plant(mount, "a")
    mount.rename(b"a", b"b")
    lose(mount)
    os.unlink(mount.home / "a")
    (mount.home / "a").mkdir()
    mount.update(inodes["a"], home_ino=(mount.home / "a").stat().st_ino)
    assert recover(mount)["lost"] == 1
    assert (mount.home / "a").is_dir()


def test_what_is_in_its_place_is_not_looked_for(
    mount: FakeMount, monkeypatch: pytest.MonkeyPatch
) -> None:
    inodes = plant(mount, "a", "b")
    mount.setattr(inodes["a"], uid=os.geteuid())
    mount.rename(b"b", b"c")
    os.rename(mount.home / "b", mount.home / "c")
    lose(mount)
    monkeypatch.setattr(strays.Strays, "_seek", lambda *args: pytest.fail("it was looked for"))
    assert recover(mount)["lost"] == 0


@pytest.mark.parametrize("at", range(1, 7))
@pytest.mark.parametrize("after", [False, True])
def test_home_goes_away_in_the_middle(
    mount: FakeMount, monkeypatch: pytest.MonkeyPatch, at: int, after: bool
) -> None:
    """What is on its way to its place is found there."""
    inodes = plant(mount, "d/one", "a", "b")
    mount.rename(b"a", b"tmp")
    mount.rename(b"b", b"a")
    mount.rename(b"tmp", b"b")
    mount.rename(b"d", b"e")
    mount.rename(b"one", b"two", inodes["d"], inodes["d"])
    lose(mount)
    count, rename_new = 0, Home.rename_new

    def break_off(*args: Any) -> None:
        nonlocal count
        count += 1
        if count == at and not after:
            raise OSError(errno.EIO, "home is gone")
        rename_new(*args)
        if count == at:
            raise OSError(errno.EIO, "home is gone")

    monkeypatch.setattr(Home, "rename_new", break_off)
    monkeypatch.setattr("afmfs.gateway.home.contact.RETRIES_S", (0.01,))
    assert recover(mount)["lost"] == 0
    assert tree(mount.home) == {"a": "b", "b": "a", "e/two": "d/one"}
    assert count > at and held(mount) == []


def test_no_directory_is_read_meanwhile(mount: FakeMount, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name of one that was moved may be another's."""
    monkeypatch.setattr("afmfs.gateway.fetch.PATIENCE_S", 0.1)
    inodes = plant(mount, "d/one", "e/other")
    mount.db.execute("DELETE FROM dentry WHERE parent=?", (inodes["d"],))
    mount.update(inodes["d"], listed=0)
    mount.rename(b"e", b"f")
    mount.rename(b"d", b"e")
    lose(mount)
    answers: list[int] = []
    bring_all = strays.Strays.bring_all

    def asked(self: strays.Strays, job: Any) -> None:
        answers.append(mount.request("list", ino=inodes["d"])[0]["errno"])
        bring_all(self, job)

    monkeypatch.setattr(strays.Strays, "bring_all", asked)
    job = {"id": 1, "kind": "recovery", "bound": mount.next_id - 1, "missing": 1}
    mount.start(job=job)
    mount.await_message("progress", phase="done")
    assert answers == [errno.EAGAIN]
    reply, listing = mount.request("list", ino=inodes["d"])
    assert reply["count"] == 1 and b"one" in listing
    assert tree(mount.home) == {"e/one": "d/one", "f/other": "e/other"}


def test_where_numbers_say_nothing_names_stay(
    mount: FakeMount, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("afmfs.gateway.home.probe._stable_inodes", lambda *args: False)
    plant(mount, "a")
    mount.db.execute("UPDATE inode SET home_ino=NULL")
    mount.rename(b"a", b"b")
    lose(mount)
    assert recover(mount)["lost"] == 1
    assert tree(mount.home) == {"a": "a"}


# -- what the queue still has ---------------------------------------------------------------------


def test_a_removed_name_is_moved_aside_if_nobody_else_is_under_it(mount: FakeMount) -> None:
    """A file that was moved there and away again by entries that are lost is known by its
    number."""
    plant(mount, "a", "b", "c")
    mount.remove(b"a")
    mount.remove(b"b")
    mount.rename(b"c", b"b")
    mount.rename(b"b", b"d")
    os.unlink(mount.home / "b")
    os.rename(mount.home / "c", mount.home / "b")
    lose(mount, f"op={int(Op.RENAME)}")
    done = recover(mount)
    assert tree(mount.home) == {"d": "c"} and done["lost"] == 0
    (aside,) = (mount.home / ".afm/.afmtrash/1").glob("[0-9]*")
    assert aside.read_text() == "a"


def test_a_rename_does_not_replace_what_is_on_its_way(mount: FakeMount) -> None:
    """Home has another file there, whose own change of name was lost."""
    plant(mount, "a", "b")
    mount.rename(b"b", b"c")
    mount.rename(b"a", b"b")
    lose(mount, "id=1")
    done = recover(mount)
    assert tree(mount.home) == {"b": "a", "c": "b"}
    assert (done["aside"], done["lost"]) == (0, 0)
