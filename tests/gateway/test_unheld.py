"""What home can never hold, told apart from what is not there, and from what it refuses for now."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from afmfs.gateway.home import xattrs
from afmfs.gateway.home.home import Home
from afmfs.model.entry import ROOT, Op
from tests.gateway.fake_mount import BLOCK, FakeMount

DATA = bytes([1]) * BLOCK + bytes([2]) * BLOCK
BAD = b"x" * 256
"""A name that home can't hold."""


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[FakeMount]:
    (tmp_path / "home").mkdir()
    mount = FakeMount(tmp_path / "cache", tmp_path / "home", xattrs=True)
    yield mount
    mount.close()


def unheld(mount: FakeMount) -> list[tuple[int, int]]:
    return mount.db.execute("SELECT ino, op FROM unrepresentable ORDER BY ino, op").fetchall()


def flush(mount: FakeMount) -> None:
    assert mount.gateway is not None
    mount.gateway.receive({"type": "flush", "through": mount.next_id - 1})


def resume(mount: FakeMount) -> None:
    assert mount.gateway is not None
    mount.gateway.receive({"type": "resume"})
    mount.settle()


def run_job(mount: FakeMount, number: int) -> None:
    """The resync that follows an inconsistency; then the replay goes on."""
    assert mount.gateway is not None
    receive = mount.gateway.receive
    receive({"type": "run", "stopped": False, "needs_resync": True})
    record = {"id": number, "kind": "resync", "bound": mount.next_id - 1}
    receive({"type": "job", "job": record})
    mount.await_message("progress", id=number, phase="done")
    mount.retire()
    receive({"type": "job_taken", "id": number})
    receive({"type": "run", "stopped": False, "needs_resync": False})
    mount.settle()


def contradictions(mount: FakeMount) -> int:
    return sum(message["type"] == "inconsistent" for message in mount.log)


class Full:
    """A home in which no file can be made, until it has room."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.full, make_file = True, Home.make_file

        def make(*args: Any) -> int:
            if self.full:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return make_file(*args)

        monkeypatch.setattr(Home, "make_file", make)


def no_xattrs(monkeypatch: pytest.MonkeyPatch) -> None:
    def put(*_: Any) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(xattrs, "put", put)


def set_xattr(mount: FakeMount, ino: int) -> None:
    mount.db.execute("INSERT INTO xattr (ino, name, value) VALUES (?,?,?)", (ino, b"user.x", b"1"))
    mount.entry(Op.XATTR, ino, stat.S_IFMT(mount.get(ino, "mode")), None, b"user.x")


@pytest.fixture
def directory(mount: FakeMount, monkeypatch: pytest.MonkeyPatch) -> int:
    """`d`, whose extended attribute home can't hold."""
    no_xattrs(monkeypatch)
    (mount.home / "d").mkdir()
    ino = mount.adopt(b"d")
    set_xattr(mount, ino)
    mount.start()
    mount.settle()
    assert unheld(mount) == [(ino, Op.XATTR)]
    assert mount.pending() == []
    return ino


