"""A job while home refuses changes of names: what waits for these waits for them in a job, too.

Else bytes count as sent whose file was never made, and what frees or takes a name, tried again
later, meets what the job has made there since.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from typing import Any

import pytest

from afmfs.gateway.home.home import Home
from afmfs.gateway.replay import backoff
from afmfs.model.entry import ROOT
from tests.gateway.fake_mount import BLOCK, FakeMount
from tests.harness.mounting import wait_until

DATA = bytes([1]) * BLOCK + bytes([2]) * BLOCK
JOB = 3


class Refusing:
    """A home that refuses calls by the last name that they are given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._patch, self._names, self.over = monkeypatch, set[tuple[str, bytes]](), False

    def refuse(self, call: str, *names: bytes, code: int = errno.ENOSPC) -> None:
        real: Callable[..., Any] = getattr(Home, call)

        def refusing(home: Home, *values: Any) -> Any:
            if not self.over and values[-1] in names:
                raise OSError(code, os.strerror(code))
            return real(home, *values)

        self._patch.setattr(Home, call, refusing)


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Refusing:
    monkeypatch.setattr(backoff, "BACK_OFF_S", 300.0)  # only what is resumed is tried again
    return Refusing(monkeypatch)


def refused(mount: FakeMount, count: int) -> None:
    """Home has refused so many entries that are pending."""
    assert mount.settle()["requeued"] == count


def begin(mount: FakeMount, kind: str = "resync", **more: Any) -> None:
    assert mount.gateway is not None
    mount.gateway.receive({"type": "run", "stopped": False, "needs_resync": True})
    record = {"id": JOB, "kind": kind, "bound": mount.next_id - 1} | more
    mount.gateway.receive({"type": "job", "job": record})


def finish(mount: FakeMount) -> None:
    assert mount.gateway is not None
    mount.await_message("progress", id=JOB, phase="done")
    mount.retire()
    mount.gateway.receive({"type": "job_taken", "id": JOB})


def job(mount: FakeMount, kind: str = "resync", **more: Any) -> None:
    begin(mount, kind, **more)
    finish(mount)


def retry_entries(mount: FakeMount) -> None:
    """They are due before the rows of the job that waits."""
    assert mount.gateway is not None and mount.gateway._engine is not None
    mount.gateway.receive({"type": "run", "stopped": False, "needs_resync": False})
    mount.gateway._engine.journal.resume(time.time_ns())
    mount.gateway.receive({"type": "flush", "through": mount.next_id - 1})


def at_last(mount: FakeMount, home: Refusing) -> dict[str, bytes | None]:
    """What home has once it refuses nothing more."""
    home.over = True
    assert mount.gateway is not None
    mount.gateway.receive({"type": "run", "stopped": False, "needs_resync": False})
    mount.gateway.receive({"type": "resume"})
    mount.settle()
    assert mount.pending() == []
    assert "inconsistent" not in {message["type"] for message in mount.log}
    found = sorted(path for path in mount.home.rglob("*") if ".afm" not in path.parts)
    names = [str(path.relative_to(mount.home)) for path in found]
    contents = [path.read_bytes() if path.is_file() else None for path in found]
    return dict(zip(names, contents, strict=True))


@pytest.mark.parametrize("kind", ["resync", "failover", "recovery"])
def test_a_file_that_is_not_made_yet(mount: FakeMount, home: Refusing, kind: str) -> None:
    home.refuse("make_file", b"f")
    mount.make(b"f", DATA)
    mount.make(b"g", DATA)
    mount.start()
    refused(mount, 2)
    job(mount, kind)
    assert len(mount.pending()) == 2
    assert at_last(mount, home) == {"f": DATA, "g": DATA}


def test_one_that_was_moved_meanwhile(mount: FakeMount, home: Refusing) -> None:
    home.refuse("make_file", b"f", b"g")
    mount.make(b"f", DATA)
    mount.start()
    refused(mount, 2)
    mount.rename(b"f", b"g")
    mount.settle()
    job(mount)
    assert at_last(mount, home) == {"g": DATA}


def test_a_directory_that_is_not_made_yet(mount: FakeMount, home: Refusing) -> None:
    home.refuse("make_dir", b"d")
    directory = mount.mkdir(b"d")
    mount.make(b"f", DATA, parent=directory)
    mount.start()
    refused(mount, 1)
    job(mount)
    assert at_last(mount, home) == {"d": None, "d/f": DATA}


