"""Reading at home while it is being changed by us, by others, or not at all."""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgpack
import pytest

from afmfs.gateway.fetch import Fetches
from afmfs.gateway.home.connection import Connection
from afmfs.gateway.home.home import Home
from afmfs.gateway.home.trouble import HomeAway
from afmfs.gateway.protocol import Message
from afmfs.gateway.replay.execute import Execution, Result
from afmfs.gateway.state.journal import Journal
from afmfs.gateway.state.view import View
from afmfs.model.action import Batch
from afmfs.model.entry import Op
from tests.gateway.fake_mount import FakeMount


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[FakeMount]:
    (tmp_path / "home" / "d").mkdir(parents=True)
    mount = FakeMount(tmp_path / "cache", tmp_path / "home")
    yield mount
    mount.close()


def test_bytes(mount: FakeMount) -> None:
    data = os.urandom(100_000)
    (mount.home / "f").write_bytes(data)
    f = mount.adopt(b"f")
    mount.start()
    mount.await_message("connected")
    reply, got = mount.request("fetch", ino=f, start=4096, end=8192)
    assert (reply["errno"], reply["length"], got) == (0, 4096, data[4096:8192])
    assert reply.get("stamp") is None
    reply, got = mount.request("fetch", ino=f, start=98304, end=102400)
    assert (reply["length"], got) == (1696, data[98304:])