def test_a_full_home_below_a_directory_without_its_attribute(
    mount: FakeMount, directory: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Full(monkeypatch)
    mount.make(b"f", DATA, parent=directory)
    mount.settle()
    assert mount.pending() != []
    home.full = False
    resume(mount)
    assert mount.pending() == []
    assert (mount.home / "d/f").read_bytes() == DATA


def test_what_is_missing_below_a_directory_without_its_attribute(
    mount: FakeMount, directory: int
) -> None:
    """Somebody has removed it at home: that is no wonder only where home never had it."""
    (mount.home / "d/f").write_bytes(DATA)
    ino = mount.adopt(b"f", directory, "d", cached=True)
    (mount.home / "d/f").unlink()
    mount.write(ino, 0, b"ours")
    flush(mount)
    mount.await_message("inconsistent", path="d/f")
    assert mount.pending() != []


@pytest.mark.parametrize("name", [b"link", b"fifo"])
def test_what_is_no_file_without_its_attribute(
    mount: FakeMount, name: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_xattrs(monkeypatch)
    os.symlink("f", mount.home / "link")
    os.mkfifo(mount.home / "fifo")
    ino = mount.adopt(name)
    mount.start()
    set_xattr(mount, ino)
    mount.settle()
    (mount.home / os.fsdecode(name)).unlink()
    mount.setattr(ino, uid=7)
    flush(mount)
    mount.await_message("inconsistent", path=os.fsdecode(name))


def test_a_file_that_grows_beyond_what_home_can_hold(
    mount: FakeMount, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is there, as long as it could be made: what is written next is compared with that."""
    ino = mount.make(b"f", DATA)
    mount.start()
    mount.settle()
    ftruncate = os.ftruncate

    def limit(fd: int, size: int) -> None:
        if size == 3 * BLOCK and os.readlink(f"/proc/self/fd/{fd}") == str(mount.home / "f"):
            ftruncate(fd, BLOCK)
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
        ftruncate(fd, size)

    monkeypatch.setattr(os, "ftruncate", limit)
    mount.truncate(ino, 3 * BLOCK)
    mount.settle()
    assert unheld(mount) == [(ino, Op.SIZE)]
    mount.write(ino, 0, b"more")
    mount.settle()
    assert mount.pending() == []
    assert [m for m in mount.log if m["type"] == "inconsistent"] == []
    assert (mount.home / "f").read_bytes()[:4] == b"more"


# -- names that home can't hold, and may hold later ------------------------------------------------


@pytest.mark.parametrize("linked", [False, True])
def test_a_file_gets_a_name_that_home_can_hold(mount: FakeMount, linked: bool) -> None:
    ino = mount.make(BAD, DATA)
    mount.start()
    mount.settle()
    assert mount.pending() == []
    assert unheld(mount)[0] == (ino, Op.MAKE)
    if linked:
        mount.link(ino, b"good")
    else:
        mount.rename(BAD, b"good")
    flush(mount)
    mount.await_message("inconsistent", path="good")
    run_job(mount, 3)
    assert (mount.home / "good").read_bytes() == DATA
    assert [op for _, op in unheld(mount)] == ([Op.LINK] if linked else [])
    mount.write(ino, 0, b"more")
    mount.rename(b"good", b"better")
    mount.settle()
    assert mount.pending() == []
    assert contradictions(mount) == 1
    assert (mount.home / "better").read_bytes() == b"more" + DATA[4:]


@pytest.mark.parametrize("out", [False, True])
def test_a_directory_gets_a_name_that_home_can_hold(mount: FakeMount, out: bool) -> None:
    """Or a file is moved out of it."""
    bad = mount.mkdir(BAD)
    mount.make(b"f", DATA, parent=bad)
    mount.start()
    mount.settle()
    assert mount.pending() == []
    if out:
        mount.rename(b"f", b"good", bad, ROOT)
    else:
        mount.rename(BAD, b"good")
    flush(mount)
    mount.await_message("inconsistent", path="good")
    run_job(mount, 3)
    assert (mount.home / ("good" if out else "good/f")).read_bytes() == DATA
    assert mount.pending() == []
    assert contradictions(mount) == 1


def test_a_new_name_that_home_can_not_hold_either(mount: FakeMount) -> None:
    """It is found out without a resync, and once for each rename with one."""
    ino = mount.make(BAD, DATA)
    mount.start()
    mount.settle()
    mount.rename(BAD, b"y" * 256)
    mount.settle()
    assert contradictions(mount) == 0
    run_job(mount, 3)
    assert mount.pending() == []
    assert contradictions(mount) == 0
    assert (ino, Op.MAKE) in unheld(mount)
    assert list(mount.home.glob("*")) == [mount.home / ".afm"]


def test_what_home_can_not_hold_under_any_name(
    mount: FakeMount, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rename of it is no reason for a resync."""

    def mknod(*_: Any) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(Home, "mknod", mknod)
    mount.make(b"fifo", mode=stat.S_IFIFO | 0o600)
    mount.start()
    mount.settle()
    mount.rename(b"fifo", b"other")
    mount.settle()
    assert mount.pending() == []
    assert contradictions(mount) == 0


@pytest.mark.parametrize("swapped", [False, True])
def test_a_file_in_the_place_of_what_home_can_not_hold(
    mount: FakeMount, swapped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is there to be replaced, or to be swapped with: the file comes there all the same."""

    def mknod(*_: Any) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(Home, "mknod", mknod)
    (mount.home / "f").write_bytes(DATA)
    mount.adopt(b"f")
    mount.make(b"fifo", mode=stat.S_IFIFO | 0o600)
    mount.start()
    mount.settle()
    if swapped:
        mount.exchange(b"f", b"fifo")
        flush(mount)
        mount.await_message("inconsistent")
        run_job(mount, 3)
    else:
        mount.rename(b"f", b"fifo")
        mount.settle()
    assert mount.pending() == []
    assert (mount.home / "fifo").read_bytes() == DATA
    assert not (mount.home / "f").exists()


def test_a_full_home_below_a_directory_that_had_a_bad_name(
    mount: FakeMount, monkeypatch: pytest.MonkeyPatch
) -> None:
    (mount.home / "d").mkdir()
    ino = mount.adopt(b"d")
    mount.start()
    mount.rename(b"d", BAD)
    mount.settle()
    assert unheld(mount) == [(ino, Op.RENAME)]
    mount.rename(BAD, b"d")
    flush(mount)
    mount.await_message("inconsistent", path="d")
    run_job(mount, 3)
    assert unheld(mount) == []
    assert mount.gateway is not None
    assert mount.gateway._engine is not None
    assert mount.gateway._engine.journal.unheld(ino) is None
    home = Full(monkeypatch)
    mount.make(b"f", DATA, parent=ino)
    mount.settle()
    assert mount.pending() != []
    home.full = False
    resume(mount)
    assert (mount.home / "d/f").read_bytes() == DATA
    assert contradictions(mount) == 1


def test_a_resync_of_a_rename_to_a_bad_name(mount: FakeMount) -> None:
    (mount.home / "f").write_bytes(DATA)
    mount.adopt(b"f", cached=True)
    mount.start(needs_resync=True)
    mount.await_message("connected")
    mount.rename(b"f", BAD)
    run_job(mount, 3)
    assert mount.pending() == []
    assert (mount.home / "f").read_bytes() == DATA
