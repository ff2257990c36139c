"""A job while it is in doubt where home has its names: what is looked for under the old ones would
count as lost, and be made anew beside what home has."""

from __future__ import annotations

import errno
import os
import time
from typing import Any

import pytest

from afmfs.gateway.home.home import Home
from afmfs.gateway.home.trouble import HomeAway
from afmfs.gateway.replay.execute import Execution
from afmfs.model.action import Batch
from afmfs.model.entry import ROOT
from tests.gateway.fake_mount import BLOCK, FakeMount
from tests.gateway.test_job_beside_refusals import (
    DATA,
    JOB,
    Refusing,
    at_last,
    begin,
    home,
    job,
    refused,
    retry_entries,
)
from tests.gateway.test_refused_in_doubt import Cut, told

__all__ = ["home"]  # a fixture

LONG = b"x" * 3 * BLOCK


def summary(mount: FakeMount) -> dict[str, Any]:
    assert mount.gateway is not None
    done: dict[str, Any] = mount.await_message("progress", 20, id=JOB, phase="done")["summary"]
    mount.retire()
    mount.gateway.receive({"type": "job_taken", "id": JOB})
    return done


class Closed:
    """From when the connection has broken, home lets nobody into a directory."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, cut: Cut, name: bytes) -> None:
        self.over = False
        real = Home.directory

        def directory(home: Home, path: Any) -> int:
            if not self.over and cut.happened and path[:1] == (name,):
                raise OSError(errno.EACCES, os.strerror(errno.EACCES))
            return real(home, path)

        monkeypatch.setattr(Home, "directory", directory)


def moved_and_closed(mount: FakeMount, monkeypatch: pytest.MonkeyPatch, *, write: bool) -> Closed:
    """Home has moved f into e when the connection breaks, and then lets nobody into e."""
    (mount.home / "e").mkdir()
    target = mount.adopt(b"e")
    (mount.home / "f").write_bytes(LONG)
    ino = mount.adopt(b"f")
    closed = Closed(monkeypatch, Cut(monkeypatch, lambda: (mount.home / "e/f").exists()), b"e")
    if write:
        mount.write(ino, 0, b"new")
    mount.rename(b"f", b"f", ROOT, target)
    mount.start()
    mount.await_message("event", timeout=20, name="afmCmdRequeued")
    return closed


@pytest.mark.parametrize("write", [False, True])
def test_it_waits_for_a_name_that_may_have_moved(
    mount: FakeMount, home: Refusing, monkeypatch: pytest.MonkeyPatch, write: bool
) -> None:
    closed = moved_and_closed(mount, monkeypatch, write=write)
    begin(mount)
    mount.await_message("progress", id=JOB, phase="settling")
    closed.over = True
    assert mount.gateway is not None
    mount.gateway.receive({"type": "resume"})
    done = summary(mount)
    assert (done["lost"], done["aside"], done["nulled"]) == (0, 0, 0)
    assert at_last(mount, home) == {"e": None, "e/f": (b"new" if write else b"xxx") + LONG[3:]}


def test_nothing_is_sent_to_what_may_have_moved(
    mount: FakeMount, home: Refusing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though it is of the batch that is in doubt: its old name is free, and says nothing."""
    closed = moved_and_closed(mount, monkeypatch, write=True)
    mount.settle()
    assert "inconsistent" not in told(mount)
    closed.over = True
    assert at_last(mount, home) == {"e": None, "e/f": b"new" + LONG[3:]}


def with_x(mount: FakeMount) -> int:
    """A directory d of one file x; its inode."""
    (mount.home / "d").mkdir()
    (mount.home / "d/x").write_bytes(DATA)
    directory = mount.adopt(b"d")
    mount.adopt(b"x", directory, "d")
    return directory


