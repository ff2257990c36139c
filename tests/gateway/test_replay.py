"""The replay end to end: from the queue to home, through messages."""

from __future__ import annotations

import errno
import os
import stat
from typing import Any

import pytest

from afmfs.gateway.home.home import Home
from afmfs.gateway.replay import window
from tests.gateway.fake_mount import FakeMount


def test_a_tree_arrives(mount: FakeMount) -> None:
    directory = mount.mkdir(b"d")
    ino = mount.make(b"f", b"hello", parent=directory, mode=stat.S_IFREG | 0o640)
    mount.make(b"link", mode=stat.S_IFLNK | 0o777, target=b"d/f")
    mount.make(b"fifo", mode=stat.S_IFIFO | 0o600)
    mount.link(ino, b"again")
    mount.start()
    mount.settle()
    home = mount.home
    assert (home / "d/f").read_bytes() == b"hello"
    st = os.lstat(home / "d/f")
    assert stat.S_IMODE(st.st_mode) == 0o640
    assert st.st_mtime_ns == mount.get(ino, "mtime")
    assert st.st_nlink == 2
    assert os.path.samefile(home / "d/f", home / "again")
    assert os.readlink(home / "link") == "d/f"
    assert stat.S_ISFIFO(os.lstat(home / "fifo").st_mode)
    assert os.lstat(home / "d").st_mtime_ns == mount.get(directory, "mtime")
    assert os.lstat(home).st_mtime_ns == mount.get(1, "mtime")
    assert mount.pending() == []


def test_only_what_was_written_is_sent(mount: FakeMount) -> None:
    """Of a large file a few bytes: what home has around them is not even looked at."""
    path = mount.home / "f"
    path.write_bytes(bytes(1 << 20))
    ino = mount.adopt(b"f", cached=True)
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(500_000)
        file.write(b"home's own")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # which nobody can notice
    mount.write(ino, 400_000, b"new")
    mount.write(ino, 600_000, b"newer")
    mount.start()
    mount.settle()
    at_home = path.read_bytes()
    assert at_home[400_000:400_003] == b"new"
    assert at_home[600_000:600_005] == b"newer"
    assert at_home[500_000:500_010] == b"home's own"


def test_each_batch_begins_with_the_oldest_that_may_go(
    mount: FakeMount, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What home refused as well, once its time has come: it does not wait for what is younger."""
    monkeypatch.setattr(window, "ENTRIES", window.LEAST)
    monkeypatch.setattr("afmfs.gateway.replay.backoff.BACK_OFF_S", 0.0)
    refusals = [PermissionError(errno.EACCES, "not now")]
    real = Home.make_file

    def make_file(home: Home, dirfd: int, name: bytes, *rest: Any) -> Any:
        if name == b"0" and refusals:
            raise refusals.pop()
        return real(home, dirfd, name, *rest)

    monkeypatch.setattr(Home, "make_file", make_file)
    for number in range(5 * window.LEAST):
        mount.make(b"%d" % number)
    mount.start(stopped=True)
    mount.await_message("connected")
    assert mount.gateway is not None and mount.gateway._engine is not None
    replay, picked = mount.gateway._engine.replay, list[list[int]]()
    executed = replay._replay

    def replayed(pick: Any) -> None:
        picked.append(sorted(pick.entries))
        executed(pick)

    monkeypatch.setattr(replay, "_replay", replayed)
    mount.gateway.receive({"type": "run", "stopped": False, "needs_resync": False})
    mount.settle()
    assert len(picked) > 5
    assert picked[0] == list(range(1, window.LEAST + 1))
    assert picked[1][:2] == [1, window.LEAST + 1]
    assert [one[0] for one in picked] == sorted(one[0] for one in picked)
    assert mount.pending() == []


def test_a_gateway_that_ended_before_it_told_of_what_it_did(mount: FakeMount) -> None:
    """The next one tells of it: it would count as pending until something else is executed."""
    mount.make(b"f", b"hello")
    mount.start()
    assert mount.gateway is not None
    mount.gateway.receive({"type": "flush", "through": mount.next_id - 1})
    seq = mount.await_message("outcomes")["seq"]
    mount.stop()
    mount.messages.queue.clear()
    mount.start()
    assert mount.await_message("outcomes")["seq"] == seq
    mount.retire()
    assert mount.pending() == []
