"""Home refuses for now: requeued, and only what depends on it waits."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from afmfs.gateway.home.home import Home
from afmfs.gateway.replay import window
from afmfs.gateway.state.view import View
from afmfs.model import order
from afmfs.model.entry import Entry
from tests.gateway.fake_mount import FakeMount


@pytest.fixture
def small_home(tmp_path: Path) -> Iterator[Path]:
    home = tmp_path / "home"
    home.mkdir()
    if os.geteuid() != 0:
        pytest.skip("mounts a tmpfs")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", home], check=True)
    yield home
    subprocess.run(["umount", home], check=True)


def test_a_full_home(tmp_path: Path, small_home: Path) -> None:
    mount = FakeMount(tmp_path / "cache", small_home, flush_threads=1)  # one after the other
    try:
        big = mount.make(b"big", os.urandom(2 << 20))
        mount.link(big, b"big too")
        mount.make(b"small", b"fits")
        mount.start()
        event = mount.await_message("event", name="afmCmdRequeued")
        assert event["detail"]["errno"] == errno.ENOSPC
        status = mount.settle()
        assert status["requeued"] == 2  # the file and its bytes; the link waits for it
        assert set(os.listdir(small_home)) == {".afm", "small"}
        assert len(mount.pending()) == 3
        subprocess.run(["mount", "-o", "remount,size=10m", small_home], check=True)
        assert mount.gateway is not None
        mount.gateway.receive({"type": "resume"})
        mount.await_message("outcomes")
        mount.settle()
        assert (small_home / "big").stat().st_size == 2 << 20
        assert os.path.samefile(small_home / "big", small_home / "big too")
        assert mount.pending() == []
    finally:
        mount.close()


class Looks:
    """Counts how often entries or actions are asked what they depend on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        for name in ("_of_action", "_of_entry"):
            monkeypatch.setattr(order, name, self._counting(getattr(order, name)))

    def _counting(self, real: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def counting(one: Any) -> Any:
            self.count += 1
            return real(one)

        return counting


def test_a_home_that_refuses_everything_costs_a_few_looks_at_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that is full does: with a long queue, a look at all for each would take hours."""

    def refuse(*_: object) -> int:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    count = 1000
    monkeypatch.setattr(window, "ENTRIES", 100)
    (tmp_path / "home").mkdir()
    mount = FakeMount(tmp_path / "cache", tmp_path / "home")
    try:
        for n in range(count):
            mount.make(b"%d" % n)
        mount.start(stopped=True)
        mount.await_message("connected")
        monkeypatch.setattr(Home, "make_file", refuse)
        looks = Looks(monkeypatch)
        assert mount.gateway is not None
        mount.gateway.receive({"type": "run", "stopped": False, "needs_resync": False})
        assert mount.settle()["requeued"] == count
        assert looks.count < 30 * count
    finally:
        mount.close()


class Refusing:
    """A home in which neither `d` can be made nor what has a number for a name."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked = 0
        self.open = False
        monkeypatch.setattr(Home, "make_dir", self._refusing(Home.make_dir))
        monkeypatch.setattr(Home, "make_file", self._refusing(Home.make_file))

    def _refusing(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def made(home: Home, dirfd: int, name: bytes) -> Any:
            if not self.open and (name == b"d" or name.isdigit()):
                self.asked += 1
                raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
            return real(home, dirfd, name)

        return made


@pytest.fixture
def refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[FakeMount, Refusing]]:
    """Home refuses what is made; small windows, and no attempt by itself."""
    (tmp_path / "home").mkdir()
    monkeypatch.setattr(window, "ENTRIES", 64)
    monkeypatch.setattr("afmfs.gateway.replay.backoff.BACK_OFF_S", 60.0)
    refusing = Refusing(monkeypatch)
    mount = FakeMount(tmp_path / "cache", tmp_path / "home")
    yield mount, refusing
    mount.close()


def test_what_is_held_is_not_read_again_for_what_comes_after_it(
    refused: tuple[FakeMount, Refusing], monkeypatch: pytest.MonkeyPatch
) -> None:
    mount, _ = refused
    (mount.home / "old").mkdir()
    old = mount.adopt(b"old")
    directory = mount.mkdir(b"d")
    for n in range(1000):
        mount.make(b"%d" % n, parent=directory)
    mount.start()
    mount.settle()
    rows = 0
    page = View.page

    def counted(view: View, after: int, limit: int) -> list[Entry]:
        nonlocal rows
        found = page(view, after, limit)
        rows += len(found)
        return found

    monkeypatch.setattr(View, "page", counted)
    for n in range(10):
        mount.setattr(old, mode=stat.S_IFDIR | 0o700 | n)
        mount.settle()
        assert (mount.home / "old").stat().st_mode & 0o7777 == 0o700 | n
    assert len(mount.pending()) == 1001
    assert rows < 1000


def test_what_waited_for_a_dropped_entry_goes_on(refused: tuple[FakeMount, Refusing]) -> None:
    """Also if that one was not refused, but waited itself."""
    mount, _ = refused
    file = mount.make(b"1")
    linked = mount.link(file, b"g")
    removed = mount.remove(b"g")
    mount.make(b"g")
    mount.start()
    mount.settle()
    assert not (mount.home / "g").exists()
    assert mount.request("drop", id=linked)[0]["ok"]
    assert mount.request("drop", id=removed)[0]["ok"]
    mount.settle()
    assert (mount.home / "g").exists()
    assert len(mount.pending()) == 1


def test_a_home_that_refuses_too_much_is_not_asked_more(
    refused: tuple[FakeMount, Refusing], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each entry that it has refused is kept in memory. Once it takes them, all goes on."""
    mount, refusing = refused
    monkeypatch.setattr(window, "REQUEUED", 100)
    for n in range(1000):
        mount.make(b"%d" % n)
    mount.start()
    assert 100 <= mount.settle()["requeued"] < 300
    assert refusing.asked < 300
    refusing.open = True
    assert mount.gateway is not None
    mount.gateway.receive({"type": "resume"})
    mount.settle()
    assert mount.pending() == []
    assert len(os.listdir(mount.home)) == 1001


def test_what_is_remembered_of_what_waits_is_bounded(
    refused: tuple[FakeMount, Refusing], monkeypatch: pytest.MonkeyPatch
) -> None:
    mount, refusing = refused
    monkeypatch.setattr(order, "TRACES", 100)
    (mount.home / "old").mkdir()
    old = mount.adopt(b"old")
    directory = mount.mkdir(b"d")
    for n in range(1000):
        mount.make(b"%d" % n, parent=directory)
    mount.setattr(old, mode=stat.S_IFDIR | 0o700)
    mount.start()
    mount.settle()
    assert len(mount.pending()) == 1002  # also what could have gone
    refusing.open = True
    assert mount.gateway is not None
    mount.gateway.receive({"type": "resume"})
    mount.settle()
    assert mount.pending() == []
    assert (mount.home / "old").stat().st_mode & 0o7777 == 0o700


def test_a_push_into_a_full_home(tmp_path: Path, small_home: Path) -> None:
    """Half pushed, it is ours: no inconsistency when it is tried again, also after a restart."""
    (small_home / "f").write_bytes(bytes(1000))
    mount = FakeMount(tmp_path / "cache", small_home)
    try:
        f = mount.adopt(b"f", cached=True)
        data = os.urandom(2 << 20)
        mount.write(f, 0, data)
        mount.make(b"small", b"fits", parent=1)
        mount.start()
        mount.await_message("event", name="afmCmdRequeued")
        mount.settle()
        mount.stop()
        mount.start()
        mount.await_message("connected")
        subprocess.run(["mount", "-o", "remount,size=10m", small_home], check=True)
        assert mount.gateway is not None
        mount.gateway.receive({"type": "resume"})
        mount.await_message("outcomes")
        mount.settle()
        assert (small_home / "f").read_bytes() == data
        assert mount.pending() == []
    finally:
        mount.close()


class Late:
    """A home that says only when it is synced that it can't keep what is large, as NFS does where
    it is full: by file to who syncs that, and for all that was written, once for each time that
    it was tried, to who syncs all."""

    def __init__(self, home: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
        self.full, self._code, self._unsaid = True, code, False
        self._home, self._said, self._fsync = home, set[int](), os.fsync
        monkeypatch.setattr(os, "fsync", self.fsync)
        monkeypatch.setattr("afmfs.gateway.home.syscalls.syncfs", self.syncfs)

    def fsync(self, fd: int) -> None:
        if self.full and os.fstat(fd).st_size > 1 << 20:
            self._unsaid = True
            raise OSError(self._code, "not kept")
        self._fsync(fd)

    def syncfs(self, fd: int) -> None:
        found = [path.stat() for path in self._home.rglob("*") if path.is_file()]
        large = {st.st_ino for st in found if st.st_size > 1 << 20} - self._said
        self._said |= large
        if (large or self._unsaid) and self.full:
            self._unsaid = False
            raise OSError(self._code, "not kept")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_home_that_says_late_what_it_can_not_keep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """No room, or a bad sector: only what it is about waits, and home is not away."""
    (tmp_path / "home").mkdir()
    mount = FakeMount(tmp_path / "cache", tmp_path / "home", home_sync="batch")
    late = Late(mount.home, monkeypatch, code)
    try:
        mount.make(b"big", os.urandom(2 << 20))
        mount.make(b"small", b"fits")
        mount.start()
        event = mount.await_message("event", name="afmCmdRequeued")
        assert event["detail"]["errno"] == code
        assert mount.settle()["requeued"] == 2
        assert len(mount.pending()) == 2
        assert (mount.home / "small").read_bytes() == b"fits"
        late.full = False
        assert mount.gateway is not None
        mount.gateway.receive({"type": "resume"})
        mount.await_message("outcomes")
        mount.settle()
        assert mount.pending() == []
        assert (mount.home / "big").stat().st_size == 2 << 20
    finally:
        mount.close()


class Bad:
    """A file at home that can't be written, as its disk has a bad sector there."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.repaired = False
        self._inode, self._pwrite = path.stat().st_ino, os.pwrite
        monkeypatch.setattr(os, "pwrite", self.pwrite)

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        if os.fstat(fd).st_ino == self._inode and not self.repaired:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return self._pwrite(fd, data, offset)


@pytest.mark.parametrize("way_out", ["resume", "reconnect", "restart"])
def test_one_bad_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way_out: str) -> None:
    """It alone waits, and home is not away; half pushed, it is no inconsistency."""
    (tmp_path / "home").mkdir()
    (tmp_path / "home/bad").write_bytes(bytes(10))
    mount = FakeMount(tmp_path / "cache", tmp_path / "home")
    bad = Bad(mount.home / "bad", monkeypatch)
    monkeypatch.setattr("afmfs.gateway.replay.backoff.BACK_OFF_S", 60.0)
    monkeypatch.setattr("afmfs.gateway.home.contact.PROBE_S", 0.2)
    try:
        f = mount.adopt(b"bad", cached=True)
        mount.truncate(f, 5)
        mount.write(f, 0, b"new bytes")
        mount.rename(b"bad", b"renamed")
        mount.make(b"good", b"fits")
        gateway = mount.start()
        event = mount.await_message("event", name="afmCmdRequeued")
        assert event["detail"]["errno"] == errno.EIO
        status = mount.settle()
        assert "Input/output error; see the disks" in status["refusal"]
        assert (mount.home / "good").read_bytes() == b"fits"
        assert not [m for m in mount.log if m["type"] in ("away", "inconsistent")]
        bad.repaired = True
        if way_out == "resume":
            gateway.receive({"type": "resume"})
        elif way_out == "reconnect":
            (mount.home / ".afm").rename(tmp_path / "aside")
            mount.await_message("away")
            (tmp_path / "aside").rename(mount.home / ".afm")
        else:
            mount.stop()
            mount.start()
        mount.await_message("outcomes")
        mount.settle()
        assert (mount.home / "renamed").read_bytes() == b"new bytes"
        assert mount.pending() == []
    finally:
        mount.close()


def test_a_name_that_is_gone_in_spite_of_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is written meanwhile by another name of the file is not looked for under that one."""
    (tmp_path / "home").mkdir()
    (tmp_path / "home/a").write_bytes(b"old bytes")
    os.link(tmp_path / "home/a", tmp_path / "home/b")
    unlink = Home.unlink

    def unlink_badly(home: Home, dirfd: int, name: bytes) -> None:
        unlink(home, dirfd, name)
        raise OSError(errno.EIO, "the answer is lost")

    monkeypatch.setattr(Home, "unlink", unlink_badly)
    monkeypatch.setattr("afmfs.gateway.replay.backoff.BACK_OFF_S", 60.0)
    mount = FakeMount(tmp_path / "cache", tmp_path / "home")
    try:
        f = mount.adopt(b"a", cached=True)
        mount.add_name(1, b"b", f)
        mount.remove(b"a")
        mount.start()
        mount.await_message("outcomes")
        mount.write(f, 0, b"new")
        assert mount.settle()["requeued"] == 0
        assert (mount.home / "b").read_bytes() == b"new bytes"
        assert mount.pending() == []
        assert "inconsistent" not in {message["type"] for message in mount.log}
    finally:
        mount.close()


def test_drop(tmp_path: Path, small_home: Path) -> None:
    mount = FakeMount(tmp_path / "cache", small_home)
    try:
        mount.make(b"big", os.urandom(2 << 20))
        mount.start()
        mount.settle()
        for entry in mount.pending():
            reply, _ = mount.request("drop", id=entry)
            assert reply["ok"], reply
        mount.retire()
        assert mount.pending() == []
        reply, _ = mount.request("drop", id=99)
        assert not reply["ok"]
    finally:
        mount.close()


def test_back_off_ends_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    home.mkdir()
    failures = [PermissionError(errno.EACCES, "no")] * 2
    real = Home.make_dir

    def make_dir(self: Home, dirfd: int, name: bytes) -> None:
        if name == b"d" and failures:
            raise failures.pop()
        real(self, dirfd, name)

    monkeypatch.setattr(Home, "make_dir", make_dir)
    monkeypatch.setattr("afmfs.gateway.replay.backoff.BACK_OFF_S", 0.05)
    mount = FakeMount(tmp_path / "cache", home)
    try:
        d = mount.mkdir(b"d")
        mount.make(b"f", b"in it", parent=d)
        mount.make(b"g", b"beside it")
        mount.start()
        mount.await_message("outcomes")
        mount.await_message("outcomes")
        mount.settle()
        assert (home / "d/f").read_bytes() == b"in it"
        assert mount.pending() == []
    finally:
        mount.close()


def test_what_home_can_never_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is recorded and no longer pending; what follows on it is no inconsistency."""
    home = tmp_path / "home"
    home.mkdir()
    mount = FakeMount(tmp_path / "cache", home)
    try:
        long = b"x" * 256
        directory = mount.mkdir(long)
        mount.make(b"f", b"bytes", parent=directory)
        mount.make(b"ok", b"ok")
        mount.start()
        mount.settle()
        assert mount.pending() == []
        mount.setattr(directory, mode=stat.S_IFDIR | 0o700)
        mount.remove(b"f", directory)
        mount.remove(long)
        mount.settle()
        assert mount.pending() == []
        assert [m for m in mount.log if m["type"] == "inconsistent"] == []
        assert (home / "ok").exists()
    finally:
        mount.close()


def test_what_is_asked_for_while_the_queue_is_looked_at(
    refused: tuple[FakeMount, Refusing], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was found before it says nothing of it: whoever waits would hear that nothing goes."""
    mount, refusing = refused
    mount.make(b"1")
    gateway = mount.start()
    mount.settle()
    pick, asked = window.Window.pick, False

    def overtaken(one: window.Window, now_ns: int) -> Any:
        nonlocal asked
        found = pick(one, now_ns)
        if not asked and isinstance(found, window.Waiting):
            asked, refusing.open = True, True
            gateway.receive({"type": "resume"})
            gateway.receive({"type": "flush", "through": mount.next_id})
        return found

    monkeypatch.setattr(window.Window, "pick", overtaken)
    gateway.receive({"type": "wake"})
    mount.await_message("status", settled=True, through=mount.next_id)
    assert (mount.home / "1").exists()
