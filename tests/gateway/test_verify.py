"""Comparing the cache with home: every kind of difference is found, and nothing else."""

from __future__ import annotations

import errno
import json
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from afmfs.gateway.protocol import Message
from afmfs.gateway.report import contents, survey, verify, visit
from afmfs.gateway.report.compare import Comparer, Subject
from afmfs.model.entry import ROOT, Op
from tests.gateway.fake_mount import BLOCK, FakeMount
from tests.harness.trees import snapshot

Row = dict[str, Any]

SECONDS = 30.0


class VerifyingMount(FakeMount):
    def __init__(self, cache: Path, home: Path, **tunables: Any) -> None:
        super().__init__(cache, home, **tunables)
        self.reports: dict[int, tuple[Message, list[Row]]] = {}

    def take(self, message: Message, fds: Iterable[int] = ()) -> None:
        if message["type"] == "reported":
            data = b"".join(os.pread(fd, 1 << 30, 0) for fd in fds)
            self.reports[message["rid"]] = message, [*map(json.loads, data.splitlines())]
        else:
            super().take(message, fds)

    def begin(self, **hello: Any) -> None:
        """Start, with the root as it is at home then."""
        self.start(**hello)
        self.await_message("connected")
        st = os.stat(self.home)
        self.update(
            ROOT, mode=st.st_mode, uid=st.st_uid, gid=st.st_gid, mtime=st.st_mtime_ns,
            atime=st.st_atime_ns,
        )  # fmt: skip

    def settle(self, timeout: float = 20.0) -> Message:
        """Flush until nothing is pending: entries may be made while a batch ends."""
        end = time.monotonic() + timeout
        while True:
            message = super().settle(timeout)
            if not self.pending():
                return message
            assert time.monotonic() < end, "something stays pending"

    def ask(self, **options: Any) -> tuple[Message, list[Row]]:
        assert self.gateway is not None
        self.rids += 1
        rid = self.rids
        self.gateway.receive({"type": "report", "rid": rid, "kind": "verify", **options})
        end = time.monotonic() + SECONDS
        while rid not in self.reports:
            assert time.monotonic() < end, "no report"
            time.sleep(0.002)
        return self.reports.pop(rid)

    def verify(self, **options: Any) -> list[Row]:
        """The differences that are found."""
        message, rows = self.ask(**options)
        assert message["errno"] == 0, message
        assert rows.pop().keys() == {"summary", "report"}
        return rows

    def at(self, path: bytes) -> bytes:
        return os.path.join(os.fsencode(self.home), path)

    def pushed(self, name: bytes, data: bytes = b"data", **more: Any) -> int:
        """A file that is cached, and at home since the next `settle`."""
        return self.make(name, data, **more)


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[VerifyingMount]:
    (tmp_path / "home").mkdir()
    one = VerifyingMount(tmp_path / "cache", tmp_path / "home")
    yield one
    one.close()


@pytest.fixture
def tree(mount: VerifyingMount) -> VerifyingMount:
    """A file, one partly cached, a symlink, a FIFO, and names of any bytes, all at home."""
    (mount.home / "partial").write_bytes(b"a" * BLOCK + b"b" * BLOCK)
    mount.begin()
    partial = mount.adopt(b"partial")
    mount.put(partial, 0, b"a" * BLOCK)
    mount.mark(partial, 0, BLOCK)
    d = mount.mkdir(b"d")
    mount.pushed(b"f", b"0123456789" * 1000, parent=d)
    mount.pushed(b"\xff\n\xfe", b"odd", parent=d)
    mount.make(b"link", parent=d, mode=stat.S_IFLNK | 0o777, target=b"to \xff")
    mount.make(b"fifo", parent=d, mode=stat.S_IFIFO | 0o600)
    mount.link(mount.look_up(d, b"f"), b"second")
    mount.settle()
    return mount


def brief(rows: list[Row]) -> list[tuple[Any, ...]]:
    return [(r["path"], r["difference"], r.get("cache"), r.get("home")) for r in rows]


