"""What a resync makes of a home that was changed in a way that needs care.

Each of these was found by the machine in tests/model/test_resync_machine.py.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from pathlib import Path

import pytest

from afmfs.gateway.home.home import Home
from afmfs.gateway.home.trouble import HomeAway
from afmfs.gateway.job.examine import Examiner
from afmfs.gateway.replay.execute import Directories
from afmfs.model.entry import ROOT, UNLINKED
from tests.gateway.fake_mount import BLOCK, FakeMount

JOB = 3
DATA = bytes([1]) * BLOCK + bytes([2]) * BLOCK


def start(mount: FakeMount) -> None:
    """Nothing is replayed but by a job."""
    mount.start(needs_resync=True)
    mount.await_message("connected")


def begin(mount: FakeMount, job: int = JOB, bound: int = 0) -> None:
    """`bound`: the last entry that it is about, if not the last one of all."""
    assert mount.gateway is not None
    record = {"id": job, "kind": "resync", "bound": bound or mount.next_id - 1, "manual": True}
    mount.gateway.receive({"type": "job", "job": record})


def resync(mount: FakeMount, job: int = JOB, bound: int = 0) -> dict[int, str]:
    """What was told of inodes."""
    begin(mount, job, bound)
    assert mount.gateway is not None and mount.gateway._engine is not None
    mount.await_message("progress", id=job, phase="done")
    journal = mount.gateway._engine.journal
    told = dict(journal.query("SELECT ino, result FROM outcome WHERE id=0"))
    mount.retire()
    mount.gateway.receive({"type": "job_taken", "id": job})
    return told


def moved(mount: FakeMount, job: int = JOB) -> list[Path]:
    """What is in the trash."""
    trash = mount.home / f".afm/.afmtrash/{job}"
    return sorted(path for path in trash.glob("*") if path.name != "index")


def uncached(mount: FakeMount, name: bytes, parent: int = ROOT, path: str = "") -> int:
    """A file that only home has."""
    (mount.home / path / os.fsdecode(name)).write_bytes(DATA)
    return mount.adopt(name, parent, path)


def directory(mount: FakeMount, name: bytes) -> int:
    (mount.home / os.fsdecode(name)).mkdir()
    return mount.adopt(name)


# -- cut short -------------------------------------------------------------------------------------


def test_the_times_of_a_directory_are_set_by_whoever_goes_on(
    mount: FakeMount, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was made in it before is not made once more, and is what changed its times."""
    parent = directory(mount, b"d")
    ino = uncached(mount, b"f", parent, "d")
    mount.put(ino, 0, DATA)
    mount.mark(ino, 0, len(DATA))
    os.utime(mount.home / "d", ns=(5, 7))
    mount.update(parent, mtime=7)
    (mount.home / "d/f").unlink()
    finish, cut = Directories.finish, []

    def cut_short(self: Directories) -> None:
        if (mount.home / "d/f").exists() and not cut:
            cut.append(True)
            raise HomeAway("Disconnected", "cut short")
        finish(self)

    monkeypatch.setattr(Directories, "finish", cut_short)
    start(mount)
    resync(mount)
    assert cut
    assert (mount.home / "d/f").read_bytes() == DATA
    assert (mount.home / "d").stat().st_mtime_ns == 7


# -- pending changes of names ----------------------------------------------------------------------


def test_a_file_is_moved_into_a_directory_that_is_not_at_home_yet(mount: FakeMount) -> None:
    """Left under its old name it would be nobody's, and lost here."""
    uncached(mount, b"f")
    start(mount)
    new = mount.mkdir(b"new")
    mount.rename(b"f", b"g", ROOT, new)
    resync(mount)
    assert (mount.home / "new/g").read_bytes() == DATA
    assert not (mount.home / "f").exists()
    assert mount.get(new, "mode") == (mount.home / "new").stat().st_mode


def test_a_file_is_moved_into_a_directory_that_home_has_lost(mount: FakeMount) -> None:
    old = directory(mount, b"d")
    uncached(mount, b"f")
    start(mount)
    mount.rename(b"f", b"g", ROOT, old)
    (mount.home / "d").rmdir()
    resync(mount)
    assert (mount.home / "d/g").read_bytes() == DATA


