"""Moving aside what home alone holds: once, whole, and without ever leaving home."""

from __future__ import annotations

import errno
import json
import os
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from afmfs.gateway.home.home import Home
from afmfs.gateway.state.journal import Journal
from afmfs.gateway.trash import aside
from afmfs.gateway.trash import book as trash
from afmfs.gateway.trash.book import Nulled, TrashBook, Trashed, move_aside, write_index
from afmfs.model.resync import CHANGED

NS = 1_600_000_000_123_456_789
JOB = 7


@pytest.fixture
def home(root: Path) -> Iterator[Home]:
    (root / ".afm").mkdir()
    opened = Home(os.fsencode(root))
    yield opened
    opened.close()


@pytest.fixture
def book(tmp_path: Path) -> Iterator[TrashBook]:
    journal = Journal(tmp_path / "gateway")
    yield TrashBook(journal)
    journal.close()


@pytest.fixture
def elsewhere(root: Path) -> Iterator[Path]:
    """A directory of home that is on another file system."""
    if os.geteuid() != 0:
        pytest.skip("only root mounts")
    path = root / "mounted"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", path], check=True)
    yield path
    subprocess.run(["umount", "-l", path], check=True)


def in_trash(root: Path, number: int) -> Path:
    return root / ".afm" / ".afmtrash" / str(JOB) / str(number)


def fails(code: int) -> pytest.RaisesExc[OSError]:
    return pytest.raises(OSError, check=lambda exc: exc.errno == code)


# -- moving --------------------------------------------------------------------------------------


def test_a_file_keeps_all_it_has(home: Home, root: Path) -> None:
    (root / "f").write_bytes(b"bytes")
    os.utime(root / "f", ns=(NS, NS))
    before = (root / "f").stat()
    assert move_aside(home, JOB, 1, home.root, b"f")
    after = in_trash(root, 1).stat()
    assert not (root / "f").exists()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, NS)
    for path in (root / ".afm" / ".afmtrash", in_trash(root, 1).parent):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700


def test_a_crash_between_move_and_record(home: Home, root: Path) -> None:
    """The second attempt finds another thing under the name, and leaves it there."""
    (root / "f").write_text("of home")
    assert move_aside(home, JOB, 1, home.root, b"f")
    (root / "f").write_text("of the cache")
    assert move_aside(home, JOB, 1, home.root, b"f")
    assert (root / "f").read_text() == "of the cache"
    assert in_trash(root, 1).read_text() == "of home"
    assert not move_aside(home, JOB, 2, home.root, b"gone")


def test_a_directory_with_what_is_in_it(home: Home, root: Path) -> None:
    (root / "d" / "e").mkdir(parents=True)
    (root / "d" / "e" / "f").touch()
    home.directory((b"d", b"e"))
    assert move_aside(home, JOB, 1, home.root, b"d")
    assert (in_trash(root, 1) / "e" / "f").exists()
    with fails(errno.ENOENT):  # paths that were walked before are forgotten
        home.directory((b"d", b"e"))


