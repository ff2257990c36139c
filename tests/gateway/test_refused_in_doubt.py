"""What is in doubt and then refused: nothing is done beside it to what it may have moved."""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import replace
from typing import Any

import pytest

from afmfs.gateway.home import connection
from afmfs.gateway.home.home import Home
from afmfs.gateway.home.trouble import HomeAway, MayEnd
from afmfs.gateway.replay import pushing
from afmfs.gateway.replay.landing import requeued
from afmfs.gateway.replay.site import Site
from afmfs.gateway.replay.work import Failed
from afmfs.model.entry import ROOT
from tests.gateway.fake_mount import BLOCK, FakeMount

DATA = bytes([1]) * 2 * BLOCK
OTHER = bytes([7]) * 2 * BLOCK


class Cut:
    """Once, the connection breaks when something is done at home, before that is recorded."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, done: Any, then: Any = lambda: None
    ) -> None:
        self.happened, self._done, self._then, self._sync = False, done, then, Site.sync
        cut = self

        def sync(site: Site, home: Home, told: Any = frozenset()) -> None:
            if not cut.happened and cut._done():
                cut.happened = True
                cut._then()
                raise HomeAway("Disconnected", "cut")
            cut._sync(site, home, told)

        monkeypatch.setattr(Site, "sync", sync)


def told(mount: FakeMount) -> set[str]:
    return {message["type"] for message in mount.log}


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_a_name_that_may_have_moved(
    mount: FakeMount, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """What is written to it, or below it, meanwhile would be looked for under its old name."""
    (mount.home / "e").mkdir()
    target = mount.adopt(b"e")
    if kind == "file":
        (mount.home / "f").write_bytes(DATA)
        written = moved = mount.adopt(b"f")
    else:
        (mount.home / "f").mkdir()
        moved = mount.adopt(b"f")
        (mount.home / "f/x").write_bytes(DATA)
        written = mount.adopt(b"x", moved, "f")
    cut = Cut(monkeypatch, lambda: (mount.home / "e/f").exists())
    closed, real = True, Home.directory

    def directory(home: Home, path: Any) -> int:
        if closed and cut.happened and path[:1] == (b"e",):
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))
        return real(home, path)

    monkeypatch.setattr(Home, "directory", directory)
    mount.rename(b"f", b"f", ROOT, target)
    gateway = mount.start()
    mount.await_message("event", timeout=20, name="afmCmdRequeued")
    mount.setattr(written, mode=stat.S_IFREG | 0o600)
    mount.settle()
    assert "inconsistent" not in told(mount)
    assert len(mount.pending()) == 2
    closed = False
    gateway.receive({"type": "resume"})
    mount.settle()
    assert mount.pending() == []
    assert "inconsistent" not in told(mount)
    path = mount.home / ("e/f" if kind == "file" else "e/f/x")
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("how", ["exchange", "rename"])
def test_a_push_that_was_refused_is_not_done_to_what_took_its_name(
    mount: FakeMount, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Where home keeps no inode numbers it could not be told from its own half."""
    probe = connection.probe

    def poor(home: Home, before: Any = None) -> Any:
        return replace(probe(home, before), exchange=False, stable_inodes=False)

    monkeypatch.setattr(connection, "probe", poor)
    monkeypatch.setattr("afmfs.gateway.replay.backoff.BACK_OFF_S", 60.0)
    (mount.home / "a").write_bytes(DATA)
    (mount.home / "b").write_bytes(OTHER)
    a = mount.adopt(b"a", cached=True)
    mount.adopt(b"b")  # nothing of it is cached
    full, push = True, pushing.push

    def refusing(view: Any, ino: int, *rest: Any, **more: Any) -> Any:
        if full and ino == a:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return push(view, ino, *rest, **more)

    monkeypatch.setattr(pushing, "push", refusing)
    moved = "b" if how == "exchange" else "c"
    gateway = mount.start()
    at_home = mount.home / moved
    Cut(
        monkeypatch,
        lambda: at_home.exists() and at_home.read_bytes()[-1:] == DATA[-1:],
        then=lambda: gateway.receive({"type": "resume"}),  # the push is tried again at once
    )
    mount.await_message("connected")
    mount.write(a, 0, b"new bytes of a")
    gateway.receive({"type": "wake"})
    mount.await_message("event", name="afmCmdRequeued")
    full = False
    if how == "exchange":
        mount.exchange(b"a", b"b")
    else:
        mount.rename(b"a", b"c")
        mount.rename(b"b", b"a")
    mount.settle()
    gateway.receive({"type": "resume"})
    mount.settle()
    assert mount.pending() == []
    assert "inconsistent" not in told(mount)
    assert (mount.home / moved).read_bytes()[:14] == b"new bytes of a"
    assert (mount.home / "a").read_bytes() == OTHER


def test_all_entries_of_an_action_are_tried_again_at_one_time() -> None:
    full = Failed(MayEnd(errno.ENOSPC, "full"), partial=True)
    (first,) = requeued([1], full)
    again = requeued(range(1, 1000), full, {1: first})
    assert {(one.tries, one.next_try_ns, one.since_ns) for one in again} == {
        (2, again[0].next_try_ns, first.since_ns)
    }
