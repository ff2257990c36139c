"""Two names that are swapped by steps, at a home that refuses between them."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from afmfs.gateway.home import connection
from afmfs.gateway.home.home import Home
from afmfs.gateway.home.trouble import HomeAway
from afmfs.gateway.replay.site import Site
from afmfs.gateway.state.journal import Journal
from tests.gateway.fake_mount import BLOCK, FakeMount

A, B, NEW = bytes([1]) * BLOCK, bytes([7]) * BLOCK, b"somebody's"


@pytest.fixture
def mount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeMount]:
    real = connection.probe

    def probe(*args: Any) -> Any:
        return replace(real(*args), exchange=False)

    monkeypatch.setattr(connection, "probe", probe)
    (tmp_path / "home").mkdir()
    mount = FakeMount(tmp_path / "cache", tmp_path / "home")
    yield mount
    mount.close()


class Refusal:
    """Home refuses one kind of call for one new name, as long as `code` is set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, call: str, name: bytes, code: int) -> None:
        self.code, real = code, getattr(Home, call)

        def refusing(home: Home, *args: Any) -> Any:
            if self.code and args[-1] == name:
                raise OSError(self.code, os.strerror(self.code))
            return real(home, *args)

        monkeypatch.setattr(Home, call, refusing)


STEPS = {"second": ("rename_new", b"a"), "half": ("rename", b"half"), "first": ("rename_new", b"b")}
"""Of what is left when one is half done."""


def files(mount: FakeMount) -> None:
    (mount.home / "a").write_bytes(A)
    (mount.home / "b").write_bytes(B)
    mount.adopt(b"a")
    mount.adopt(b"b")


def directories(mount: FakeMount) -> None:
    """Of one file below `a` and none below `b` anything is cached."""
    for name in ("a", "b"):
        (mount.home / name).mkdir()
    a, b = mount.adopt(b"a"), mount.adopt(b"b")
    for name in ("a/f", "a/u", "b/g"):
        (mount.home / name).write_bytes(A if name[0] == "a" else B)
    mount.adopt(b"f", a, "a", cached=True)
    mount.adopt(b"u", a, "a")
    mount.adopt(b"g", b, "b")


def exchange(mount: FakeMount) -> int:
    """Up to home's refusal."""
    mount.start()
    mount.await_message("connected")
    entry = mount.exchange(b"a", b"b")
    mount.gateway.receive({"type": "wake"})  # type: ignore[union-attr]
    mount.await_message("event", name="afmCmdRequeued")
    mount.settle()
    return entry


def begin(mount: FakeMount, **more: Any) -> None:
    """A job, in the state NeedsResync."""
    run(mount, needs_resync=True)
    record = {"id": 3, "kind": "resync", "bound": mount.next_id - 1} | more
    mount.gateway.receive({"type": "job", "job": record})  # type: ignore[union-attr]


def end(mount: FakeMount) -> dict[int, str]:
    """The job's; what it told of inodes."""
    mount.await_message("progress", id=3, phase="done")
    told = dict(journal(mount).query("SELECT ino, result FROM outcome WHERE id=0"))
    mount.retire()
    mount.gateway.receive({"type": "job_taken", "id": 3})  # type: ignore[union-attr]
    return told


def run(mount: FakeMount, *, needs_resync: bool = False) -> None:
    message = {"type": "run", "stopped": False, "needs_resync": needs_resync}
    mount.gateway.receive(message)  # type: ignore[union-attr]


def resume(mount: FakeMount) -> None:
    mount.gateway.receive({"type": "resume"})  # type: ignore[union-attr]


def finish(mount: FakeMount) -> None:
    """Home takes everything now."""
    resume(mount)
    deadline = time.monotonic() + 10
    while mount.pending():
        assert time.monotonic() < deadline, journal(mount).requeued()
        time.sleep(0.01)
        mount.retire()


def journal(mount: FakeMount) -> Journal:
    found: Journal = mount.gateway._engine.journal  # type: ignore[union-attr]
    return found