@pytest.mark.parametrize("made", [False, True])
def test_a_file_is_moved_into_a_directory_that_home_has_lost_and_that_is_moved(
    mount: FakeMount, made: bool
) -> None:
    """The one that was made for it, or that somebody made, is moved with it."""
    old = directory(mount, b"d")
    uncached(mount, b"f")
    start(mount)
    mount.rename(b"f", b"g", ROOT, old)
    mount.rename(b"d", b"e")
    (mount.home / "d").rmdir()
    if made:
        (mount.home / "x").mkdir()
        (mount.home / "x").rename(mount.home / "d")
    resync(mount)
    assert (mount.home / "e/g").read_bytes() == DATA
    assert not (mount.home / "d").exists()


def test_a_file_is_moved_into_a_directory_in_whose_place_is_a_symlink(mount: FakeMount) -> None:
    outside = mount.home.parent / "outside"
    outside.mkdir()
    old = directory(mount, b"d")
    uncached(mount, b"f")
    start(mount)
    mount.rename(b"f", b"g", ROOT, old)
    (mount.home / "d").rmdir()
    (mount.home / "d").symlink_to(outside)
    resync(mount)
    assert not (mount.home / "d").is_symlink()
    assert (mount.home / "d/g").read_bytes() == DATA
    assert not list(outside.iterdir())
    (aside,) = moved(mount)
    assert aside.readlink() == outside


@pytest.mark.parametrize("gone", ["a", "b"])
def test_of_two_that_were_exchanged_one_is_still_there(mount: FakeMount, gone: str) -> None:
    """It goes to its new place: what only home has of it must not count as lost."""
    inos = {"a": uncached(mount, b"a"), "b": uncached(mount, b"b")}
    start(mount)
    mount.exchange(b"a", b"b")
    (mount.home / gone).unlink()
    told = resync(mount)
    assert (mount.home / gone).read_bytes() == DATA
    assert not (mount.home / ("b" if gone == "a" else "a")).exists()
    assert told[inos[gone]] == "lost"


def test_of_two_that_were_exchanged_one_was_replaced(mount: FakeMount) -> None:
    uncached(mount, b"a")
    uncached(mount, b"b")
    start(mount)
    mount.exchange(b"a", b"b")
    (mount.home / "new").write_bytes(b"somebody's")
    (mount.home / "new").rename(mount.home / "b")
    resync(mount)
    assert (mount.home / "b").read_bytes() == DATA
    (aside,) = moved(mount)
    assert aside.read_bytes() == b"somebody's"


def test_what_a_file_was_to_replace_that_home_has_lost(mount: FakeMount) -> None:
    uncached(mount, b"f")
    uncached(mount, b"g")
    start(mount)
    mount.rename(b"f", b"g")
    (mount.home / "f").unlink()
    resync(mount)
    assert not (mount.home / "g").exists()
    (aside,) = moved(mount)
    assert aside.read_bytes() == DATA


@pytest.mark.parametrize("found", [False, True])
def test_a_name_that_is_replaced_of_a_file_that_has_another(mount: FakeMount, found: bool) -> None:
    """It is the only one that home has, as something is in the other's place: it is not thrown
    away with what only home has of the file."""
    (mount.home / "f").write_bytes(DATA)
    (mount.home / "g").hardlink_to(mount.home / "f")
    ino = mount.adopt(b"f")
    mount.add_name(ROOT, b"g", ino)
    uncached(mount, b"over")
    start(mount)
    mount.rename(b"over", b"f")
    (mount.home / "g").unlink()
    (mount.home / "g").mkdir()
    if not found:
        (mount.home / "over").unlink()
    resync(mount)
    assert (mount.home / "g").stat().st_ino == mount.get(ino, "home_ino")
    assert (mount.home / "f").exists() == found
    (aside,) = moved(mount)
    assert aside.is_dir()


