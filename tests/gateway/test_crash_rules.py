"""The gateway's crash rules, one test each; the names are those of crash-rules.md.

What reaches home, the journal and the cache's disk is recorded in its order.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from afmfs.gateway.home import connection as connection_module
from afmfs.gateway.home.connection import Connection, Remounted
from afmfs.gateway.home.home import Home
from afmfs.gateway.replay.pushing import Pusher
from afmfs.gateway.state.journal import Journal
from tests.gateway.fake_mount import FakeMount

CHANGES = ("make_file", "make_dir", "rename_new", "unlink", "set_times", "set_times_at")


class Recorded(FakeMount):
    """`calls`: "in flight", "point", "home", "home sync", "outcomes", in their order."""

    def __init__(self, cache: Path, home: Path) -> None:
        super().__init__(cache, home, home_sync="batch")
        self.calls: list[str] = []
        self.on_point = lambda: self.calls.append("point")

    def record(self, patch: pytest.MonkeyPatch) -> None:
        for owner, names, what in (
            (Home, CHANGES, "home"),
            (Home, ("sync",), "home sync"),
            (Journal, ("take_off",), "in flight"),
            (Journal, ("land",), "outcomes"),
        ):
            for name in names:
                patch.setattr(owner, name, self._noting(what, getattr(owner, name)))

    def _noting(self, what: str, call: Any) -> Any:
        def noted(*words: Any, **named: Any) -> Any:
            self.calls.append(what)
            return call(*words, **named)

        return noted

    def now(self, *, needs_resync: bool = False) -> None:
        """Let the gateway replay."""
        assert self.gateway is not None
        self.gateway.receive({"type": "run", "stopped": False, "needs_resync": needs_resync})

    @property
    def journal(self) -> Journal:
        assert self.gateway is not None and self.gateway._engine is not None
        return self.gateway._engine.journal

    def replay(self) -> None:
        """Flush, and wait till all of it is at home."""
        self.now()
        self.settle()


@pytest.fixture
def mount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Recorded]:
    (tmp_path / "home").mkdir()
    mount = Recorded(tmp_path / "cache", tmp_path / "home")
    mount.record(monkeypatch)
    yield mount
    mount.close()


def connected(mount: Recorded) -> None:
    """A gateway that replays nothing yet."""
    mount.start(stopped=True)
    mount.await_message("connected")
    mount.calls.clear()


def test_in_flight(mount: Recorded) -> None:
    """The batch is in flight before the point that precedes it (durable-before-batch), and that
    point comes before anything is done at home."""
    connected(mount)
    mount.make(b"f", b"data")
    mount.replay()
    first = mount.calls.index("home")
    assert mount.calls[:first] == ["in flight", "point"]


def test_in_flight_durable(mount: Recorded) -> None:
    """Power lost after the point, and the journal knows of the batch."""
    connected(mount)
    assert mount.journal.query("PRAGMA synchronous") == [(2,)]  # FULL: each commit is synced
    assert mount.journal.query("PRAGMA journal_mode") == [("wal",)]


def test_durable_before_batch(mount: Recorded) -> None:
    """Without a point nothing is done at home, and nothing is in flight."""
    connected(mount)
    asked = threading.Event()
    mount.point_ok, mount.on_point = False, asked.set
    mount.make(b"f", b"data")
    mount.now()
    assert asked.wait(10)
    mount.await_message("status", settled=False)
    assert "home" not in mount.calls and not (mount.home / "f").exists()
    mount.point_ok = True
    mount.replay()
    assert (mount.home / "f").read_bytes() == b"data"


def test_home_sync(mount: Recorded) -> None:
    """Home has it on stable storage before an outcome says so."""
    connected(mount)
    mount.make(b"f", b"data")
    mount.replay()
    assert mount.calls.index("home sync") < mount.calls.index("outcomes")
    assert mount.calls.index("home") < mount.calls.index("home sync")


def test_outcome_after_durable(mount: Recorded) -> None:
    """A point follows the execution before its outcome is recorded: what was executed with newer
    bytes, by names and sizes made since, is durable here."""
    connected(mount)
    mount.make(b"f", b"data")
    mount.replay()
    last = len(mount.calls) - 1 - mount.calls[::-1].index("home sync")
    assert mount.calls[last:] == ["home sync", "point", "outcomes"]


def test_outcome_durable(mount: Recorded) -> None:
    """The outcomes of a batch are recorded before the next is executed: never two in doubt."""
    connected(mount)
    directory = mount.mkdir(b"d")
    mount.make(b"f", b"data", parent=directory)
    mount.rename(b"d", b"e")  # a batch of its own: batch-cut
    mount.replay()
    assert (mount.home / "e/f").read_bytes() == b"data"
    assert mount.calls.count("in flight") == 2
    second = len(mount.calls) - 1 - mount.calls[::-1].index("in flight")
    between = mount.calls[second:]
    assert between.index("outcomes") < between.index("home")


def test_doubt_cut(mount: Recorded) -> None:
    """Two batches in doubt are settled one after the other, as they were: merged, the file that
    the first has made would be made once more, in the place of its only copy."""
    with_data = mount.make(b"tmp", b"the only copy")
    one = mount.next_id - 1
    with Journals(mount) as journal:
        journal.take_off(range(1, one + 1))
        mount.rename(b"tmp", b"f")
        journal.take_off([mount.next_id - 1])
    picked = batches(mount)
    assert picked == [[*range(1, one + 1)], [one + 1]]
    assert (mount.home / "f").read_bytes() == b"the only copy"
    assert mount.get(with_data, "home_mtime") is not None


def batches(mount: Recorded) -> list[list[int]]:
    """What is executed together when all of it is in doubt."""
    picked: list[list[int]] = []
    mount.start(stopped=True)
    mount.await_message("connected")
    assert mount.gateway is not None and mount.gateway._engine is not None
    replay = mount.gateway._engine.replay
    real = replay._replay

    def replayed(pick: Any) -> None:
        assert pick.doubt
        picked.append(sorted(pick.entries))
        real(pick)

    replay._replay = replayed  # type: ignore[method-assign]
    mount.replay()
    return picked


class Journals:
    """The journal of a gateway that does not run."""

    def __init__(self, mount: FakeMount) -> None:
        self.journal = Journal(mount.cache / "gateway/1")

    def __enter__(self) -> Journal:
        return self.journal

    def __exit__(self, *_: object) -> None:
        self.journal.close()


def test_doubt_affirmed(mount: Recorded, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is done again before the journal has a commit of this gateway: one that the last one
    was killed in might come back, and tell that it is done."""
    real = Journal._transaction

    @contextmanager
    def noted(journal: Journal) -> Iterator[Any]:
        with real(journal) as db:
            yield db
        mount.calls.append("commit")

    mount.make(b"f", b"data")
    with Journals(mount) as journal:
        journal.take_off([1, 2])
    mount.calls.clear()
    monkeypatch.setattr(Journal, "_transaction", noted)
    mount.start()
    mount.replay()
    assert mount.calls.index("commit") < mount.calls.index("in flight")