def test_a_home_that_is_gone_when_a_file_is_closed(
    mount: FakeMount, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether what was read is good is for the connection to say."""
    (mount.home / "f").write_bytes(b"bytes")
    f = mount.adopt(b"f")
    close, failed = os.close, []

    def close_badly(fd: int) -> None:
        theirs = os.readlink(f"/proc/self/fd/{fd}") == str(mount.home / "f")
        close(fd)
        if theirs:
            failed.append(fd)
            raise OSError(errno.EIO, "home is gone")

    mount.start()
    mount.await_message("connected")
    monkeypatch.setattr(os, "close", close_badly)
    reply, got = mount.request("fetch", ino=f, start=0, end=5)
    assert failed
    assert (reply["errno"], got) == (0, b"bytes")


def test_under_a_name_that_home_has_not_seen_yet(mount: FakeMount) -> None:
    (mount.home / "d" / "f").write_bytes(b"bytes")
    d = mount.adopt(b"d")
    f = mount.adopt(b"f", d, "d")
    mount.rename(b"f", b"renamed", d)
    mount.rename(b"d", b"moved")
    mount.start(stopped=True)
    mount.await_message("connected")
    assert mount.request("fetch", ino=f, start=0, end=5)[1] == b"bytes"
    assert mount.gateway is not None
    mount.gateway.receive({"type": "run", "stopped": False, "needs_resync": False})
    mount.settle()
    assert (mount.home / "moved" / "renamed").exists()
    assert mount.request("fetch", ino=f, start=0, end=5)[1] == b"bytes"


def test_while_a_batch_in_doubt_is_settled(
    mount: FakeMount, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its entries may have been executed before: home has the new name, or still the old one."""
    (mount.home / "d" / "f").write_bytes(b"bytes")
    d = mount.adopt(b"d")
    f = mount.adopt(b"f", d, "d")
    with closing(Journal(mount.cache / "gateway" / "1")) as journal:
        journal.take_off([mount.rename(b"d", b"moved")])
    (mount.home / "d").rename(mount.home / "moved")
    looked = threading.Event()
    real = Fetches._fetch

    def fetch(self: Fetches, message: Message) -> tuple[Message, int]:
        try:
            return real(self, message)
        finally:
            looked.set()

    def during() -> None:
        assert mount.gateway is not None
        mount.on_point = lambda: None
        mount.gateway.receive({"type": "fetch", "rid": 77, "ino": f, "start": 0, "end": 5})
        assert looked.wait(10)

    monkeypatch.setattr(Fetches, "_fetch", fetch)
    mount.on_point = during
    mount.start()
    assert mount.await_message("fetched", rid=77)["errno"] == 0
    assert mount.replies[77][1] == b"bytes"


def test_while_a_batch_ends_in_which_home_has_gone_away(
    mount: FakeMount, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Home has moved the file, and nobody knows yet: that it is missing is no news."""
    monkeypatch.setattr("afmfs.gateway.fetch.PATIENCE_S", 0.0)
    (mount.home / "f").write_bytes(b"bytes")
    f, codes = mount.adopt(b"f"), list[int]()

    def lost(home: Home, *names: Any) -> None:
        rename_new(home, *names)
        monkeypatch.setattr(Home, "rename_new", rename_new)
        raise OSError(errno.ENOTCONN, "home is gone")

    def goes_on(execution: Execution, batch: Batch) -> Result:
        try:
            return run(execution, batch)
        except HomeAway:
            codes.append(mount.request("fetch", ino=f, start=0, end=5)[0]["errno"])
            raise

    rename_new, run = Home.rename_new, Execution.run
    monkeypatch.setattr(Home, "rename_new", lost)
    monkeypatch.setattr(Execution, "run", goes_on)
    monkeypatch.setattr(Connection, "judge", lambda _, home, trouble: trouble)
    mount.rename(b"f", b"g")
    mount.start()
    mount.settle()
    assert codes == [errno.EAGAIN]
    assert mount.request("fetch", ino=f, start=0, end=5)[1] == b"bytes"


def test_another_version(mount: FakeMount) -> None:
    (mount.home / "f").write_bytes(b"0123456789")
    f = mount.adopt(b"f")
    mount.start()
    mount.await_message("connected")
    (mount.home / "f").write_bytes(b"something else")
    reply, got = mount.request("fetch", ino=f, start=0, end=10)
    assert reply["errno"] == errno.ESTALE and not got
    assert mount.await_message("inconsistent")["path"] == "f"


def test_a_touched_file_is_adopted_if_what_is_cached_agrees(mount: FakeMount) -> None:
    for name in ("f", "g"):
        (mount.home / name).write_bytes(b"a" * 4096 + b"b" * 4096)
    f, g = mount.adopt(b"f"), mount.adopt(b"g")
    mount.put(f, 0, b"a" * 4096)
    mount.mark(f, 0, 4096)
    mount.put(g, 0, b"x" * 4096)
    mount.mark(g, 0, 4096)
    for name in ("f", "g"):
        os.utime(mount.home / name, ns=(10**18, 10**18))
    mount.start()
    mount.await_message("connected")
    reply, got = mount.request("fetch", ino=f, start=4096, end=8192)
    assert got == b"b" * 4096
    assert reply["stamp"]["mtime"] == 10**18
    assert mount.request("fetch", ino=g, start=4096, end=8192)[0]["errno"] == errno.ESTALE


def test_a_touched_file_that_is_evicted_meanwhile(
    mount: FakeMount, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its blob is gone when it is compared: nothing that is cached differs."""
    (mount.home / "f").write_bytes(b"a" * 4096 + b"b" * 4096)
    f = mount.adopt(b"f")
    mount.put(f, 0, b"a" * 4096)
    mount.mark(f, 0, 4096)
    os.utime(mount.home / "f", ns=(10**18, 10**18))
    mount.start()
    mount.await_message("connected")
    real = View.open_blob

    def evicted(self: View, ino: int, gen: int) -> int | None:
        mount.blob(ino).unlink(missing_ok=True)
        mount.db.execute("DELETE FROM span WHERE ino=?", (ino,))
        mount.db.execute("DELETE FROM blockmap WHERE ino=?", (ino,))
        mount.update(ino, gen=0, whole=0)
        return real(self, ino, gen)

    monkeypatch.setattr(View, "open_blob", evicted)
    reply, got = mount.request("fetch", ino=f, start=4096, end=8192)
    assert (reply["errno"], got) == (0, b"b" * 4096)


def test_a_file_that_is_being_pushed(mount: FakeMount) -> None:
    """What was pushed in part is no inconsistency for those who read the rest."""
    (mount.home / "f").write_bytes(b"a" * 8192)
    f = mount.adopt(b"f")
    mount.write(f, 0, b"new " * 1024)
    mount.start(stopped=True)
    mount.await_message("connected")
    assert mount.gateway is not None
    engine = mount.gateway._engine
    assert engine is not None
    entries = engine.view.page(0, 10)
    engine.progress.mark(entries)
    (mount.home / "f").write_bytes(b"new " * 512 + b"a" * 6144)  # our own push, broken off
    assert mount.request("fetch", ino=f, start=4096, end=8192)[1] == b"a" * 4096


def test_not_there_yet(mount: FakeMount) -> None:
    f = mount.make(b"f", b"only here")
    mount.start(stopped=True)
    mount.await_message("connected")
    reply, _ = mount.request("fetch", ino=f, start=0, end=10)
    assert reply["errno"] == errno.EAGAIN


def test_home_is_gone(mount: FakeMount) -> None:
    (mount.home / "f").write_bytes(b"0123456789")
    f = mount.adopt(b"f")
    mount.start()
    mount.await_message("connected")
    mount.home.rename(mount.home.with_name("elsewhere"))
    reply, _ = mount.request("fetch", ino=f, start=0, end=10)
    assert reply["errno"] == errno.EIO
    assert mount.await_message("away")["state"] == "Unmounted"
    mount.home.with_name("elsewhere").rename(mount.home)
    mount.await_message("connected")
    assert mount.request("fetch", ino=f, start=0, end=10)[1] == b"0123456789"


def said_to_be_away(mount: FakeMount) -> bool:
    return any(message["type"] == "away" for message in mount.log)


@pytest.mark.parametrize("kind", ["fetch", "list"])
def test_one_bad_object_is_not_a_home_that_is_away(
    mount: FakeMount, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Whoever reads something else would get an error for it."""
    (mount.home / "bad").write_bytes(b"0123456789")
    ino = mount.adopt(b"bad" if kind == "fetch" else b"d")

    def bad(*_: object) -> None:
        raise OSError(errno.EIO, "bad sector")

    monkeypatch.setattr(Fetches, "_read" if kind == "fetch" else "_write_entries", bad)
    mount.start()
    mount.await_message("connected")
    fields = {"start": 0, "end": 10} if kind == "fetch" else {}
    assert mount.request(kind, ino=ino, **fields)[0]["errno"] == errno.EIO
    assert not said_to_be_away(mount)


def test_what_home_can_never_hold(mount: FakeMount) -> None:
    (mount.home / "f").write_bytes(b"0123456789")
    f = mount.adopt(b"f")
    (mount.home / "f").unlink()
    mount.db.execute("INSERT INTO unrepresentable VALUES (?,?,?)", (f, int(Op.RENAME), errno.EPERM))
    mount.start()
    mount.await_message("connected")
    assert mount.request("fetch", ino=f, start=0, end=10)[0]["errno"] == errno.EIO
    assert not said_to_be_away(mount)


def test_list(mount: FakeMount) -> None:
    home = mount.home
    (home / "f").write_bytes(b"123")
    os.utime(home / "f", ns=(5, 10**18 + 7))
    os.symlink(b"d/\xff", os.fsencode(home / "link"))
    os.mkfifo(home / "fifo")
    Path(os.fsdecode(os.fsencode(home) + b"/\xff\xfe\n")).write_bytes(b"")
    mount.start()
    mount.await_message("connected")
    reply, data = mount.request("list", ino=1)
    assert reply["errno"] == 0
    unpacker = msgpack.Unpacker(raw=False)
    unpacker.feed(data)
    rows = {row[0]: row for row in unpacker}
    assert reply["count"] == len(rows) == 5
    assert set(rows) == {b"d", b"f", b"link", b"fifo", b"\xff\xfe\n"}
    assert b".afm" not in rows
    assert rows[b"f"][4:7] == [3, 5, 10**18 + 7]
    assert rows[b"link"][11] == b"d/\xff"
    assert stat.S_ISFIFO(rows[b"fifo"][1])
    st = os.lstat(home / "f")
    assert rows[b"f"][8:10] == [st.st_ino, 1]


def test_a_long_list(mount: FakeMount) -> None:
    for n in range(3000):
        (mount.home / "d" / f"{n:0200}").touch()
    d = mount.adopt(b"d")
    mount.start()
    mount.await_message("connected")
    reply, data = mount.request("list", ino=d)
    assert reply["count"] == 3000
    unpacker = msgpack.Unpacker(raw=False)
    unpacker.feed(data)
    assert len(list(unpacker)) == 3000