def test_a_name_that_is_removed_where_the_other_one_leads_to_a_copy(mount: FakeMount) -> None:
    """Which is the file from then on."""
    (mount.home / "f").write_bytes(DATA)
    (mount.home / "g").hardlink_to(mount.home / "f")
    ino = mount.adopt(b"f")
    mount.add_name(ROOT, b"g", ino)
    start(mount)
    mount.remove(b"f")
    (mount.home / "g").unlink()
    shutil.copy2(mount.home / "f", mount.home / "g")
    copy = (mount.home / "g").stat().st_ino
    (mount.home / "f").write_bytes(b"cut short")
    assert resync(mount) == {ino: "adopted"}
    assert (mount.home / "g").stat().st_ino == copy
    assert [path.read_bytes() for path in moved(mount)] == [b"cut short"]


# -- what is no file -------------------------------------------------------------------------------


def test_a_fifo_that_has_one_of_two_names_at_home(mount: FakeMount) -> None:
    """Its attributes are set by the name that is there, before it is given the other one."""
    start(mount)
    ino = mount.make(b"b", mode=stat.S_IFIFO | 0o600)
    mount.link(ino, b"a")
    resync(mount)
    (mount.home / "a").unlink()
    mount.link(ino, b"c")
    resync(mount, JOB + 1)
    assert mount.home.joinpath("a").samefile(mount.home / "b")
    assert mount.home.joinpath("c").samefile(mount.home / "b")


# -- files with nothing cached ---------------------------------------------------------------------


def test_a_size_that_is_pending_behind_a_new_name(mount: FakeMount) -> None:
    """The name is settled first, and its entry the inode's last: the older one is still due."""
    ino = uncached(mount, b"f")
    start(mount)
    mount.truncate(ino, 10)
    mount.update(ino, changed=mount.rename(b"f", b"g"))
    mount.update(ino, retired=mount.get(ino, "changed"))
    resync(mount)
    assert (mount.home / "g").read_bytes() == DATA[:10]


def test_a_file_that_was_emptied(mount: FakeMount) -> None:
    """There are no bytes to push that would have it opened for writing."""
    ino = uncached(mount, b"f")
    start(mount)
    mount.truncate(ino, 0)
    mount.update(ino, whole=1)
    assert resync(mount) == {ino: "resynced"}
    assert (mount.home / "f").read_bytes() == b""


@pytest.mark.parametrize("size", [0, 10])
def test_a_file_that_was_cut_and_that_home_has_lost(mount: FakeMount, size: int) -> None:
    """Emptied it is made anew: nothing is missing of it. Its size is no sign of a directory that
    was never read."""
    ino = uncached(mount, b"f")
    start(mount)
    mount.truncate(ino, size)
    mount.update(ino, whole=int(not size))
    (mount.home / "f").unlink()
    assert resync(mount) == {ino: "lost" if size else "resynced"}
    assert (mount.home / "f").exists() == (not size)


def test_a_link_that_is_pending(mount: FakeMount) -> None:
    """The entry counts as executed with its object: so the object must get its name."""
    ino = uncached(mount, b"f")
    start(mount)
    mount.link(ino, b"g")
    resync(mount)
    assert (mount.home / "f").samefile(mount.home / "g")


def test_a_link_that_is_pending_of_a_file_that_was_changed(mount: FakeMount) -> None:
    ino = uncached(mount, b"f")
    start(mount)
    mount.link(ino, b"g")
    (mount.home / "f").write_bytes(b"another version")
    assert resync(mount)[ino] == "adopted"
    assert (mount.home / "f").samefile(mount.home / "g")
    assert (mount.home / "f").read_bytes() == b"another version"


def left_by_one_of_two_names(mount: FakeMount) -> int:
    """A file f that is also g, and at home no f any more."""
    (mount.home / "f").write_bytes(DATA)
    (mount.home / "g").hardlink_to(mount.home / "f")
    ino = mount.adopt(b"f")
    mount.add_name(ROOT, b"g", ino)
    start(mount)
    (mount.home / "f").unlink()
    return ino


