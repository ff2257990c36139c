"""A home without hard links, and files that have several names here all the same."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from afmfs.gateway.home import connection
from afmfs.gateway.home.home import Home
from afmfs.model.entry import ROOT
from tests.gateway.fake_mount import BLOCK, FakeMount

DATA = bytes([1]) * BLOCK + bytes([2]) * BLOCK


@pytest.fixture
def mount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeMount]:
    """`a` is at home alone, and nothing of it is cached; home is probed as having no links."""

    def link(*_: Any) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    probe = connection.probe
    monkeypatch.setattr(Home, "link", link)
    monkeypatch.setattr(connection, "probe", lambda *args: replace(probe(*args), hard_links=False))
    (tmp_path / "home").mkdir()
    (tmp_path / "home/a").write_bytes(DATA)
    mount = FakeMount(tmp_path / "cache", tmp_path / "home")
    yield mount
    mount.close()


def linked(mount: FakeMount, *names: bytes) -> int:
    ino = mount.adopt(b"a")
    mount.start()
    for name in names or (b"b",):
        mount.link(ino, name)
    mount.settle()
    return ino


def numbers_tell_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    probe = connection.probe
    monkeypatch.setattr(
        connection, "probe", lambda *args: replace(probe(*args), stable_inodes=False)
    )


def flush(mount: FakeMount) -> None:
    assert mount.gateway is not None
    mount.gateway.receive({"type": "flush", "through": mount.next_id - 1})


def run_job(mount: FakeMount, kind: str = "resync") -> list[tuple[int, str]]:
    """What it told of inodes."""
    mount.start(needs_resync=True)
    mount.await_message("connected")
    assert mount.gateway is not None
    record = {"id": 3, "kind": kind, "bound": mount.next_id - 1}
    mount.gateway.receive({"type": "job", "job": record})
    mount.await_message("progress", id=3, phase="done")
    journal = sqlite3.connect(mount.cache / "gateway/1/gateway.db")
    told = journal.execute("SELECT ino, result FROM outcome WHERE id=0 ORDER BY seq").fetchall()
    journal.close()
    mount.retire()
    return told


def reads(mount: FakeMount, ino: int) -> bool:
    reply, data = mount.request("fetch", ino=ino, start=0, end=len(DATA))
    return not reply["errno"] and data == DATA


def tree(mount: FakeMount) -> dict[str, bytes]:
    files = (path for path in mount.home.iterdir() if path.is_file())
    return {path.name: path.read_bytes() for path in files}


def is_fine(mount: FakeMount) -> bool:
    told = [m for m in mount.log if m["type"] == "inconsistent"]
    return mount.pending() == told == []


def test_the_name_that_home_has_goes(mount: FakeMount) -> None:
    ino = linked(mount)
    mount.remove(b"a")
    mount.settle()
    assert tree(mount) == {"b": DATA}
    assert is_fine(mount)
    assert reads(mount, ino)
    mount.remove(b"b")
    mount.settle()
    assert tree(mount) == {}
    assert is_fine(mount)


def test_a_name_goes_that_home_has_not(mount: FakeMount) -> None:
    ino = linked(mount)
    mount.remove(b"b")
    mount.settle()
    assert tree(mount) == {"a": DATA}
    assert is_fine(mount)
    assert reads(mount, ino)


def test_a_new_file_replaces_it(mount: FakeMount) -> None:
    ino = linked(mount)
    mount.make(b"x", b"new")
    mount.rename(b"x", b"a")
    mount.settle()
    assert tree(mount) == {"a": b"new", "b": DATA}
    assert is_fine(mount)
    assert reads(mount, ino)


def test_a_file_of_home_replaces_it(mount: FakeMount) -> None:
    (mount.home / "x").write_bytes(b"other")
    mount.adopt(b"x")
    ino = linked(mount)
    mount.rename(b"x", b"a")
    mount.settle()
    assert tree(mount) == {"a": b"other", "b": DATA}
    assert is_fine(mount)
    assert reads(mount, ino)


def test_all_names_but_the_last_go_in_one_batch(mount: FakeMount) -> None:
    ino = linked(mount, b"b", b"c")
    mount.remove(b"a")
    mount.remove(b"b")
    mount.settle()
    assert tree(mount) == {"c": DATA}
    assert is_fine(mount)
    assert reads(mount, ino)


def test_what_was_moved_before_a_refusal_is_not_missed(
    mount: FakeMount, monkeypatch: pytest.MonkeyPatch
) -> None:
    (mount.home / "x").write_bytes(b"other")
    mount.adopt(b"x")
    ino = linked(mount)
    rename, refuses = Home.rename, True

    def refused(*args: Any) -> None:
        if refuses:
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))
        rename(*args)

    monkeypatch.setattr(Home, "rename", refused)
    mount.rename(b"x", b"a")
    mount.settle()
    assert tree(mount) == {"b": DATA, "x": b"other"}
    assert reads(mount, ino)
    refuses = False
    assert mount.gateway is not None
    mount.gateway.receive({"type": "resume"})
    mount.settle()
    assert tree(mount) == {"a": b"other", "b": DATA}
    assert is_fine(mount)


@pytest.mark.parametrize("over", [False, True])
def test_in_doubt(mount: FakeMount, over: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody has heard that home has moved it, and put another in its place."""
    ino = linked(mount)

    def cut_short(*args: Any) -> None:
        raise sqlite3.OperationalError("the gateway ends")

    with monkeypatch.context() as patch:
        patch.setattr("afmfs.gateway.replay.replay.Replay._land", cut_short)
        if over:
            mount.make(b"x", b"new")
            mount.rename(b"x", b"a")
        else:
            mount.remove(b"a")
        flush(mount)
        mount.await_message("status", in_doubt=len(mount.pending()))
        mount.stop()
    mount.start()
    mount.settle()
    assert tree(mount) == ({"a": b"new", "b": DATA} if over else {"b": DATA})
    assert is_fine(mount)
    assert reads(mount, ino)