def test_a_symlink_is_moved_itself(home: Home, root: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("untouched")
    (root / "s").symlink_to(tmp_path / "outside")
    assert move_aside(home, JOB, 1, home.root, b"s")
    assert os.readlink(in_trash(root, 1)) == str(tmp_path / "outside")
    assert (tmp_path / "outside").read_text() == "untouched"


@pytest.mark.parametrize("where", [".afm/.afmtrash", ".afm/.afmtrash/7"])
def test_a_trash_that_leads_out_of_home(home: Home, root: Path, tmp_path: Path, where: str) -> None:
    (tmp_path / "outside").mkdir()
    (root / where).parent.mkdir(exist_ok=True)
    (root / where).symlink_to(tmp_path / "outside")
    (root / "f").write_text("stays")
    with fails(errno.ENOTDIR):
        move_aside(home, JOB, 1, home.root, b"f")
    with fails(errno.ENOTDIR):
        write_index(home, JOB, [row(1, b"f")])
    assert (root / "f").read_text() == "stays"
    assert not list((tmp_path / "outside").iterdir())


def test_the_trash_is_removed_under_our_hands(home: Home, root: Path) -> None:
    for number, name in ((1, "a"), (2, "b")):
        (root / name).write_text(name)
        assert move_aside(home, JOB, number, home.root, name.encode())
        in_trash(root, number).rename(root / f"kept-{name}")
        (root / ".afm" / ".afmtrash" / "7").rmdir()
        (root / ".afm" / ".afmtrash").rmdir()
    assert (root / "kept-b").read_text() == "b"


def test_a_mount_point_stays(home: Home, root: Path, elsewhere: Path) -> None:
    with fails(errno.EBUSY):
        move_aside(home, JOB, 1, home.root, b"mounted")


# -- from another file system --------------------------------------------------------------------


def test_copied_from_another_file_system(home: Home, root: Path, elsewhere: Path) -> None:
    there = home.directory((b"mounted",))
    (elsewhere / "f").write_bytes(b"begin" + bytes(1 << 20) + b"end")
    os.chown(elsewhere / "f", 123, 456)
    os.chmod(elsewhere / "f", 0o640)
    os.utime(elsewhere / "f", ns=(NS, NS))
    (elsewhere / "s").symlink_to("nowhere")
    os.utime(elsewhere / "s", ns=(NS, NS), follow_symlinks=False)
    os.mkfifo(elsewhere / "p")
    for number, name in enumerate((b"f", b"s", b"p"), 1):
        assert move_aside(home, JOB, number, there, name)
        assert move_aside(home, JOB, number, there, name)
    assert not list(elsewhere.iterdir())
    found = in_trash(root, 1).stat()
    assert in_trash(root, 1).read_bytes() == b"begin" + bytes(1 << 20) + b"end"
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (123, 456, 0o640)
    assert found.st_mtime_ns == NS
    assert os.readlink(in_trash(root, 2)) == "nowhere"
    assert in_trash(root, 2).lstat().st_mtime_ns == NS
    assert stat.S_ISFIFO(in_trash(root, 3).stat().st_mode)
    assert sorted(p.name for p in in_trash(root, 1).parent.iterdir()) == ["1", "2", "3"]


def test_a_directory_on_another_file_system(home: Home, elsewhere: Path) -> None:
    (elsewhere / "d").mkdir()
    (elsewhere / "d" / "f").touch()
    with fails(errno.EXDEV):
        move_aside(home, JOB, 1, home.directory((b"mounted",)), b"d")
    assert (elsewhere / "d" / "f").exists()


def test_a_copy_that_nobody_will_bring_any_more(home: Home, root: Path) -> None:
    """Where it was it may be gone: it is in the trash all the same."""
    (root / "copy").write_text("of home")
    assert move_aside(home, JOB, 1, home.root, b"copy")
    in_trash(root, 1).rename(in_trash(root, 1).with_name("1.copied"))
    directory = home.own_directory(trash.directory_of(JOB))
    assert aside.is_aside(home, directory, b"1")
    assert in_trash(root, 1).read_text() == "of home"
    assert aside.is_aside(home, directory, b"1")
    assert not aside.is_aside(home, directory, b"2")


class Killed(Exception):
    pass


VERBS = ("make_file", "set_times", "rename", "unlink")


@pytest.mark.parametrize("at", range(6))
@pytest.mark.parametrize("replaced", [False, True])
def test_killed_while_it_is_copied(
    home: Home,
    root: Path,
    elsewhere: Path,
    monkeypatch: pytest.MonkeyPatch,
    at: int,
    replaced: bool,
) -> None:
    """Before each step; what is put in its place before the next attempt is another thing."""
    calls = 0

    def counted(verb: str) -> Callable[..., object]:
        done = getattr(Home, verb)

        def call(*args: object) -> object:
            nonlocal calls
            calls += 1
            if calls == at + 2:  # the first rename is the one that fails with EXDEV
                raise Killed
            return done(*args)

        return call

    (elsewhere / "f").write_text("of home")
    os.utime(elsewhere / "f", ns=(NS, NS))
    with monkeypatch.context() as patched:
        for verb in VERBS:
            patched.setattr(Home, verb, counted(verb))
        try:
            move_aside(home, JOB, 1, home.directory((b"mounted",)), b"f")
            assert at == 5, "every step was met"
        except Killed:
            pass
    texts = {p.read_text() for p in in_trash(root, 1).parent.iterdir()}
    removed = not (elsewhere / "f").exists()
    if not removed:
        texts.add((elsewhere / "f").read_text())
    assert "of home" in texts, "the bytes are somewhere at any time"
    if replaced and removed:
        (elsewhere / "f").write_text("new")
    done = in_trash(root, 1).exists()
    assert move_aside(home, JOB, 1, home.directory((b"mounted",)), b"f")
    texts = {p.read_text() for p in in_trash(root, 1).parent.iterdir()}
    assert "of home" in texts
    if replaced and removed and done:
        assert (elsewhere / "f").read_text() == "new"
    elif replaced and removed:
        assert "new" in texts
    else:
        assert not (elsewhere / "f").exists()


def test_changed_while_it_is_copied(
    home: Home, root: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (elsewhere / "f").write_text("of home")
    copy = aside.copy_bytes

    def slow(*args: object) -> None:
        copy(*args)  # type: ignore[arg-type]
        (elsewhere / "f").write_text("changed since")

    monkeypatch.setattr(aside, "copy_bytes", slow)
    with fails(errno.EBUSY):
        move_aside(home, JOB, 1, home.directory((b"mounted",)), b"f")
    assert (elsewhere / "f").read_text() == "changed since"
    assert not in_trash(root, 1).exists()


# -- the index -----------------------------------------------------------------------------------


def row(number: int, path: bytes, why: str = CHANGED, ino: int | None = 100) -> Trashed:
    return Trashed(number, JOB, path, ino, stat.S_IFREG, 5, why, NS, trash.INTENDED)


def test_the_index_says_what_is_what(home: Home, root: Path) -> None:
    index = in_trash(root, 1).parent / "index"
    write_index(home, JOB, [row(1, b"d/\xff name\n")])
    with open(index, "ab") as damaged:
        damaged.write(b'{"number": 2, "pa')  # power was lost
    write_index(home, JOB, [row(2, b"b"), row(1, b"d/\xff name\n")])
    write_index(home, JOB, [])
    lines = index.read_bytes().splitlines()
    said = [json.loads(line) for line in lines if line.endswith(b"}")]
    assert [s["number"] for s in said] == [1, 2, 1]
    assert os.fsencode(said[0]["path"]) == b"d/\xff name\n"
    assert said[0] == said[2]
    assert (said[0]["kind"], said[0]["size"], said[0]["why"]) == ("file", 5, "changed")
    assert said[0]["time"] == pytest.approx(NS / 1e9)


def test_an_index_that_is_a_symlink(home: Home, root: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").touch()
    write_index(home, JOB, [row(1, b"a")])
    index = in_trash(root, 1).parent / "index"
    index.unlink()
    index.symlink_to(tmp_path / "outside")
    with fails(errno.ELOOP):
        write_index(home, JOB, [row(1, b"a")])
    assert not (tmp_path / "outside").read_bytes()


# -- the book ------------------------------------------------------------------------------------


def intend(book: TrashBook, journal: Journal, path: bytes, job: int = JOB) -> int:
    with journal.transaction() as db:
        number = book.next_number(db)
        book.intend(db, number, job, path, 100, stat.S_IFREG, 5, CHANGED, NS)
    return number


def test_numbers_are_used_once(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    numbers = [intend(TrashBook(journal), journal, b"a") for _ in range(2)]
    with journal.transaction() as db:
        db.execute("DELETE FROM trash")
    journal.close()
    journal = Journal(tmp_path)
    numbers.append(intend(TrashBook(journal), journal, b"a"))
    journal.close()
    another = Journal(tmp_path / "another")  # of a cache that is made anew towards the same home
    numbers.append(intend(TrashBook(another), another, b"a"))
    another.close()
    assert numbers[1:3] == [numbers[0] + 1, numbers[0] + 2]
    assert numbers[3] > numbers[2]


def test_the_states_of_an_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trash, "_PAGE", 2)
    journal = Journal(tmp_path)
    book = TrashBook(journal)
    a, b, c = (intend(book, journal, path) for path in (b"a", b"\xff", b"c"))
    other = intend(book, journal, b"d", job=8)
    with journal.transaction() as db:
        for _ in range(2):
            book.moved(db, a)
            book.missing(db, a)  # it is there: no
            book.missing(db, b)
    assert [(r.number, r.state) for r in book.rows(JOB)] == [(a, trash.MOVED), (c, trash.INTENDED)]
    assert [r.number for r in book.rows()] == [a, c, other]
    journal.close()


INO = 500


def null(book: TrashBook, journal: Journal, *args: object) -> list[Nulled]:
    with journal.transaction() as db:
        book.null(db, INO, *args)  # type: ignore[arg-type]
    return book.nulled(INO)


def test_what_is_null_at_home(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    book = TrashBook(journal)
    first = [Nulled(0, 10, JOB, 1), Nulled(20, 30, JOB, 1)]
    for _ in range(2):
        assert null(book, journal, ((0, 10), (20, 30)), JOB, 1) == first
    # Nothing new is in the trash: what is told of it stays.
    second = [Nulled(0, 10, JOB, 1), Nulled(10, 15, 8, None), Nulled(20, 30, JOB, 1)]
    for _ in range(2):
        assert null(book, journal, ((5, 15),), 8, None) == second
    # Somebody wrote there at home, and that was moved aside as well.
    assert null(book, journal, ((8, 25),), 9, 2) == [
        Nulled(0, 8, JOB, 1),
        Nulled(8, 25, 9, 2),
        Nulled(25, 30, JOB, 1),
    ]
    with journal.transaction() as db:
        book.written(db, INO, ((4, 6), (29, 40)))
        book.written(db, INO + 1, ((4, 6),))
    assert [tuple(n)[:2] for n in book.nulled(INO)] == [(0, 4), (6, 8), (8, 25), (25, 29)]
    with journal.transaction() as db:
        book.written(db, INO, (), 7)
    assert [tuple(n)[:2] for n in book.nulled(INO)] == [(0, 4), (6, 7)]
    with journal.transaction() as db:
        book.written(db, INO, (), 0)
    assert book.nulled(INO) == []
    journal.close()