def test_a_name_that_is_not_free_yet(mount: FakeMount, home: Refusing) -> None:
    (mount.home / "a").write_bytes(b"old")
    mount.adopt(b"a")
    home.refuse("unlink", b"a", code=errno.EACCES)
    mount.remove(b"a")
    mount.start()
    refused(mount, 1)
    mount.make(b"a", DATA)
    mount.settle()
    job(mount)
    assert (mount.home / "a").read_bytes() == b"old"
    assert at_last(mount, home) == {"a": DATA}


@pytest.mark.parametrize("when", ["before", "by the job"])
def test_a_name_that_is_not_moved_yet(mount: FakeMount, home: Refusing, when: str) -> None:
    """Of a file that only home has; another is made under its old name."""
    (mount.home / "d").mkdir()
    directory = mount.adopt(b"d")
    (mount.home / "a").write_bytes(DATA)
    mount.adopt(b"a")
    home.refuse("rename_new", b"b", code=errno.EACCES)
    mount.rename(b"a", b"b", ROOT, directory)
    if when == "before":
        mount.start()
        refused(mount, 1)
    mount.make(b"a", b"another's")
    if when != "before":
        mount.start(needs_resync=True)
        mount.await_message("connected")
    job(mount)
    assert at_last(mount, home) == {"a": b"another's", "d": None, "d/b": DATA}


def test_what_may_be_tried_again_is(mount: FakeMount, home: Refusing) -> None:
    """By the job itself: when that is done, it is at home."""
    (mount.home / "a").write_bytes(b"old")
    mount.adopt(b"a")
    home.refuse("unlink", b"a", code=errno.EACCES)
    mount.remove(b"a")
    gateway = mount.start()
    refused(mount, 1)
    mount.make(b"a", DATA)
    mount.settle()
    gateway.receive({"type": "run", "stopped": False, "needs_resync": True})
    home.over = True
    gateway.receive({"type": "resume"})
    job(mount)
    assert mount.pending() == []
    assert (mount.home / "a").read_bytes() == DATA


def test_many_that_wait(mount: FakeMount, home: Refusing, monkeypatch: pytest.MonkeyPatch) -> None:
    """Page by page, what can be settled between them is."""
    monkeypatch.setattr("afmfs.gateway.job.settling.PAGE", 10)
    monkeypatch.setattr("afmfs.gateway.job.job.PAGE", 10)
    home.refuse("make_dir", b"d")
    (mount.home / "old").mkdir()
    old = mount.adopt(b"old")
    directory = mount.mkdir(b"d")
    for n in range(30):
        (mount.home / "old" / f"{n}").write_bytes(b"%d" % n)
        mount.adopt(b"%d" % n, old, "old")
        mount.make(b"f%d" % n, DATA, parent=directory)
        mount.rename(b"%d" % n, b"moved %d" % n, old)
    mount.start(needs_resync=True)
    mount.await_message("connected")
    mount.gateway.receive({"type": "run", "stopped": False, "needs_resync": False})  # type: ignore[union-attr]
    mount.settle()
    for n in range(30):
        mount.rename(b"moved %d" % n, b"again %d" % n, old)
    job(mount)
    assert (mount.home / "old/again 29").read_bytes() == b"29"
    assert len(mount.pending()) == 61
    found = at_last(mount, home)
    assert [found[f"d/f{n}"] for n in range(30)] == [DATA] * 30
    assert [found[f"old/again {n}"] for n in range(30)] == [b"%d" % n for n in range(30)]


def test_names_of_any_bytes(mount: FakeMount, home: Refusing) -> None:
    """They stand in what is kept of a refusal: by the queue, and by the job."""
    name = b"\xff\n"
    home.refuse("make_file", name)
    home.refuse("make_dir", name)
    mount.make(name, DATA)
    mount.start()
    refused(mount, 2)
    mount.stop()
    mount.start()
    mount.await_message("connected")
    status = mount.settle()
    assert status["requeued"] == 2
    assert os.fsencode(status["refusal"]).startswith(name)
    job(mount)
    assert at_last(mount, home)[os.fsdecode(name)] == DATA


def refuses_x_in_d(mount: FakeMount, home: Refusing) -> int:
    """A directory d, of which home refuses the name x to the file a beside it; its inode."""
    (mount.home / "d").mkdir()
    (mount.home / "a").write_bytes(DATA)
    mount.adopt(b"a")
    home.refuse("rename_new", b"x", code=errno.EACCES)
    return mount.adopt(b"d")