def tree(mount: FakeMount) -> dict[str, bytes | None]:
    """All names at home but for the marker's own."""
    return {
        str(path.relative_to(mount.home)): path.read_bytes() if path.is_file() else None
        for path in sorted(mount.home.rglob("*"))
        if ".afm" not in path.relative_to(mount.home).parts
    }


def trash(mount: FakeMount) -> list[bytes]:
    return [path.read_bytes() for path in mount.home.glob(".afm/.afmtrash/3/[0-9]*")]


SWAPPED: dict[Callable[[FakeMount], None], dict[str, bytes | None]] = {
    files: {"a": B, "b": A},
    directories: {"a": None, "a/g": B, "b": None, "b/f": A, "b/u": A},
}
CONTENTS = pytest.mark.parametrize("content", SWAPPED, ids=lambda one: one.__name__)


# -- no room --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [b"exchange", b"1", b"whole", b"half"])
def test_a_full_home_refuses_before_anything_has_moved(
    mount: FakeMount, monkeypatch: pytest.MonkeyPatch, name: bytes
) -> None:
    """It is an entry like any other that home refuses: not in doubt, and it can be dropped."""
    full = Refusal(monkeypatch, "make_dir", name, errno.ENOSPC)
    files(mount)
    if name == b"half":  # made in advance, under another name
        mount.start()
        mount.exchange(b"a", b"b")
        mount.settle()
        assert tree(mount) == SWAPPED[files] and not mount.pending()
        return
    entry = exchange(mount)
    assert tree(mount) == {"a": A, "b": B}
    assert not journal(mount).in_flight(entry)
    full.code = 0
    finish(mount)
    assert tree(mount) == SWAPPED[files] and not mount.pending()
    assert journal(mount).get(f"exchange {entry}") is None


def test_one_that_has_not_begun_can_be_dropped(
    mount: FakeMount, monkeypatch: pytest.MonkeyPatch
) -> None:
    Refusal(monkeypatch, "make_dir", b"whole", errno.ENOSPC)
    files(mount)
    entry = exchange(mount)
    reply, _ = mount.request("drop", id=entry)
    assert reply["ok"]
    mount.retire()
    assert tree(mount) == {"a": A, "b": B} and not mount.pending()