def test_doubt_adopts_type(mount: Recorded) -> None:
    """A directory that is there already is ours, with all that we have moved into it."""
    directory = mount.mkdir(b"d")
    (mount.home / "d").mkdir()
    (mount.home / "d/moved here").write_bytes(b"data")
    with Journals(mount) as journal:
        journal.take_off([mount.next_id - 1])
    mount.start()
    mount.replay()
    assert (mount.home / "d/moved here").read_bytes() == b"data"
    assert mount.get(directory, "retired") and not mount.pending()
    assert not (mount.home / ".afm/.afmtrash").exists()


def test_a_swap_leaves_nothing_in_the_journal(
    mount: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed right after its outcome is recorded: no later gateway would remove what is left."""
    for name in (b"a", b"b"):
        (mount.home / os.fsdecode(name)).write_bytes(name)
        mount.adopt(name)
    connected(mount)
    left: list[Any] = []
    real = Journal.land

    def land(journal: Journal, *words: Any) -> int:
        seq = real(journal, *words)
        left.extend(journal.query("SELECT key FROM state WHERE key LIKE 'exchange%'"))
        return seq

    monkeypatch.setattr(Journal, "land", land)
    mount.exchange(b"a", b"b")
    mount.replay()
    assert (mount.home / "a").read_bytes() == b"b"
    assert left == []


def test_doubt(mount: Recorded) -> None:
    """What was to go and is gone was taken away by us."""
    (mount.home / "f").write_bytes(b"data")
    mount.adopt(b"f")
    (mount.home / "f").unlink()
    mount.remove(b"f")
    with Journals(mount) as journal:
        journal.take_off([mount.next_id - 1])
    mount.start()
    mount.replay()
    assert not mount.pending()
    assert not [m for m in mount.log if m["type"] == "inconsistent"]


def test_names_executed(mount: Recorded) -> None:
    """What is executed and not retired yet has its new name at home."""
    (mount.home / "f").write_bytes(b"data")
    ino = mount.adopt(b"f")
    connected(mount)
    mount.rename(b"f", b"g")
    mount.now()
    mount.await_message("outcomes")
    assert mount.pending() == [1]
    assert mount.request("fetch", ino=ino, start=0, end=4)[1] == b"data"


def test_connection(mount: Recorded, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that broke under a batch, though its sync succeeded: all of it is in doubt."""
    connected(mount)
    real, broken = Connection.check, list[bool]()

    def check(self: Connection, home: Home) -> None:
        real(self, home)
        if not broken and (mount.home / "f").exists():
            broken.append(True)
            (mount.home / "f").unlink()  # as a server does that had not kept it
            raise Remounted(self.path)

    monkeypatch.setattr(connection_module.Connection, "check", check)
    mount.make(b"f", b"data")
    mount.replay()
    assert broken and (mount.home / "f").read_bytes() == b"data"


def test_stamp_before_mark(mount: Recorded) -> None:
    """A stray write is found before the file counts as being pushed: also the next gateway, which
    finds no mark, does not take it for our own."""
    (mount.home / "f").write_bytes(b"known")
    ino = mount.adopt(b"f", cached=True)
    connected(mount)
    (mount.home / "f").write_bytes(b"stray")
    os.utime(mount.home / "f", ns=(1, 1))
    mount.write(ino, 0, b"o")
    for _ in range(2):
        mount.now()
        mount.await_message("inconsistent", path="f")
        assert mount.journal.flights() == {}
        mount.stop()
        connected(mount)
    assert (mount.home / "f").read_bytes() == b"stray"


def test_only_what_changes_content_marks(mount: Recorded) -> None:
    """A change of mode in doubt does not make somebody's write our own."""
    (mount.home / "f").write_bytes(b"known")
    ino = mount.adopt(b"f", cached=True)
    mount.setattr(ino, mode=0o100600)
    with Journals(mount) as journal:
        journal.take_off([mount.next_id - 1])
    connected(mount)
    assert mount.gateway is not None and mount.gateway._engine is not None
    assert not mount.gateway._engine.progress.is_pushing(ino)


def test_newer_bytes_never_newer_sizes(mount: Recorded, monkeypatch: pytest.MonkeyPatch) -> None:
    """A truncation that is not durable yet is not executed with an older write: power loss may take
    it back, and home's bytes behind it would be gone."""
    (mount.home / "f").write_bytes(b"0123456789")
    ino = mount.adopt(b"f", cached=True)
    connected(mount)
    mount.write(ino, 0, b"ab")
    write, real = mount.next_id - 1, Pusher.execute

    def execute(self: Pusher, action: Any) -> Any:
        if action.ids == (write,):
            mount.truncate(ino, 5)
            mount.put(ino, 0, b"AB")
            self.work.rows[ino] = self.work.view.row(ino)
        done = real(self, action)
        if action.ids == (write,):
            found.append((mount.home / "f").read_bytes())
        return done

    found: list[bytes] = []
    monkeypatch.setattr(Pusher, "execute", execute)
    mount.replay()
    assert found == [b"AB23456789"]
    assert not mount.pending()
    assert (mount.home / "f").read_bytes() == b"AB234"