def test_somebody_has_taken_the_other_name(mount: FakeMount) -> None:
    linked(mount)
    (mount.home / "b").write_bytes(b"a stray")
    mount.remove(b"a")
    flush(mount)
    mount.await_message("inconsistent", path="b")
    assert tree(mount) == {"a": DATA, "b": b"a stray"}


def test_a_directory_that_home_has_not(mount: FakeMount) -> None:
    """Home can have the file under no other name: it stays where it is."""
    ino = linked(mount)
    gone = mount.mkdir(b"d")
    mount.settle()
    mount.rename(b"b", b"b", ROOT, gone)
    mount.settle()
    (mount.home / "d").rmdir()
    mount.remove(b"a")
    mount.settle()
    assert tree(mount) == {"a": DATA}
    assert mount.pending() != []
    assert reads(mount, ino)


def test_a_push_to_a_file_of_which_home_has_one_name(mount: FakeMount) -> None:
    """Its version is asked for under the name that home has."""
    ino = mount.adopt(b"a", cached=True)
    mount.add_name(ROOT, b"Z", ino)  # and nothing is pending, nor recorded
    mount.start()
    mount.write(ino, 0, b"ours")
    mount.settle()
    assert tree(mount) == {"a": b"ours" + DATA[4:]}
    assert is_fine(mount)


def test_a_resync_says_that_a_name_is_not_at_home(mount: FakeMount) -> None:
    ino = mount.adopt(b"a", cached=True)
    mount.link(ino, b"b")
    assert [told for told in run_job(mount) if told[0] == ino][-1] == (ino, "unlinked")
    assert tree(mount) == {"a": DATA}


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("renamed", [False, True])
def test_a_resync_makes_a_new_file_in_its_place(
    mount: FakeMount, cached: bool, renamed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was made here takes the name, and what only home has goes to the other one; no number
    of an inode tells where it is."""
    numbers_tell_nothing(monkeypatch)
    ino = mount.adopt(b"a", cached=cached)
    mount.link(ino, b"b")
    if renamed:
        mount.make(b"x", b"new")
        mount.rename(b"x", b"a")
    else:
        mount.remove(b"a")
        mount.make(b"a", b"new")
    told = run_job(mount)
    assert tree(mount) == {"a": b"new", "b": DATA}
    assert (ino, "lost") not in told


@pytest.mark.parametrize("kind", ["resync", "failover"])
def test_a_job_removes_the_name_that_home_has(
    mount: FakeMount, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers_tell_nothing(monkeypatch)
    ino = mount.adopt(b"a")
    mount.link(ino, b"b")
    mount.remove(b"a")
    assert (ino, "lost") not in run_job(mount, kind)
    assert tree(mount) == {"b": DATA}