@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO])
def test_one_that_could_not_move_the_first_is_done_at_once_when_home_can(
    mount: FakeMount, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """What was made in advance for the steps does not tell that they were begun: in doubt, they
    would be done once more, and undo it."""
    refusal = Refusal(monkeypatch, "rename", b"a", code)
    files(mount)
    if code == errno.EACCES:
        entry = exchange(mount)
        assert journal(mount).get(f"exchange {entry}") is None
    else:  # in doubt
        mount.start()
        mount.await_message("connected")
        mount.exchange(b"a", b"b")
        mount.gateway.receive({"type": "wake"})  # type: ignore[union-attr]
        mount.await_message("away")
    mount.stop()
    monkeypatch.undo()
    refusal.code = 0
    swap, away = Home.exchange, [True]

    def cut(home: Home, *args: Any) -> None:
        swap(home, *args)
        if away.pop() if away else False:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(Home, "exchange", cut)
    monkeypatch.setattr("afmfs.gateway.home.probe._exchange", lambda home, place: True)
    mount.start()
    mount.await_message("connected")
    finish(mount)
    assert tree(mount) == SWAPPED[files] and not mount.pending()


# -- half done ------------------------------------------------------------------------------------


@CONTENTS
@pytest.mark.parametrize("step", STEPS)
def test_what_is_half_done_is_finished_before_a_job_looks_for_anything(
    mount: FakeMount,
    monkeypatch: pytest.MonkeyPatch,
    content: Callable[[FakeMount], None],
    step: str,
) -> None:
    """The two are not missing: neither made anew, nor lost."""
    refusal = Refusal(monkeypatch, *STEPS[step], errno.EACCES)
    content(mount)
    exchange(mount)
    half = tree(mount)
    begin(mount, manual=True)
    with pytest.raises(AssertionError, match="no progress"):
        mount.await_message("progress", 2.5, phase="pushing")
    assert tree(mount) == half and (mount.home / ".afm/exchange/1/a").exists()
    (waiting,) = journal(mount).requeued().values()
    assert 1 < waiting.tries < 5 and waiting.pushing  # with pauses, and it is shown
    refusal.code = 0
    resume(mount)
    assert "lost" not in end(mount).values()
    assert tree(mount) == SWAPPED[content] and not trash(mount)
    assert not mount.pending()


@CONTENTS
@pytest.mark.parametrize("step", STEPS)
def test_what_is_half_done_goes_on_by_itself(
    mount: FakeMount,
    monkeypatch: pytest.MonkeyPatch,
    content: Callable[[FakeMount], None],
    step: str,
) -> None:
    refusal = Refusal(monkeypatch, *STEPS[step], errno.EACCES)
    content(mount)
    entry = exchange(mount)
    refusal.code = 0
    finish(mount)
    assert tree(mount) == SWAPPED[content] and not mount.pending()
    assert journal(mount).get(f"exchange {entry}") is None


@pytest.mark.parametrize("step", STEPS)
def test_a_job_finishes_what_was_cut_off_in_the_middle(
    mount: FakeMount, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """In doubt, not refused: home went away between two steps, and a resync begins."""
    away = Refusal(monkeypatch, *STEPS[step], errno.EIO)
    files(mount)
    mount.start()
    mount.await_message("connected")
    mount.exchange(b"a", b"b")
    mount.gateway.receive({"type": "wake"})  # type: ignore[union-attr]
    mount.await_message("away")
    begin(mount)
    mount.await_message("progress", phase="settling")
    away.code = 0
    assert "lost" not in end(mount).values()
    assert tree(mount) == SWAPPED[files] and not trash(mount)


def test_what_a_job_moved_alone_is_not_moved_back_when_it_is_cut_off(
    mount: FakeMount, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Home has lost the one, which is gone here by now: no number tells that it is not the other
    that stands in its place."""
    real, cut = Site.sync, list[bool]()

    def sync(site: Site, home: Home, *told: Any) -> None:
        if (mount.home / "a").exists() and not cut:
            cut.append(True)
            raise HomeAway("Disconnected", "cut")
        real(site, home, *told)

    monkeypatch.setattr(Site, "sync", sync)
    files(mount)
    mount.exchange(b"a", b"b")
    mount.remove(b"b")
    (mount.home / "a").unlink()
    mount.start()
    begin(mount)
    assert "lost" not in end(mount).values()
    assert cut and tree(mount) == {"a": B} and not trash(mount)


def test_what_is_half_done_is_not_dropped(
    mount: FakeMount, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusal = Refusal(monkeypatch, *STEPS["second"], errno.EACCES)
    files(mount)
    entry = exchange(mount)
    reply, _ = mount.request("drop", id=entry)
    assert not reply["ok"]
    assert ".afm/exchange/1/a" in reply["reason"] and "resumeRequeued" in reply["reason"]
    refusal.code = 0
    finish(mount)
    assert tree(mount) == SWAPPED[files]


def test_it_is_known_to_be_half_done_after_a_restart(
    mount: FakeMount, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusal = Refusal(monkeypatch, *STEPS["first"], errno.EACCES)
    directories(mount)
    entry = exchange(mount)
    mount.stop()
    mount.start()
    mount.await_message("connected")
    assert not mount.request("drop", id=entry)[0]["ok"]
    begin(mount)
    with pytest.raises(AssertionError, match="no progress"):
        mount.await_message("progress", 1.5, phase="pushing")
    refusal.code = 0
    resume(mount)
    end(mount)
    assert tree(mount) == SWAPPED[directories]


@pytest.mark.parametrize("name", ["a", "b"])
@pytest.mark.parametrize("step", STEPS)
def test_what_home_got_under_the_names_meanwhile_goes_to_the_trash(
    mount: FakeMount, monkeypatch: pytest.MonkeyPatch, step: str, name: str
) -> None:
    """It is in the way, and the object that has no name meanwhile must not stay where it is."""
    refusal = Refusal(monkeypatch, *STEPS[step], errno.EACCES)
    files(mount)
    exchange(mount)
    if (mount.home / name).exists():
        return  # that name is not free then
    (mount.home / name).write_bytes(NEW)
    refusal.code = 0
    resume(mount)
    mount.await_message("inconsistent")
    begin(mount)
    assert "lost" not in end(mount).values()
    assert tree(mount) == SWAPPED[files] and trash(mount) == [NEW]


def test_one_of_the_two_was_removed_at_home_meanwhile(
    mount: FakeMount, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusal = Refusal(monkeypatch, *STEPS["second"], errno.EACCES)
    files(mount)
    exchange(mount)
    (mount.home / "b").unlink()
    refusal.code = 0
    resume(mount)
    mount.await_message("inconsistent")
    begin(mount)
    assert list(end(mount).values()).count("lost") == 1
    assert tree(mount) == {"b": A}


def test_what_a_job_has_left_waits_while_one_is_half_done(
    mount: FakeMount, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The normal queue goes on then, and would move directories away under the job's objects."""
    full = Refusal(monkeypatch, "link", b"f", errno.ENOSPC)
    directories(mount)
    (mount.home / "a/f").unlink()
    mount.start()
    mount.await_message("connected")
    begin(mount)
    mount.await_message("progress", phase="waiting")
    run(mount)
    refusal = Refusal(monkeypatch, *STEPS["second"], errno.EACCES)
    mount.exchange(b"a", b"b")
    mount.gateway.receive({"type": "wake"})  # type: ignore[union-attr]
    deadline = time.monotonic() + 10
    while not (mount.home / ".afm/exchange/1/a").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    full.code = 0
    half = tree(mount)
    resume(mount)
    time.sleep(2.5)
    assert tree(mount) == half and not trash(mount)
    refusal.code = 0
    resume(mount)
    assert "lost" not in end(mount).values()
    finish(mount)
    assert tree(mount) == SWAPPED[directories] and not trash(mount)


@pytest.mark.parametrize("step", STEPS)
def test_a_recovery_that_home_refuses_to_let_finish_it_goes_no_further(
    mount: FakeMount, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """The journal that knew of it is lost, and a later change would miss what it is to move."""
    refusal = Refusal(monkeypatch, *STEPS[step], errno.EACCES)
    files(mount)
    entry = exchange(mount)
    mount.rename(b"a", b"c")
    mount.stop()
    for path in (mount.cache / "gateway/1").glob("gateway.db*"):
        path.unlink()
    mount.start(needs_resync=True)
    mount.await_message("connected")
    mount.log.clear()
    begin(mount, kind="recovery", doubt=mount.next_id - 1)
    with pytest.raises(AssertionError, match="no progress"):
        mount.await_message("progress", 2.5, phase="pushing")
    assert journal(mount).requeued().keys() == {entry}
    refusal.code = 0
    resume(mount)
    assert "lost" not in end(mount).values()
    assert tree(mount) == {"b": A, "c": B} and not trash(mount)


def test_what_is_left_of_a_lost_entry_is_not_taken_for_finished(mount: FakeMount) -> None:
    left = mount.home / ".afm/exchange/63"
    (left / "half").mkdir(parents=True)
    (left / "a").write_bytes(A)
    (mount.home / ".afm/exchange/64/whole").mkdir(parents=True)
    mount.start()
    mount.make(b"f", B)
    mount.settle()
    assert sorted(path.name for path in left.iterdir()) == ["a", "half"]
    assert os.listdir(left.parent) == ["63"]