def test_a_copy_in_the_place_of_one_of_two_names(mount: FakeMount) -> None:
    """The file is the one that is known, not the one of that size and time that comes first."""
    left_by_one_of_two_names(mount)
    shutil.copy2(mount.home / "g", mount.home / "f")
    known = (mount.home / "g").stat().st_ino
    assert "adopted" not in resync(mount).values()
    assert (mount.home / "f").stat().st_ino == (mount.home / "g").stat().st_ino == known
    assert [path.read_bytes() for path in moved(mount)] == [DATA]


def test_one_of_two_names_is_of_another_type(mount: FakeMount) -> None:
    """The other one leads to a file still: of another version, but not lost."""
    ino = left_by_one_of_two_names(mount)
    (mount.home / "f").symlink_to("g")
    (mount.home / "g").write_bytes(b"another version")
    assert resync(mount) == {ino: "adopted"}
    assert (mount.home / "f").samefile(mount.home / "g")
    assert (mount.home / "f").read_bytes() == b"another version"


def test_one_of_two_names_is_another_file_and_the_other_one_was_changed(mount: FakeMount) -> None:
    """The one that is still the same object is the file, whatever it holds by now."""
    ino = left_by_one_of_two_names(mount)
    (mount.home / "f").write_bytes(b"somebody's")
    (mount.home / "g").write_bytes(b"another version")
    assert resync(mount) == {ino: "adopted"}
    assert (mount.home / "f").read_bytes() == b"another version"
    assert (mount.home / "f").samefile(mount.home / "g")
    assert [path.read_bytes() for path in moved(mount)] == [b"somebody's"]


def test_a_name_that_home_has_lost_of_a_file_that_it_has(mount: FakeMount) -> None:
    (mount.home / "f").write_bytes(DATA)
    (mount.home / "g").hardlink_to(mount.home / "f")
    ino = mount.adopt(b"f")
    mount.add_name(ROOT, b"g", ino)
    start(mount)
    (mount.home / "g").unlink()
    (mount.home / "g").write_bytes(b"in the way")
    resync(mount)
    assert (mount.home / "f").samefile(mount.home / "g")
    assert (mount.home / "f").read_bytes() == DATA
    (aside,) = moved(mount)
    assert aside.read_bytes() == b"in the way"


def test_a_file_of_another_name_that_was_linked_in_the_place_of_one(mount: FakeMount) -> None:
    """Taken over, the two would be one file at home, and two here that overwrite each other."""
    ino, other = uncached(mount, b"f"), uncached(mount, b"g")
    start(mount)
    (mount.home / "f").unlink()
    (mount.home / "f").hardlink_to(mount.home / "g")
    told = resync(mount)
    assert told == {ino: "lost"}
    assert (mount.home / "f").samefile(mount.home / "g")
    assert mount.get(other, "home_ino") == (mount.home / "g").stat().st_ino


def test_a_file_that_was_linked_in_the_place_of_one_and_moved_from_its_own(
    mount: FakeMount,
) -> None:
    """It is nobody's but the one's in whose place it is; at once, not when the other is lost."""
    ino, other = uncached(mount, b"f"), uncached(mount, b"g")
    start(mount)
    (mount.home / "f").unlink()
    (mount.home / "f").hardlink_to(mount.home / "g")
    (mount.home / "g").rename(mount.home / "elsewhere")
    assert resync(mount) == {ino: "adopted", other: "lost"}


def test_a_file_that_was_linked_in_the_place_of_one_of_two_names(mount: FakeMount) -> None:
    """The other name leads to a version of its own."""
    (mount.home / "f").write_bytes(DATA)
    (mount.home / "g").hardlink_to(mount.home / "f")
    ino = mount.adopt(b"f")
    mount.add_name(ROOT, b"g", ino)
    uncached(mount, b"h")
    start(mount)
    (mount.home / "f").unlink()
    (mount.home / "f").hardlink_to(mount.home / "h")
    (mount.home / "g").write_bytes(b"another version")
    assert resync(mount) == {ino: "adopted"}
    assert (mount.home / "f").samefile(mount.home / "g")
    assert (mount.home / "f").read_bytes() == b"another version"
    assert (mount.home / "h").read_bytes() == DATA