def test_nothing_differs(tree: VerifyingMount) -> None:
    before = snapshot(tree.home)
    message, rows = tree.ask(data=True)
    assert message["errno"] == 0
    (last,) = rows
    assert last["summary"] == {
        "files": 3, "directories": 2, "others": 2, "differences": {},
        "bytes_compared": BLOCK + 10_000 + 3,
    }  # fmt: skip
    assert snapshot(tree.home) == before
    assert sorted(os.listdir(tree.cache / "gateway" / "1")) == [
        "gateway.db", "gateway.db-shm", "gateway.db-wal", "lock",
    ]  # fmt: skip


@pytest.mark.skipif(os.geteuid() != 0, reason="whose files are not ours has their times changed")
def test_not_even_access_times_change(tree: VerifyingMount) -> None:
    paths = [tree.at(p) for p in (b"", b"d", b"d/f", b"partial")]
    for path in paths:
        os.utime(path, ns=(5, os.stat(path).st_mtime_ns))
    assert tree.verify(data=True) == []
    assert [os.stat(path).st_atime_ns for path in paths] == [5] * 4


Damage = Callable[[VerifyingMount], object]


def in_place(path: bytes, change: Callable[[bytes], object]) -> Damage:
    """A change to something at home that does not show in its directory's times."""

    def damage(mount: VerifyingMount) -> None:
        above = mount.at(os.path.dirname(path))
        st = os.stat(above)
        change(mount.at(path))
        os.utime(above, ns=(st.st_atime_ns, st.st_mtime_ns))

    return damage


def write(data: bytes, *, mtime: bool = True) -> Callable[[bytes], object]:
    def change(path: bytes) -> None:
        st = os.stat(path)
        with open(path, "r+b") as file:
            file.write(data)
        os.utime(path, ns=(5, 5 if mtime else st.st_mtime_ns))

    return change


def replace(path: bytes) -> None:
    """By a file that looks the same."""
    st = os.stat(path)
    with open(path, "rb") as old, open(path + b"new", "wb") as new:
        new.write(old.read())
    os.chmod(path + b"new", stat.S_IMODE(st.st_mode))
    os.utime(path + b"new", ns=(st.st_atime_ns, st.st_mtime_ns))
    os.rename(path + b"new", path)


def put_instead(kind: str) -> Callable[[bytes], object]:
    def change(path: bytes) -> None:
        os.unlink(path)
        if kind == "directory":
            os.mkdir(path)
        else:
            os.symlink(b"elsewhere", path)

    return change


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (in_place(b"d/\xff\n\xfe", os.unlink), [("d/\udcff\n\udcfe", "missing", None, None)]),
        (in_place(b"d/link", put_instead("directory")),
         [("d/link", "type", "symlink", "directory")]),
        (in_place(b"d/link", put_instead("symlink")),
         [("d/link", "target", "to \udcff", "elsewhere")]),
        (in_place(b"d/fifo", put_instead("symlink")), [("d/fifo", "type", "fifo", "symlink")]),
        (in_place(b"d", lambda path: os.chmod(path, 0o700)), [("d", "mode", "0755", "0700")]),
        (in_place(b"d/f", lambda path: os.chmod(path, 0o4755)),
         [("second", "mode", "0644", "4755")]),
        (lambda mount: os.utime(mount.at(b"d"), ns=(5, 5)), [("d", "mtime", ..., 5)]),
        (lambda mount: os.utime(mount.at(b"d/fifo"), ns=(5, 7)), [("d/fifo", "mtime", ..., 7)]),
        (in_place(b"partial", lambda path: os.truncate(path, 99)),
         [("partial", "size", 2 * BLOCK, 99), ("partial", "mtime", ..., ...)]),
        (in_place(b"partial", write(b"x")), [("partial", "mtime", ..., 5)]),
        (in_place(b"second", replace), [("second", "version", ..., ...)]),
    ],
)  # fmt: skip
def test_a_difference(tree: VerifyingMount, damage: Damage, found: list[tuple[Any, ...]]) -> None:
    damage(tree)
    rows = brief(tree.verify())
    assert len(rows) == len(found), rows
    for row, wanted in zip(rows, found, strict=True):
        assert all(w is ... or r == w for r, w in zip(row, wanted, strict=True)), rows