def test_what_a_change_in_doubt_depends_on_is_in_doubt_too(
    mount: FakeMount, home: Refusing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was refused: what waits for it must not be settled as if it were done."""
    directory = with_x(mount)
    run, cut = Execution.run, list[bool]()

    def running(execution: Execution, batch: Batch) -> Any:
        if not cut:
            cut.append(True)
            begin(mount)
            raise HomeAway("Disconnected", "cut")
        return run(execution, batch)

    monkeypatch.setattr(Execution, "run", running)
    mount.rename(b"x", b"g", directory, ROOT)
    mount.remove(b"d")
    home.refuse("rename_new", b"g", code=errno.EACCES)
    gateway = mount.start()
    gateway.receive({"type": "flush", "through": mount.next_id - 1})
    mount.await_message("progress", id=JOB, phase="settling")
    mount.await_message("status", requeued=1)
    home.over = True
    gateway.receive({"type": "resume"})
    assert summary(mount)["lost"] == 0
    assert at_last(mount, home) == {"g": DATA}


def test_its_rows_wait_for_names_that_may_have_moved_meanwhile(
    mount: FakeMount, home: Refusing, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = with_x(mount)
    mount.make(b"z", DATA, parent=directory)
    gateway = mount.start()
    mount.settle()
    (mount.home / "d/z").unlink()
    home.refuse("link", b"z", code=errno.EACCES)
    begin(mount)
    mount.await_message("progress", id=JOB, phase="waiting")

    def permit() -> None:
        home.over = True
        gateway.receive({"type": "resume"})

    Cut(monkeypatch, lambda: (mount.home / "e").exists(), permit)
    mount.rename(b"d", b"e")
    gateway.receive({"type": "run", "stopped": False, "needs_resync": False})
    gateway.receive({"type": "flush", "through": mount.next_id - 1})
    summary(mount)
    assert at_last(mount, home) == {"e": None, "e/x": DATA, "e/z": DATA}


def test_what_was_begun_after_it_was_asked_for_is_settled_too(
    mount: FakeMount, home: Refusing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the gateway has heard of it."""
    (mount.home / "a").write_bytes(DATA)
    mount.adopt(b"a")
    gateway = mount.start()
    mount.settle()
    bound = mount.next_id - 1
    Cut(monkeypatch, lambda: (mount.home / "b").exists(), lambda: begin(mount, bound=bound))
    mount.rename(b"a", b"b")
    gateway.receive({"type": "flush", "through": mount.next_id - 1})
    assert summary(mount)["lost"] == 0
    assert at_last(mount, home) == {"b": DATA}


@pytest.mark.parametrize("why", ["forgiven", "in doubt"])
def test_what_home_has_lost_was_not_moved(
    mount: FakeMount, home: Refusing, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    """It is under neither of its names: only the cache has it, where it would count as clean."""
    (mount.home / "a").write_bytes(DATA)
    mount.adopt(b"a", cached=True)
    if why == "forgiven":
        home.refuse("rename_new", b"b", code=errno.EACCES)
        mount.rename(b"a", b"b")
        mount.start()
        refused(mount, 1)
        job(mount)
        (mount.home / "a").unlink()
        home.over = True
        retry_entries(mount)
    else:
        Cut(monkeypatch, lambda: (mount.home / "b").exists(), (mount.home / "b").unlink)
        mount.rename(b"a", b"b")
        gateway = mount.start()
        gateway.receive({"type": "flush", "through": mount.next_id - 1})
    mount.await_message("inconsistent")


def test_lost_entries_are_made_up_for_when_home_permits_it(
    mount: FakeMount, home: Refusing
) -> None:
    """The gateway goes on meanwhile."""
    for name in "ab":
        (mount.home / name).write_bytes(name.encode())
        mount.adopt(name.encode())
    mount.rename(b"a", b"tmp")
    mount.rename(b"b", b"a")
    mount.rename(b"tmp", b"b")
    mount.db.execute("DELETE FROM queue")
    home.refuse("rename_new", b"a", code=errno.EACCES)
    record = {"id": JOB, "kind": "recovery", "bound": mount.next_id - 1, "missing": 1}
    mount.start(job=record)
    mount.await_message("connected")
    time.sleep(0.1)
    home.over = True
    summary(mount)
    assert at_last(mount, home) == {"a": b"b", "b": b"a"}
