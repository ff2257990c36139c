"""What a resync moved to the trash comes back: null bytes into their file, the rest beside it."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest

from afmfs.gateway.home.home import Home
from afmfs.gateway.protocol import Message
from afmfs.gateway.state.journal import Journal
from afmfs.gateway.trash import aside, refill
from afmfs.gateway.trash import requests as trash_requests
from afmfs.gateway.trash.emptying import DEEPEST
from afmfs.model.entry import ROOT
from tests.gateway.fake_mount import BLOCK, T0, FakeMount

JOB = 3
OLD = bytes([1]) * BLOCK + bytes([2]) * BLOCK + bytes([3]) * 100


def resync(mount: FakeMount, job: int = JOB) -> None:
    """A manual resync, from its beginning to its end."""
    assert mount.gateway is not None
    record = {"id": job, "kind": "resync", "bound": mount.next_id - 1, "manual": True}
    mount.gateway.receive({"type": "job", "job": record})
    mount.await_message("progress", id=job, phase="done")
    mount.retire()
    mount.gateway.receive({"type": "job_taken", "id": job})
    mount.gateway.receive({"type": "run", "stopped": False, "needs_resync": False})


def start(mount: FakeMount) -> None:
    mount.start()
    mount.await_message("connected")


def partial(mount: FakeMount, name: bytes = b"f") -> int:
    """A file of which the second block is cached; the rest becomes null by a resync."""
    path = mount.home / os.fsdecode(name)
    path.write_bytes(OLD)
    os.utime(path, ns=(T0, T0))
    ino = mount.adopt(name)
    mount.put(ino, BLOCK, OLD[BLOCK : 2 * BLOCK])
    mount.mark(ino, BLOCK, 2 * BLOCK)
    return ino


def nulled_file(mount: FakeMount) -> int:
    ino = partial(mount)
    start(mount)
    resync(mount)
    assert (mount.home / "f").read_bytes() == bytes(BLOCK) + OLD[BLOCK : 2 * BLOCK] + bytes(100)
    return ino


def restore(mount: FakeMount, path: bytes | None = None, job: int = JOB) -> list[Message]:
    """All that is told, taken in step by step."""
    told: list[Message] = []
    after = 0
    while True:
        reply, _ = mount.request("restore", job=job, path=path, after=after)
        assert reply["errno"] == 0, reply
        told += reply["entries"]
        mount.retire()
        if reply["next"] is None:
            return told
        after = reply["next"]


def states(mount: FakeMount) -> list[str]:
    db = journal_of(mount)
    try:
        return [row[0] for row in db.query("SELECT state FROM trash ORDER BY number")]
    finally:
        db.close()


def journal_of(mount: FakeMount) -> Journal:
    """The gateway's, which has to be stopped."""
    assert mount.gateway is None
    return Journal(mount.cache / "gateway" / "1")


def trash(mount: FakeMount, job: int = JOB) -> Path:
    return mount.home / ".afm" / ".afmtrash" / str(job)


# -- bytes that were made null -------------------------------------------------------------------


def test_just_the_bytes_that_were_nulled(mount: FakeMount) -> None:
    ino = nulled_file(mount)
    mount.write(ino, 0, b"newer")
    mount.settle()
    mtime = (mount.home / "f").stat().st_mtime_ns
    (told,) = restore(mount, b"f")
    found = (mount.home / "f").read_bytes()
    assert found == b"newer" + OLD[5:]
    assert (mount.home / "f").stat().st_mtime_ns == mtime
    assert told["ino"] == ino
    assert told["ranges"] == [[5, BLOCK], [2 * BLOCK, len(OLD)]]
    # It is a version of our own: what is written next is no inconsistency.
    mount.write(ino, BLOCK, b"again")
    mount.settle()
    assert (mount.home / "f").read_bytes()[BLOCK : BLOCK + 5] == b"again"
    assert not [m for m in mount.log if m["type"] == "inconsistent"]
    assert restore(mount, b"f") == [
        {
            "number": told["number"],
            "path": b"f",
            "why": "nulled",
            "reason": "it was restored before",
        }
    ]
    assert restore(mount) == []
    mount.stop()
    journal = journal_of(mount)
    assert journal.query("SELECT * FROM nulled") == []
    journal.close()