def test_names_are_told_byte_by_byte(tree: VerifyingMount) -> None:
    os.unlink(tree.at(b"d/\xff\n\xfe"))
    (row,) = [r for r in tree.verify() if r["difference"] == "missing"]
    assert bytes.fromhex(row["path_hex"]) == b"d/\xff\n\xfe"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_owners(tree: VerifyingMount) -> None:
    os.chown(tree.at(b"partial"), 7, 8)
    me = f"{os.geteuid()}:{os.getegid()}"
    assert brief(tree.verify()) == [("partial", "owner", me, "7:8")]


def test_a_directory_that_leads_elsewhere(tree: VerifyingMount) -> None:
    os.rename(tree.at(b"d"), tree.at(b"../moved"))
    os.symlink(b"../moved", tree.at(b"d"))
    rows = brief(tree.verify(data=True))
    assert ("d", "type", "directory", "symlink") in rows
    assert {row[:2] for row in rows if row[0].startswith("d/")} == {
        ("d/f", "missing"), ("d/fifo", "missing"), ("d/link", "missing"),
        ("d/\udcff\n\udcfe", "missing"),
    }  # fmt: skip


# -- names that only home has --------------------------------------------------------------------


def test_extra_names(tree: VerifyingMount) -> None:
    os.mkdir(tree.at(b"d/new\xff"))
    with open(tree.at(b"d/new\xff/below"), "wb"):
        pass
    os.symlink(b"x", tree.at(b"new"))
    rows = brief(tree.verify())
    assert rows == [
        ("new", "extra", None, "symlink"),
        ("d/new\udcff", "extra", None, "directory"),
    ]


def test_what_is_not_listed_is_not_known(tree: VerifyingMount) -> None:
    d = tree.look_up(ROOT, b"d")
    tree.update(d, listed=0)
    with open(tree.at(b"d/new"), "wb"):
        pass
    assert tree.verify() == []


def test_more_names_than_a_page(mount: VerifyingMount) -> None:
    mount.begin()
    d = mount.mkdir(b"d")
    for n in range(600):
        mount.make(b"%d" % n, parent=d)
    mount.settle()
    for n in range(1000):
        with open(mount.at(b"d/new%d" % n), "wb"):
            pass
    assert {row["path"] for row in mount.verify()} == {f"d/new{n}" for n in range(1000)}


# -- what is pending -----------------------------------------------------------------------------


def test_what_is_pending_is_no_difference(tree: VerifyingMount) -> None:
    """Everything that the cache can do, while home has seen nothing of it yet."""
    assert tree.gateway is not None
    tree.gateway.receive({"type": "run", "stopped": True, "needs_resync": False})
    d, f = tree.look_up(ROOT, b"d"), tree.look_up(ROOT, b"second")
    tree.write(f, 500, b"written")
    tree.truncate(tree.look_up(ROOT, b"partial"), 5000)
    tree.truncate(f, 100)
    tree.truncate(f, 9000)
    tree.setattr(tree.look_up(d, b"fifo"), mode=stat.S_IFIFO | 0o640, uid=7, mtime=9)
    tree.setattr(d, mode=stat.S_IFDIR | 0o711)
    tree.rename(b"\xff\n\xfe", b"renamed", parent=d)
    tree.remove(b"link", parent=d)
    tree.rename(b"d", b"D")
    tree.pushed(b"new", b"new", parent=d)
    tree.make(b"link", parent=d)  # the name of what is pending to be removed
    new = tree.mkdir(b"E")
    tree.rename(b"f", b"moved", parent=d, parent2=new)
    tree.link(f, b"third", parent=new)
    assert tree.verify(data=True) == []
    tree.gateway.receive({"type": "run", "stopped": False, "needs_resync": False})
    tree.settle()
    assert tree.verify(data=True) == []