def test_two_that_were_linked_to_something_new(mount: FakeMount) -> None:
    """It is one of them that it is taken over by."""
    first, second = uncached(mount, b"f"), uncached(mount, b"g")
    start(mount)
    for name in ("f", "g"):
        (mount.home / name).unlink()
    (mount.home / "f").write_bytes(b"new")
    (mount.home / "g").hardlink_to(mount.home / "f")
    assert resync(mount) == {first: "adopted", second: "lost"}
    assert resync(mount, JOB + 1) == {second: "lost"}


def test_a_file_that_was_lost_as_another_had_it_and_is_linked_back(mount: FakeMount) -> None:
    """The version that was known of it is another's by now."""
    ino, other = uncached(mount, b"f"), uncached(mount, b"g")
    start(mount)
    (mount.home / "g").rename(mount.home / "f")
    assert resync(mount) == {ino: "adopted", other: "lost"}
    mount.db.execute("INSERT INTO lost VALUES (?,?)", (other, JOB))
    (mount.home / "g").hardlink_to(mount.home / "f")
    assert resync(mount, JOB + 1) == {other: "lost"}


def test_a_file_that_was_emptied_at_home(mount: FakeMount) -> None:
    """Taken over, it is all there: its attributes are the cache's, and no later resync's work."""
    ino = uncached(mount, b"f")
    start(mount)
    (mount.home / "f").write_bytes(b"")
    (mount.home / "f").chmod(0o600)
    assert resync(mount) == {ino: "adopted"}
    assert (mount.home / "f").stat().st_mode == mount.get(ino, "mode")


def test_a_file_that_was_moved_to_the_place_of_another(mount: FakeMount) -> None:
    ino, other = uncached(mount, b"f"), uncached(mount, b"g")
    start(mount)
    (mount.home / "g").rename(mount.home / "f")
    assert resync(mount) == {ino: "adopted", other: "lost"}


# -- versions --------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [False, True])
def test_a_version_that_was_changed_where_a_change_is_pending(mount: FakeMount, cut: bool) -> None:
    """As long as the known one, and the same where it is cached and clean: what is pending would
    overwrite what makes it another."""
    ino = uncached(mount, b"f")
    mount.put(ino, 0, DATA)
    mount.update(ino, whole=1)
    start(mount)
    if cut:
        mount.truncate(ino, BLOCK)
    else:
        mount.write(ino, BLOCK, b"x" * BLOCK)
    theirs = DATA[:BLOCK] + b"y" * BLOCK
    (mount.home / "f").write_bytes(theirs)
    resync(mount)
    assert (mount.home / "f").read_bytes() == DATA[:BLOCK] + (b"" if cut else b"x" * BLOCK)
    assert [path.read_bytes() for path in moved(mount)] == [theirs]


def test_a_version_that_holds_all_that_is_cached(mount: FakeMount) -> None:
    """Somebody's touch: nothing goes aside."""
    ino = uncached(mount, b"f")
    mount.put(ino, 0, DATA)
    mount.update(ino, whole=1)
    start(mount)
    os.utime(mount.home / "f", ns=(1, 1))
    resync(mount)
    assert moved(mount) == []
    assert (mount.home / "f").stat().st_mtime_ns == mount.get(ino, "mtime")


# -- while a job runs ------------------------------------------------------------------------------


def test_a_directory_that_goes_after_its_own_row_was_done(mount: FakeMount) -> None:
    """It is looked at once more, or what is in it could never come to home."""
    outside = mount.home.parent / "outside"
    outside.mkdir()
    start(mount)
    new = mount.mkdir(b"d")
    mount.make(b"f", b"data", parent=mount.mkdir(b"e", new))
    home, points = mount.home, mount.points

    def swap() -> None:
        if mount.points > points + 2 and (home / "d/e").exists() and not (home / "x").exists():
            (home / "d").rename(home / "x")
            (home / "d").symlink_to(outside)

    mount.on_point = swap
    resync(mount)
    assert (home / "x/e").exists()
    assert (home / "d/e/f").read_bytes() == b"data"
    assert not (home / "d").is_symlink()
    assert not list(outside.iterdir())


