"""The replay end to end: from the queue to home, through messages."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gateway.fake_mount import FakeMount


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[FakeMount]:
    home = tmp_path / "home"
    home.mkdir()
    mount = FakeMount(tmp_path / "cache", home)
    yield mount
    mount.close()


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