def test_a_stray_write_shows_beside_what_is_pending(tree: VerifyingMount) -> None:
    assert tree.gateway is not None
    tree.gateway.receive({"type": "run", "stopped": True, "needs_resync": False})
    partial = tree.look_up(ROOT, b"partial")
    tree.setattr(partial, mode=stat.S_IFREG | 0o600)
    tree.write(partial, BLOCK, b"pending")
    in_place(b"partial", write(b"x" * 10))(tree)
    rows = tree.verify(data=True)
    assert [row["difference"] for row in rows] == ["mtime", "data"]
    assert rows[1]["ranges"] == [[0, BLOCK]], "and the pending bytes are none"


def test_a_dropped_entry_leaves_a_difference(tree: VerifyingMount) -> None:
    assert tree.gateway is not None
    tree.gateway.receive({"type": "run", "stopped": True, "needs_resync": False})
    number = tree.setattr(tree.look_up(ROOT, b"partial"), mode=stat.S_IFREG | 0o600)
    assert tree.verify() == []
    assert tree.request("drop", id=number)[0]["ok"]
    tree.retire()
    assert brief(tree.verify()) == [("partial", "mode", "0600", "0644")]


def test_a_file_that_is_being_pushed(tree: VerifyingMount) -> None:
    assert tree.gateway is not None
    tree.gateway.receive({"type": "run", "stopped": True, "needs_resync": False})
    engine = tree.gateway._engine
    assert engine is not None
    partial = tree.look_up(ROOT, b"partial")
    tree.write(partial, 0, b"pushed")
    engine.progress.mark(engine.view.page(0, 10))
    in_place(b"partial", write(b"push"))(tree)
    assert tree.verify(data=True) == []


def test_what_is_in_doubt(tree: VerifyingMount, monkeypatch: pytest.MonkeyPatch) -> None:
    assert tree.gateway is not None
    tree.gateway.receive({"type": "run", "stopped": True, "needs_resync": False})
    monkeypatch.setattr(verify, "PATIENCE_S", 0.1)
    number = tree.rename(b"partial", b"renamed")
    engine = tree.gateway._engine
    assert engine is not None
    engine.journal.take_off([number])
    (row,) = tree.verify(data=True)
    assert (row["path"], row["difference"]) == ("renamed", "in doubt")
    assert "not settled" in row["reason"]