def test_nulls_that_were_cut_off_stay_off(mount: FakeMount) -> None:
    ino = nulled_file(mount)
    mount.truncate(ino, 10)
    mount.truncate(ino, BLOCK)
    mount.settle()
    (told,) = restore(mount)
    assert told["ranges"] == [[0, 10]]
    assert (mount.home / "f").read_bytes() == OLD[:10] + bytes(BLOCK - 10)


def test_a_file_that_was_changed_at_home_is_left(mount: FakeMount) -> None:
    nulled_file(mount)
    (mount.home / "f").write_text("of a stranger")
    (told,) = restore(mount)
    assert told["reason"] == "the present file was changed at home"
    assert (mount.home / "f").read_text() == "of a stranger"


def test_a_file_that_is_gone_here_comes_back_beside(mount: FakeMount) -> None:
    nulled_file(mount)
    mount.remove(b"f")
    mount.settle()
    (told,) = restore(mount)
    assert told["restored"] == b"f.restored-3"
    assert (mount.home / "f.restored-3").read_bytes() == OLD


def test_a_file_that_is_being_pushed(mount: FakeMount, monkeypatch: pytest.MonkeyPatch) -> None:
    from afmfs.gateway.trash import restore as module

    monkeypatch.setattr(module, "PATIENCE_S", 0.1)
    ino = nulled_file(mount)
    assert mount.gateway is not None and mount.gateway._engine is not None
    progress = mount.gateway._engine.progress
    progress.mark_restored(ino, 1)
    (told,) = restore(mount)
    assert told["reason"] == "it is being replayed, try again"
    progress.mark_restored(ino, -1)
    assert "reason" not in restore(mount)[0]