def test_a_name_in_a_directory_that_the_job_could_not_make(
    mount: FakeMount, home: Refusing
) -> None:
    """The entry may be tried again before the directory is: that says nothing about home."""
    directory = refuses_x_in_d(mount, home)
    home.refuse("make_dir", b"d", code=errno.EACCES)
    mount.rename(b"a", b"x", ROOT, directory)
    mount.start()
    refused(mount, 1)
    (mount.home / "d").rmdir()
    begin(mount)
    mount.await_message("progress", id=JOB, phase="waiting")
    home.over = True
    retry_entries(mount)
    mount.await_message("status", settled=True)
    assert len(mount.pending()) == 1
    mount.gateway.receive({"type": "resume"})
    finish(mount)
    assert at_last(mount, home) == {"d": None, "d/x": DATA}


def test_a_change_that_was_not_settled_is_never_done_with_the_job(
    mount: FakeMount, home: Refusing
) -> None:
    """Home refused it then; tried again since, it has met what somebody did at home."""
    directory = refuses_x_in_d(mount, home)
    mount.make(b"f", DATA)
    renamed = mount.next_id
    mount.rename(b"a", b"x", ROOT, directory)
    mount.start()
    refused(mount, 1)
    (mount.home / "f").unlink()
    home.refuse("link", b"f", code=errno.EACCES)
    begin(mount)
    mount.await_message("progress", id=JOB, phase="waiting")
    (mount.home / "d").rmdir()
    home.over = True
    retry_entries(mount)
    mount.await_message("inconsistent")
    mount.gateway.receive({"type": "resume"})
    finish(mount)
    assert mount.pending() == [renamed]


def test_bytes_of_a_file_that_is_made_while_the_job_waits(mount: FakeMount, home: Refusing) -> None:
    """They come by themselves, and aren't there when the job is done."""
    mount.tunables["async_delay_s"] = 1000
    home.refuse("make_file", b"f")
    made = mount.next_id
    ino = mount.make(b"f")
    mount.make(b"g", DATA)
    mount.start()
    refused(mount, 1)
    mount.write(ino, 0, DATA)
    (mount.home / "g").unlink()
    home.refuse("link", b"g", code=errno.EACCES)
    begin(mount)
    mount.await_message("progress", id=JOB, phase="waiting")
    home.over = True
    assert mount.gateway is not None and (engine := mount.gateway._engine) is not None
    mount.gateway.receive({"type": "run", "stopped": False, "needs_resync": False})
    engine.journal.resume(time.time_ns())
    engine.replay.wake()
    wait_until(lambda: engine.progress.executed(made), 10, "f is made")
    mount.gateway.receive({"type": "resume"})
    finish(mount)
    assert at_last(mount, home) == {"f": DATA, "g": DATA}


@pytest.mark.parametrize("when", ["before", "meanwhile"])
@pytest.mark.parametrize("call", ["make_dir", "link"])
def test_what_is_sent_before_a_name_is_refused_is_our_own(
    mount: FakeMount, home: Refusing, call: str, when: str
) -> None:
    """Looked at once more it would count as changed by somebody, and what is not cached of it would
    be in the trash alone."""
    (mount.home / "f").write_bytes(DATA)
    ino = mount.adopt(b"f")
    mount.start()
    mount.settle()
    home.refuse(call, b"n", b"g", code=errno.EACCES)
    directory = mount.mkdir(b"n")
    mount.link(ino, b"g", directory)
    if when == "before":
        mount.write(ino, 0, b"new")
    begin(mount)
    mount.await_message("progress", id=JOB, phase="waiting")
    if when == "meanwhile":
        mount.write(ino, 0, b"new")
        retry_entries(mount)
    for _ in range(2):
        mount.gateway.receive({"type": "resume"})
        mount.await_message("progress", id=JOB, phase="waiting")
    home.over = True
    mount.gateway.receive({"type": "resume"})
    summary = mount.await_message("progress", id=JOB, phase="done")["summary"]
    mount.retire()
    mount.gateway.receive({"type": "job_taken", "id": JOB})
    assert (summary["aside"], summary["nulled"]) == (0, 0)
    whole = b"new" + DATA[3:]
    assert at_last(mount, home) == {"f": whole, "n": None, "n/g": whole}