def test_a_file_that_is_replaced_while_its_push_is_interrupted(
    mount: FakeMount, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was decided is done again, but to the file that it was decided of."""
    monkeypatch.setattr("afmfs.gateway.job.job.PAUSE_S", 0)
    ino = uncached(mount, b"f")
    mount.put(ino, 0, DATA)
    mount.update(ino, whole=1)
    start(mount)
    mount.write(ino, 0, b"new")
    assert mount.gateway is not None and mount.gateway._engine is not None
    journal = mount.gateway._engine.journal
    theirs = mount.home / "theirs"
    theirs.write_bytes(b"theirs")

    def replace() -> None:
        """Once it is decided; which is kept, as nothing is done without a durable point."""
        decided = journal.query("SELECT 1 FROM priority WHERE ino=? AND verdict NOT NULL", (ino,))
        mount.point_ok = not (decided and theirs.exists())
        if not mount.point_ok:
            theirs.rename(mount.home / "f")

    mount.on_point = replace
    resync(mount)
    assert (mount.home / "f").read_bytes() == b"new" + DATA[3:]
    assert [path.read_bytes() for path in moved(mount)] == [b"theirs"]


def test_a_file_that_is_removed_here_while_it_is_looked_at(
    mount: FakeMount, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing tells of its version any more; it is not taken for one that was changed at home."""
    mount.put(uncached(mount, b"f"), 0, DATA)
    mount.update(mount.look_up(ROOT, b"f"), whole=1)
    start(mount)
    real, gone = Examiner._lstat, list[bool]()

    def removed_meanwhile(examiner: Examiner, place: tuple[int, bytes]) -> os.stat_result | None:
        if place == (ROOT, b"f") and not gone:
            gone.append(True)
            mount.remove(b"f")
        return real(examiner, place)

    monkeypatch.setattr(Examiner, "_lstat", removed_meanwhile)
    resync(mount)
    assert gone and moved(mount) == []
    assert mount.gateway is not None
    mount.gateway.receive({"type": "run", "stopped": False, "needs_resync": False})
    mount.settle()
    assert not (mount.home / "f").exists()


def test_a_file_that_went_aside_and_is_removed_here_while_the_job_runs(tmp_path: Path) -> None:
    """An older change of it waits in a batch of its own: that home lacks it is no news."""
    (tmp_path / "home").mkdir()
    mount = FakeMount(tmp_path / "cache", tmp_path / "home", async_delay_s=1000)
    uncached(mount, b"f")
    start(mount)
    changes: list[int] = []

    def meanwhile() -> None:
        if not changes:
            changes.append(mount.setattr(mount.look_up(ROOT, b"f"), mode=0o100600))
            changes.append(mount.remove(b"f"))
            (mount.home / "f").unlink()

    mount.on_point = meanwhile
    try:
        resync(mount)
        assert mount.gateway is not None
        mount.gateway.receive({"type": "run", "stopped": False, "needs_resync": False})
        mount.gateway.receive({"type": "flush", "through": changes[0]})
        mount.await_message("status", settled=True, through=changes[0])
        mount.settle()
        assert not mount.pending()
    finally:
        mount.close()


def test_a_file_that_was_moved_here_out_of_a_new_directory_that_is_gone(mount: FakeMount) -> None:
    """At home it is in that directory still, and is moved out of it by an entry that follows."""
    parent = mount.mkdir(b"d", mount.mkdir(b"above"))
    mount.make(b"f", DATA, parent=parent)
    bound = mount.next_id - 1
    start(mount)
    mount.rename(b"f", b"f", parent, ROOT)
    mount.remove(b"d", mount.look_up(ROOT, b"above"))
    mount.remove(b"above")
    resync(mount, bound=bound)
    assert mount.gateway is not None
    mount.gateway.receive({"type": "run", "stopped": False, "needs_resync": False})
    mount.settle()
    assert not mount.pending()
    assert (mount.home / "f").read_bytes() == DATA
    assert {path.name for path in mount.home.iterdir()} == {".afm", "f"}


def test_a_new_file_that_is_removed_here_before_a_job_that_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That home never had it is no news while an object that home refuses is left of the job."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "home is full")

    (tmp_path / "home").mkdir()
    mount = FakeMount(tmp_path / "cache", tmp_path / "home", async_delay_s=1000)
    mount.make(b"s", mode=stat.S_IFLNK | 0o777, target=b"nowhere")
    new = mount.make(b"f", DATA)
    bound = mount.next_id - 1
    monkeypatch.setattr(Home, "symlink", refuse)
    start(mount)
    change = mount.setattr(new, mode=stat.S_IFREG | 0o600)
    mount.remove(b"f")
    try:
        begin(mount, bound=bound)
        mount.await_message("progress", id=JOB, phase="waiting")
        assert mount.gateway is not None
        mount.gateway.receive({"type": "run", "stopped": False, "needs_resync": False})
        mount.gateway.receive({"type": "flush", "through": change})
        mount.await_message("status", settled=True, through=change)
        assert not any(message["type"] == "inconsistent" for message in mount.log)
    finally:
        mount.close()


@pytest.mark.parametrize("call", ["look", "write"])
def test_one_bad_file(mount: FakeMount, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """An input/output error of one object, at a home that answers: all else is pushed meanwhile."""
    (mount.home / "bad").write_bytes(bytes(9))
    number = (mount.home / "bad").stat().st_ino
    mount.write(mount.adopt(b"bad", cached=True), 0, b"new bytes")
    mount.make(b"good", DATA)
    repaired = False
    pwrite, look = os.pwrite, Home.lstat_anew

    def fail(is_bad: bool) -> None:
        if is_bad and not repaired:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def pwrite_badly(fd: int, data: bytes, offset: int) -> int:
        fail(call == "write" and os.fstat(fd).st_ino == number)
        return pwrite(fd, data, offset)

    def look_badly(home: Home, dirfd: int, name: bytes) -> os.stat_result:
        fail(call == "look" and name == b"bad")
        return look(home, dirfd, name)

    monkeypatch.setattr(os, "pwrite", pwrite_badly)
    monkeypatch.setattr(Home, "lstat_anew", look_badly)
    monkeypatch.setattr("afmfs.gateway.replay.backoff.BACK_OFF_S", 0.1)
    start(mount)
    begin(mount)
    event = mount.await_message("event", name="afmCmdRequeued")
    assert event["detail"]["errno"] == errno.EIO
    mount.await_message("progress", id=JOB, phase="waiting")
    assert (mount.home / "good").read_bytes() == DATA
    assert not [m for m in mount.log if m["type"] in ("away", "inconsistent")]
    repaired = True
    mount.await_message("progress", id=JOB, phase="done")
    assert (mount.home / "bad").read_bytes() == b"new bytes"


# -- what is removed here, and open ----------------------------------------------------------------


def removed_while_open(mount: FakeMount, name: bytes) -> int:
    """Of two blocks the first is cached, and written to."""
    ino = partial(mount, name)
    mount.write(ino, 0, b"new")
    mount.rename(name, b"%x" % ino, ROOT, UNLINKED)
    mount.update(ino, nlink=0)
    return ino


@pytest.mark.parametrize("found", ["missing", "replaced"])
def test_a_file_that_is_removed_while_open_and_that_home_has_lost(
    mount: FakeMount, found: str
) -> None:
    """It was reported as missing again and again: each read of it asked for another resync."""
    ino = removed_while_open(mount, b"f")
    if found == "replaced":
        (mount.home / "other").write_bytes(b"another")
        (mount.home / "other").rename(mount.home / "f")
    else:
        (mount.home / "f").unlink()
    start(mount)
    assert resync(mount) == {ino: "lost"}
    assert mount.pending() == [] and moved(mount) == []
    assert not (mount.home / f".afm/unlinked/{ino:x}").exists()
    assert (mount.home / "f").exists() == (found == "replaced")


def test_a_file_that_is_removed_while_open_is_kept_as_it_is(mount: FakeMount) -> None:
    ino = removed_while_open(mount, b"f")
    start(mount)
    assert resync(mount).get(ino) != "lost"
    assert (mount.home / f".afm/unlinked/{ino:x}").read_bytes() == DATA
    assert mount.pending() == [] and moved(mount) == []


def test_a_file_with_two_names_that_was_swapped_with_another(mount: FakeMount) -> None:
    """Nothing of either is cached. The other one is looked at first, under the name where home has
    this one now, changed, which is this one's still."""
    (mount.home / "a").write_bytes(b"other")
    mount.adopt(b"a")
    (mount.home / "x").write_bytes(DATA)
    os.link(mount.home / "x", mount.home / "y")
    ino = mount.adopt(b"x")
    mount.add_name(ROOT, b"y", ino)
    start(mount)
    (mount.home / "a").rename(mount.home / "old")
    (mount.home / "y").rename(mount.home / "a")
    (mount.home / "old").rename(mount.home / "y")
    os.utime(mount.home / "x")
    resync(mount)
    assert [(mount.home / name).read_bytes() for name in "xy"] == [DATA, DATA]


# -- uncached bytes that are null already ----------------------------------------------------------


def partial(mount: FakeMount, name: bytes) -> int:
    """Of two blocks the first is cached."""
    ino = uncached(mount, name)
    mount.put(ino, 0, DATA[:BLOCK])
    mount.mark(ino, 0, BLOCK)
    return ino


def test_a_hole_by_which_a_file_has_grown_is_not_nulled_again(mount: FakeMount) -> None:
    """Home has it after the first resync, and the cache takes it for something that home has."""
    ino = partial(mount, b"f")
    start(mount)
    mount.write(ino, 5 * BLOCK, b"end")
    resync(mount)
    assert [path.read_bytes() for path in moved(mount)] == [DATA]
    before = (mount.home / "f").stat()
    mount.update(ino, home_valid=before.st_size)
    resync(mount, JOB + 1)
    assert (mount.home / "f").stat().st_ino == before.st_ino
    assert moved(mount, JOB + 1) == []


def test_what_was_nulled_once_and_taken_over_since_is_nulled_again(mount: FakeMount) -> None:
    """The bytes are home's, no nulls of ours."""
    ino = partial(mount, b"f")
    start(mount)
    resync(mount)
    mount.db.execute("DELETE FROM span WHERE ino=?", (ino,))  # evicted
    (mount.home / "f").write_bytes(DATA[::-1])
    assert resync(mount, JOB + 1)[ino] == "adopted"
    mount.put(ino, 0, DATA[::-1][:BLOCK])
    mount.mark(ino, 0, BLOCK)
    resync(mount, JOB + 2)
    assert (mount.home / "f").read_bytes() == DATA[::-1][:BLOCK] + bytes(BLOCK)
    assert [path.read_bytes() for path in moved(mount, JOB + 2)] == [DATA[::-1]]


def test_another_file_that_passes_for_the_one_that_was_nulled_is_nulled(mount: FakeMount) -> None:
    """All that is cached agrees; of what is null in it nothing is known."""
    partial(mount, b"f")
    start(mount)
    resync(mount)
    before = (mount.home / "f").stat()
    (mount.home / "copy").write_bytes(DATA)
    os.utime(mount.home / "copy", ns=(before.st_atime_ns, before.st_mtime_ns))
    (mount.home / "copy").rename(mount.home / "f")
    resync(mount, JOB + 1)
    assert (mount.home / "f").read_bytes() == DATA[:BLOCK] + bytes(BLOCK)
    assert [path.read_bytes() for path in moved(mount, JOB + 1)] == [DATA]


def test_what_was_written_where_a_resync_made_nulls_is_not_null(mount: FakeMount) -> None:
    """Evicted and changed, it has to be kept like any other byte."""
    ino = partial(mount, b"f")
    start(mount)
    resync(mount)
    mount.write(ino, BLOCK, b"x" * BLOCK)
    resync(mount, JOB + 1)
    mount.db.execute("DELETE FROM span WHERE ino=? AND start>=?", (ino, BLOCK))  # evicted
    resync(mount, JOB + 2)
    assert (mount.home / "f").read_bytes() == DATA[:BLOCK] + bytes(BLOCK)
    assert [path.read_bytes() for path in moved(mount, JOB + 2)] == [DATA[:BLOCK] + b"x" * BLOCK]