def test_home_is_full(mount: FakeMount, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was written is our own all the same, and is restored again later."""
    ino = nulled_file(mount)
    copy = aside.copy_bytes

    def full(source: int, fd: int, start: int, end: int, pulse: Any) -> None:
        copy(source, fd, start, min(end, 50), pulse)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(refill, "copy_bytes", full)
        (told,) = restore(mount)
    assert told["reason"] == os.strerror(errno.ENOSPC)
    assert told["ranges"], "the cache may hold nulls of it"
    mount.write(ino, BLOCK, b"again")
    mount.settle()
    assert not [m for m in mount.log if m["type"] == "inconsistent"]
    (told,) = restore(mount)
    assert "reason" not in told
    assert (mount.home / "f").read_bytes()[:BLOCK] == OLD[:BLOCK]


class Killed(BaseException):
    pass


def kill_while_it_is_restored(
    mount: FakeMount, monkeypatch: pytest.MonkeyPatch, step: str = "copy"
) -> None:
    copy, land = aside.copy_bytes, refill.Refiller._land

    def killed_copy(source: int, fd: int, start: int, end: int, pulse: Any) -> None:
        copy(source, fd, start, end - 7, pulse)
        raise Killed

    def killed_land(*args: Any) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        if step == "copy":
            patched.setattr(refill, "copy_bytes", killed_copy)
        else:
            patched.setattr(refill.Refiller, "_land", killed_land)
        assert mount.gateway is not None
        mount.gateway.receive({"type": "restore", "rid": 1, "job": JOB, "path": None})
        assert mount.gateway._engine is not None
        mount.gateway._engine.trash._pool.shutdown(wait=True)
    mount.gateway._engine.trash._busy = False
    mount.stop()
    assert states(mount) == ["restoring"]
    assert land is refill.Refiller._land


@pytest.mark.parametrize("first", ["replay", "restore"])
def test_another_file_in_the_place_of_one_half_restored(
    mount: FakeMount, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    """It is not taken for our own doing: somebody may have moved it there who may not open it."""
    ino = nulled_file(mount)
    kill_while_it_is_restored(mount, monkeypatch)
    (mount.home / "secret").write_bytes(secret := bytes(2 * BLOCK) + b"a secret" * 12 + b"....")
    (mount.home / "secret").chmod(0o600)
    (mount.home / "secret").rename(mount.home / "f")
    start(mount)
    if first == "replay":
        mount.write(ino, BLOCK, b"again")
        mount.gateway.receive({"type": "flush", "through": mount.next_id})  # type: ignore[union-attr]
        mount.await_message("inconsistent")
    else:
        assert "changed at home" in restore(mount)[0]["reason"]
    reply, data = mount.request("fetch", ino=ino, start=2 * BLOCK, end=2 * BLOCK + 100)
    assert reply["errno"] and not data
    assert (mount.home / "f").read_bytes() == secret


@pytest.mark.parametrize("step", ["copy", "record"])
@pytest.mark.parametrize("first", ["replay", "restore"])
def test_killed_while_it_is_restored(
    mount: FakeMount, monkeypatch: pytest.MonkeyPatch, step: str, first: str
) -> None:
    """The next gateway knows that home's version of the file is our own doing."""
    ino = nulled_file(mount)
    kill_while_it_is_restored(mount, monkeypatch, step)
    (mount.home / "f").touch()  # what a clock says that went on
    start(mount)
    if first == "replay":
        mount.write(ino, BLOCK, b"again")
        mount.settle()
    (told,) = restore(mount)
    assert "reason" not in told
    begin = b"again" if first == "replay" else OLD[BLOCK : BLOCK + 5]
    expected = OLD[:BLOCK] + begin + OLD[BLOCK + 5 :]
    assert (mount.home / "f").read_bytes() == expected
    assert not [m for m in mount.log if m["type"] == "inconsistent"]
    assert (mount.home / "f").stat().st_mtime_ns == mount.get(ino, "mtime")


def test_told_again_until_it_is_taken_in(mount: FakeMount) -> None:
    nulled_file(mount)
    first, _ = mount.request("restore", job=JOB, path=None, after=0)
    mount.stop()  # the mount process was killed before it had taken it in
    start(mount)
    again, _ = mount.request("restore", job=JOB, path=None, after=0)
    assert again["entries"] == first["entries"] != []
    last, _ = mount.request("restore", job=JOB, path=None, after=again["next"])
    assert (last["entries"], last["next"]) == ([], None)
    last, _ = mount.request("restore", job=JOB, path=None, after=0)
    assert last["entries"] == []


# -- entries that come back beside ---------------------------------------------------------------


def changed_file(mount: FakeMount, name: bytes = b"f", parent: int = ROOT, path: str = "") -> int:
    """A cached file that somebody changed at home: a resync moves that one aside."""
    at = mount.home / path / os.fsdecode(name)
    at.write_text("old")
    ino = mount.adopt(name, parent, path, cached=True)
    at.write_bytes(b"of home, " + name)
    os.utime(at, ns=(T0, T0))
    return ino


def test_beside_the_present_one(mount: FakeMount) -> None:
    (mount.home / "d").mkdir()
    parent = mount.adopt(b"d")
    name = b"\xff \n"
    changed_file(mount, name, parent, "d")
    start(mount)
    resync(mount)
    directory = mount.home / "d"
    assert (directory / os.fsdecode(name)).read_text() == "old"
    times = directory.stat().st_mtime_ns
    (told,) = restore(mount, b"d")
    at = directory / os.fsdecode(name + b".restored-3")
    assert at.read_bytes() == b"of home, " + name
    assert told["restored"] == b"d/" + name + b".restored-3"
    assert told["parent"] == parent
    st = at.stat()
    assert tuple(told["entry"]) == (
        name + b".restored-3", st.st_mode, st.st_uid, st.st_gid, st.st_size, T0, T0,
        st.st_ctime_ns, st.st_ino, 1, 0, None, None,
    )  # fmt: skip
    assert directory.stat().st_mtime_ns == times, "as the cache's"


def test_nulls_do_not_point_at_what_came_back(mount: FakeMount) -> None:
    """The whole of a changed file comes back beside; what is null in the present one stays so."""
    ino = partial(mount)
    start(mount)
    (mount.home / "f").write_bytes(b"of a stranger")
    resync(mount)
    (told,) = restore(mount, b"f")
    assert told["restored"] == b"f.restored-3"
    mount.stop()
    journal = journal_of(mount)
    assert journal.query("SELECT DISTINCT ino, trash FROM nulled") == [(ino, None)]
    journal.close()


def test_names_that_are_taken(mount: FakeMount) -> None:
    """At home, or in the cache by something that home does not have yet."""
    changed_file(mount)
    (mount.home / "f.restored-3").write_text("somebody's")
    start(mount)
    resync(mount)
    assert mount.gateway is not None
    mount.gateway.receive({"type": "run", "stopped": True, "needs_resync": False})
    mount.make(b"f.restored-3.2", b"ours, pending")
    (told,) = restore(mount)
    assert told["restored"] == b"f.restored-3.3"
    assert (mount.home / "f.restored-3").read_text() == "somebody's"


def test_a_name_as_long_as_a_name_can_be(mount: FakeMount) -> None:
    changed_file(mount, b"n" * 255)
    start(mount)
    resync(mount)
    (told,) = restore(mount)
    assert told["restored"] == b"n" * 244 + b".restored-3"


@pytest.mark.parametrize("instead", ["nothing", "a file", "a symlink"])
def test_where_its_directory_is_gone(mount: FakeMount, tmp_path: Path, instead: str) -> None:
    (mount.home / "d").mkdir()
    parent = mount.adopt(b"d")
    changed_file(mount, b"f", parent, "d")
    start(mount)
    resync(mount)
    (mount.home / "d").rename(tmp_path / "outside")
    if instead == "a file":
        (mount.home / "d").touch()
    elif instead == "a symlink":
        (mount.home / "d").symlink_to(tmp_path / "outside")
    (told,) = restore(mount)
    assert (told["restored"], told["parent"]) == (b"d_f.restored-3", ROOT)
    assert os.listdir(tmp_path / "outside") == ["f"]


def test_a_directory_that_was_in_the_way(mount: FakeMount) -> None:
    (mount.home / "f").write_text("old")
    mount.adopt(b"f", cached=True)
    (mount.home / "f").unlink()
    (mount.home / "f").mkdir()
    (mount.home / "f" / "inner").write_text("of home")
    start(mount)
    resync(mount)
    assert (mount.home / "f").read_text() == "old"
    (told,) = restore(mount)
    assert (mount.home / "f.restored-3" / "inner").read_text() == "of home"
    assert stat.S_ISDIR(told["entry"][1])


def test_a_directory_that_the_cache_does_not_know(mount: FakeMount) -> None:
    (mount.home / "d").mkdir()
    parent = mount.adopt(b"d")
    changed_file(mount, b"f", parent, "d")
    start(mount)
    resync(mount)
    mount.rename(b"d", b"e")
    mount.settle()
    (mount.home / "d").mkdir()  # somebody's new one
    (told,) = restore(mount)
    assert (told["restored"], told["parent"]) == (b"d/f.restored-3", None)


def test_killed_between_the_move_and_its_record(
    mount: FakeMount, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed_file(mount)
    start(mount)
    resync(mount)
    sync = Home.sync_directory

    def killed(home: Home, path: tuple[bytes, ...]) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(Home, "sync_directory", killed)
        assert mount.gateway is not None and mount.gateway._engine is not None
        mount.gateway.receive({"type": "restore", "rid": 1, "job": JOB, "path": None})
        mount.gateway._engine.trash._pool.shutdown(wait=True)
    mount.gateway._engine.trash._busy = False
    mount.stop()
    assert sync is Home.sync_directory
    start(mount)
    (told,) = restore(mount)
    assert told["restored"] == b"f.restored-3"
    assert sorted(os.listdir(mount.home)) == [".afm", "f", "f.restored-3"]


def test_what_an_administrator_took_out_of_the_trash(mount: FakeMount) -> None:
    changed_file(mount)
    start(mount)
    resync(mount)
    for path in trash(mount).iterdir():
        path.unlink()
    (told,) = restore(mount)
    assert told["reason"] == "it is not in home's trash any more"


def test_many(mount: FakeMount, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trash_requests, "ROWS", 2)
    for n in range(5):
        changed_file(mount, b"f%d" % n)
    start(mount)
    resync(mount)
    told = restore(mount)
    assert sorted(t["restored"] for t in told) == [b"f%d.restored-3" % n for n in range(5)]
    assert mount.request("restore", job=JOB + 1, path=None)[0]["entries"] == []


def test_home_is_away(mount: FakeMount) -> None:
    changed_file(mount)
    start(mount)
    resync(mount)
    mount.home.rename(mount.home.parent / "away")
    reply, _ = mount.request("restore", job=JOB, path=None)
    assert reply["errno"] == errno.EHOSTDOWN
    reply, _ = mount.request("empty", job=JOB)
    assert reply["errno"] == errno.EHOSTDOWN


# -- emptying ------------------------------------------------------------------------------------


def test_emptied(mount: FakeMount) -> None:
    ino = nulled_file(mount)
    changed_file(mount, b"g")
    resync(mount, JOB + 1)
    reply, _ = mount.request("empty", job=JOB)
    assert (reply["errno"], reply["count"], reply["bytes"]) == (0, 1, len(OLD))
    assert os.listdir(mount.home / ".afm" / ".afmtrash") == [str(JOB + 1)]
    assert restore(mount) == []
    mount.stop()
    journal = journal_of(mount)
    assert journal.query("SELECT job FROM trash") == [(JOB + 1,)]
    assert journal.query("SELECT DISTINCT ino, trash FROM nulled") == [(ino, None)]
    journal.close()


def test_what_is_not_there_is_not_emptied(mount: FakeMount) -> None:
    start(mount)
    reply, _ = mount.request("empty", job=99)
    assert (reply["errno"], reply["reason"]) == (errno.ENOENT, "there is nothing of ID 99")


def test_all_of_it_but_what_is_running(mount: FakeMount) -> None:
    nulled_file(mount)
    changed_file(mount, b"g")
    resync(mount, JOB + 1)
    (mount.home / ".afm" / ".afmtrash" / "99").mkdir()  # of a gateway.db that is lost
    assert mount.gateway is not None
    mount.gateway.receive({"type": "run", "stopped": True, "needs_resync": False})
    record = {"id": JOB + 1, "kind": "resync", "bound": mount.next_id - 1, "manual": True}
    mount.gateway.receive({"type": "job", "job": record})
    reply, _ = mount.request("empty", job=JOB + 1)
    assert (reply["errno"], reply["reason"]) == (errno.EBUSY, "resync 4 is running")
    reply, _ = mount.request("empty", job=trash_requests.ALL)
    assert (reply["errno"], reply["count"]) == (0, 1)
    assert os.listdir(mount.home / ".afm" / ".afmtrash") == [str(JOB + 1)]


def test_a_tree_is_emptied_and_nothing_outside(mount: FakeMount, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("kept")
    start(mount)
    top = trash(mount) / "7"
    at = top
    for depth in range(3 * DEEPEST):
        at = at / f"d{depth}"
    at.mkdir(parents=True)
    (at / "deep").write_text("12345")
    (top / "to outside").symlink_to(outside)
    (top / os.fsdecode(b"\xff")).symlink_to(outside / "kept")
    os.link(outside / "kept", top / "linked")
    os.mkfifo(top / "fifo")
    (trash(mount) / "8").symlink_to(outside)
    reply, _ = mount.request("empty", job=JOB)
    assert (reply["errno"], reply["count"], reply["bytes"]) == (0, 2, 5)
    assert not trash(mount).exists()
    assert (outside / "kept").read_text() == "kept"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts")
@pytest.mark.parametrize("bound", [False, True])
def test_nothing_that_is_mounted_is_emptied(mount: FakeMount, tmp_path: Path, bound: bool) -> None:
    start(mount)
    (trash(mount) / "7" / "m").mkdir(parents=True)
    (trash(mount) / "8").write_text("goes")
    (tmp_path / "other").mkdir()
    where = trash(mount) / "7" / "m"
    how = ["--bind", str(tmp_path / "other")] if bound else ["-t", "tmpfs", "none"]
    subprocess.run(["mount", *how, where], check=True)
    try:
        (where / "kept").write_text("kept")
        reply, _ = mount.request("empty", job=JOB)
        assert (reply["errno"], reply["count"]) == (errno.EBUSY, 1)
        assert (where / "kept").read_text() == "kept"
        assert os.listdir(trash(mount)) == ["7"]
    finally:
        subprocess.run(["umount", "-l", where], check=True)
    reply, _ = mount.request("empty", job=JOB)
    assert reply["errno"] == 0 and not trash(mount).exists()


def test_a_trash_that_leads_out_of_home(mount: FakeMount, tmp_path: Path) -> None:
    (tmp_path / "outside" / str(JOB)).mkdir(parents=True)
    (tmp_path / "outside" / str(JOB) / "1").write_text("kept")
    start(mount)
    (mount.home / ".afm" / ".afmtrash").symlink_to(tmp_path / "outside")
    for job in (JOB, trash_requests.ALL):
        reply, _ = mount.request("empty", job=job)
        assert reply["errno"] == errno.ENOTDIR
    assert (tmp_path / "outside" / str(JOB) / "1").read_text() == "kept"