def test_what_changes_under_the_look_is_no_difference(
    tree: VerifyingMount, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Changed here, pushed and retired between reading the cache and looking at home; twice."""
    partial, modes = tree.look_up(ROOT, b"partial"), iter([0o600, 0o640])
    honest = Comparer.differences

    def differences(self: Comparer, subject: Subject) -> Any:
        if subject.known.ino == partial and (mode := next(modes, None)):
            tree.update(partial, mode=stat.S_IFREG | mode)
            os.chmod(tree.at(b"partial"), mode)
        return honest(self, subject)

    monkeypatch.setattr(Comparer, "differences", differences)
    assert tree.verify() == []
    assert next(modes, None) is None


def test_a_name_that_goes_under_the_look_is_not_extra(
    tree: VerifyingMount, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open(tree.at(b"d/gone"), "wb"), open(tree.at(b"d/stays"), "wb"):
        pass
    honest = survey.Survey.unknown

    def unknown(self: survey.Survey, directory: int) -> Any:
        for page in honest(self, directory):
            if b"gone" in page:
                os.unlink(tree.at(b"d/gone"))
            yield page

    monkeypatch.setattr(survey.Survey, "unknown", unknown)
    assert [row["path"] for row in tree.verify()] == ["d/stays"]


# -- bytes ---------------------------------------------------------------------------------------


@pytest.fixture
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contents, "WINDOW", 3 * BLOCK)
    monkeypatch.setattr(contents, "_STEP", 2 * BLOCK)


def test_bytes_that_rot(mount: VerifyingMount, small_windows: None) -> None:
    mount.begin()
    data = os.urandom(20 * BLOCK)
    mount.pushed(b"f", data)
    mount.settle()
    rotten = bytearray(data)
    for at in (0, 7 * BLOCK - 1, 7 * BLOCK, 20 * BLOCK - 1):
        rotten[at] ^= 1
    in_place(b"f", write(bytes(rotten), mtime=False))(mount)
    assert mount.verify() == []
    message, rows = mount.ask(data=True)
    row, last = rows
    assert (row["path"], row["difference"], row["bytes"]) == ("f", "data", 4 * BLOCK)
    ranges = [[0, 1], [6, 8], [19, 20]]
    assert row["ranges"] == [[start * BLOCK, end * BLOCK] for start, end in ranges]
    assert last["summary"]["bytes_compared"] == 20 * BLOCK


def test_holes_are_compared_too(mount: VerifyingMount, small_windows: None) -> None:
    mount.begin()
    f = mount.pushed(b"f", b"x")
    mount.truncate(f, 1 << 24)
    empty = mount.make(b"empty")
    mount.truncate(empty, 40 * BLOCK)
    mount.settle()
    assert mount.verify(data=True) == []
    for name, offset in ((b"f", 1 << 23), (b"empty", 30 * BLOCK)):
        st = os.stat(mount.at(name))
        with open(mount.at(name), "r+b") as file:
            file.seek(offset)
            file.write(b"x")
        os.utime(mount.at(name), ns=(5, st.st_mtime_ns))
    rows = mount.verify(data=True)
    assert [row["ranges"] for row in rows] == [
        [[1 << 23, (1 << 23) + BLOCK]], [[30 * BLOCK, 31 * BLOCK]],
    ]  # fmt: skip


def test_a_hole_is_passed_in_one_window(
    mount: VerifyingMount, small_windows: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a file of a size that cost nothing would be looked at for days."""
    mount.begin()
    f, size = mount.pushed(b"f", b"x"), 1 << 24
    mount.truncate(f, size)
    empty = mount.make(b"empty")
    mount.truncate(empty, size)
    mount.settle()
    honest, looks = contents._clean, 0

    def clean(*args: Any) -> Any:
        nonlocal looks
        looks += 1
        return honest(*args)

    monkeypatch.setattr(contents, "_clean", clean)
    (last,) = mount.ask(data=True)[1]
    assert last["summary"]["bytes_compared"] == 2 * size
    assert looks < 20


def test_uncached_bytes_are_not_compared(tree: VerifyingMount) -> None:
    path = tree.at(b"partial")
    st = os.stat(path)
    with open(path, "r+b") as file:
        file.seek(BLOCK)
        file.write(b"x")
    os.utime(path, ns=(5, st.st_mtime_ns))
    assert tree.verify(data=True) == []


def test_a_file_that_goes_on_changing(
    tree: VerifyingMount, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What changes here between two looks is no difference; in the end that is said."""
    monkeypatch.setattr(visit, "PATIENCE_S", 0.1)
    partial = tree.look_up(ROOT, b"partial")
    in_place(b"partial", write(b"x", mtime=False))(tree)
    honest = contents._clean

    def busy(*args: Any) -> Any:
        tree.db.execute("UPDATE inode SET atime=atime+1 WHERE ino=?", (partial,))
        return honest(*args)

    monkeypatch.setattr(contents, "_clean", busy)
    (row,) = tree.verify(data=True)
    assert (row["difference"], row["reason"]) == ("in doubt", "it goes on changing")


def test_what_is_evicted_under_the_look_is_no_difference(
    tree: VerifyingMount, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its bytes are zeros by then."""
    partial, honest = tree.look_up(ROOT, b"partial"), contents._clean

    def clean(*args: Any) -> Any:
        found = honest(*args)
        tree.put(partial, 0, bytes(BLOCK))
        tree.db.execute("DELETE FROM span WHERE ino=?", (partial,))
        return found

    monkeypatch.setattr(contents, "_clean", clean)
    assert tree.verify(data=True) == []


def test_home_stays_open_for_a_while_only(
    mount: VerifyingMount, monkeypatch: pytest.MonkeyPatch, small_windows: None
) -> None:
    monkeypatch.setattr(verify, "OPEN_OBJECTS", 3)
    mount.begin()
    for n in range(10):
        mount.pushed(b"f%d" % n, os.urandom(9 * BLOCK))
    mount.settle()
    assert mount.gateway is not None
    engine = mount.gateway._engine
    assert engine is not None
    opened, honest = [], engine.contact.opened

    def counted() -> Any:
        opened.append(1)
        return honest()

    monkeypatch.setattr(engine.contact, "opened", counted)
    assert mount.verify(data=True) == []
    assert len(opened) >= 10


# -- what is on record ---------------------------------------------------------------------------


def test_what_is_on_record(tree: VerifyingMount) -> None:
    d, partial = tree.look_up(ROOT, b"d"), tree.look_up(ROOT, b"partial")
    os.unlink(tree.at(b"partial"))
    tree.db.execute("INSERT INTO lost VALUES (?,3)", (partial,))
    os.unlink(tree.at(b"d/fifo"))
    fifo = tree.look_up(d, b"fifo")
    tree.db.execute("INSERT INTO unrepresentable VALUES (?,?,?)", (fifo, int(Op.MAKE), errno.EPERM))
    tree.update(fifo, home_mtime=None)
    assert tree.gateway is not None
    engine = tree.gateway._engine
    assert engine is not None
    with engine.journal.transaction() as db:
        f = tree.look_up(d, b"f")
        db.execute("INSERT INTO nulled VALUES (?,?,?,?,?)", (f, 4096, 8192, 3, 11))
    for path in (b"", b"d"):
        tree.update(ROOT if not path else d, mtime=os.stat(tree.at(path)).st_mtime_ns)
    rows = {(r.pop("path"), r.pop("difference")): r for r in tree.verify(data=True)}
    assert rows == {
        ("partial", "lost"): {"job": 3},
        ("d/fifo", "unrepresentable"): {"op": "Mknod", "errno": "EPERM"},
        ("second", "nulled"): {"start": 4096, "end": 8192, "job": 3, "trash": 11},
    }


def test_what_a_job_has_yet_to_see_to(
    tree: VerifyingMount, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.chmod(tree.at(b"partial"), 0o600)
    assert tree.gateway is not None
    engine = tree.gateway._engine
    assert engine is not None
    due = {tree.look_up(ROOT, b"partial")}
    monkeypatch.setattr(
        engine.reports._makers["verify"],
        "_parts",
        (*engine.reports._makers["verify"]._parts[:3], due.__contains__),
    )  # type: ignore[attr-defined]
    assert tree.verify() == []
    due.clear()
    assert brief(tree.verify()) == [("partial", "mode", "0644", "0600")]


# -- a part of the tree --------------------------------------------------------------------------


def test_a_subtree(tree: VerifyingMount) -> None:
    os.chmod(tree.at(b"partial"), 0o600)
    os.chmod(tree.at(b"second"), 0o600)
    d = tree.look_up(ROOT, b"d")
    e = tree.mkdir(b"e", parent=d)
    f = tree.look_up(d, b"f")
    tree.link(f, b"third", parent=e)
    tree.update(f, nlink=3)
    for n in range(700):
        tree.make(b"%d" % n, parent=e)
    tree.settle()
    os.chmod(tree.at(b"d/e/650"), 0o600)
    message, rows = tree.ask(ino=d)
    summary = rows.pop()["summary"]
    assert (summary["files"], summary["directories"], summary["others"]) == (702, 2, 2)
    assert {r["path"] for r in rows} == {"second", "d/e/650"}
    assert {r["path"] for r in tree.verify(ino=f)} == {"second"}


# -- home goes away ------------------------------------------------------------------------------


def test_home_is_away(tree: VerifyingMount) -> None:
    tree.home.rename(tree.home.with_name("elsewhere"))
    message, rows = tree.ask()
    assert (message["errno"], rows) == (errno.EHOSTDOWN, [])
    assert message["reason"]


def test_home_goes_away_under_a_report(
    tree: VerifyingMount, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was found so far is worth nothing: it may be of another connection."""
    os.chmod(tree.at(b"partial"), 0o600)
    honest = visit.Visit.step

    def step(self: visit.Visit) -> Any:
        yield from honest(self)
        if tree.home.exists():
            tree.home.rename(tree.home.with_name("elsewhere"))

    monkeypatch.setattr(visit.Visit, "step", step)
    message, rows = tree.ask()
    assert (message["errno"], rows) == (errno.EHOSTDOWN, [])
    tree.await_message("away")
