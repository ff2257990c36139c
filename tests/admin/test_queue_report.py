from __future__ import annotations

import errno
import json
import sqlite3
import stat
from typing import Any

import pytest

from afmfs.cache.report.event import read_events, render_events
from afmfs.cache.report.queue import lines, pages, rfc3339
from afmfs.cache.store.schema import SCHEMA
from afmfs.model.entry import ROOT, UNLINKED, Op

GATEWAY = """
CREATE TABLE flight (id INTEGER PRIMARY KEY);
CREATE TABLE outcome (seq INTEGER PRIMARY KEY AUTOINCREMENT, id, ino, home_size, home_mtime,
    home_ino, result);
CREATE TABLE requeued (id INTEGER PRIMARY KEY, errno, reason, tries, next_try_ns, since_ns,
    pushing);
"""
PRIORITY = """
CREATE TABLE job (id INTEGER PRIMARY KEY, record TEXT, phase TEXT, cursor, figures TEXT);
CREATE TABLE priority (n INTEGER PRIMARY KEY, ino, bytes, verdict TEXT, trash, errno, reason TEXT,
    tries, next_try_ns, since_ns);
"""
NOW = 1_700_000_100_000_000_000
THEN = NOW - 90_500_000_000


@pytest.fixture
def cache() -> sqlite3.Connection:
    database = sqlite3.connect(":memory:")
    database.executescript(SCHEMA)
    return database


@pytest.fixture
def gateway() -> sqlite3.Connection:
    database = sqlite3.connect(":memory:")
    database.executescript(GATEWAY)
    return database


def _name(cache: sqlite3.Connection, parent: int, name: bytes, ino: int) -> None:
    cache.execute("INSERT INTO dentry VALUES (?, ?, ?, ?)", (parent, ino, name, ino))


def _queue(cache: sqlite3.Connection, op: Op, ino: int, **columns: Any) -> int:
    columns = {"op": int(op), "ino": ino, "kind": stat.S_IFREG, "queued_ns": THEN} | columns
    values = {"start": 0, "end": 0, "flags": 0} | columns
    names = ", ".join(f'"{c}"' for c in values)
    marks = ", ".join("?" * len(values))
    return (
        cache.execute(f"INSERT INTO queue ({names}) VALUES ({marks})", [*values.values()]).lastrowid
        or 0
    )


def _report(cache: sqlite3.Connection, gateway: sqlite3.Connection | None = None) -> list[Any]:
    return [json.loads(line) for line in lines(cache, gateway, now_ns=NOW)]


def test_an_empty_queue_has_no_lines(cache: sqlite3.Connection) -> None:
    assert _report(cache) == []


def test_a_line(cache: sqlite3.Connection, gateway: sqlite3.Connection) -> None:
    _name(cache, ROOT, b"dir", 16)
    _name(cache, 16, b"file", 17)
    _queue(cache, Op.WRITE, 17, start=4096, end=5000)
    assert _report(cache, gateway) == [
        {
            "id": 1,
            "op": "Write",
            "path": "dir/file",
            "ino": 17,
            "start": 4096,
            "end": 5000,
            "size": 904,
            "queued": "2023-11-14T22:13:29.500Z",
            "age_seconds": 90.5,
            "state": "pending",
        }
    ]


def test_the_priority_queue_comes_first(
    cache: sqlite3.Connection, gateway: sqlite3.Connection
) -> None:
    for ino, name in ((16, b"dir"), (17, b"\xff"), (18, b"big"), (19, b"full")):
        _name(cache, ROOT, name, ino)
    _queue(cache, Op.WRITE, 18, end=5)
    gateway.executescript(PRIORITY)
    gateway.execute("INSERT INTO job VALUES (3, ?, 'pushing', 0, '')", ('{"kind": "failover"}',))
    gateway.executemany(
        "INSERT INTO priority VALUES (?,?,?,?,NULL,?,?,?,?,?)",
        [
            (1 << 50, 18, 5, None, None, None, None, None, None),
            (0, 16, 0, "{}", None, None, None, None, None),
            (7, 17, 9, None, None, None, None, None, None),
            (8, 19, 4, "{}", errno.ENOSPC, "no room", 2, NOW, THEN),
        ],
    )
    for page in (1, 2, 500):
        found = [line for part in pages(cache, gateway, now_ns=NOW, page=page) for line in part]
        first, second, full, big, entry = map(json.loads, found)
        assert first == {
            "queue": "priority", "op": "Failover", "path": "dir", "ino": 16, "bytes": 0,
            "state": "running",
        }  # fmt: skip
        assert (second["path_hex"], second["state"], second["bytes"]) == ("ff", "waiting", 9)
        assert full | {"state": "requeued", "errno": "ENOSPC", "reason": "no room"} == full
        assert (full["tries"], full["next_try"]) == (2, rfc3339(NOW))
        assert (big["ino"], entry["op"], entry["ino"]) == (18, "Write", 18)


def test_names_are_those_of_the_entry_in_directories_of_now(cache: sqlite3.Connection) -> None:
    _name(cache, ROOT, b"renamed", 16)
    _name(cache, 16, b"b", 17)
    _queue(cache, Op.MAKE, 17, parent=16, name=b"a")
    _queue(cache, Op.RENAME, 17, parent=16, name=b"a", parent2=16, name2=b"b")
    _queue(cache, Op.ATTR, ROOT, kind=stat.S_IFDIR)
    made, moved, root = _report(cache)
    assert (made["op"], made["path"]) == ("Create", "renamed/a")
    assert (moved["path"], moved["new_path"]) == ("renamed/a", "renamed/b")
    assert (root["op"], root["path"]) == ("Setattr", ".")
    assert "new_path" not in made


def test_what_is_removed_keeps_its_last_path(cache: sqlite3.Connection) -> None:
    _queue(cache, Op.MAKE, 16, kind=stat.S_IFDIR, parent=ROOT, name=b"d")
    _queue(cache, Op.MAKE, 17, parent=16, name=b"f")
    _queue(cache, Op.WRITE, 17, end=3)
    _queue(cache, Op.REMOVE, 17, parent=16, name=b"f")
    _queue(cache, Op.REMOVE, 16, kind=stat.S_IFDIR, parent=ROOT, name=b"d")
    assert [e["path"] for e in _report(cache)] == ["d", "d/f", "d/f", "d/f", "d"]
    assert [e["op"] for e in _report(cache)] == ["Mkdir", "Create", "Write", "Remove", "Rmdir"]


def test_what_was_replaced_keeps_its_last_path(cache: sqlite3.Connection) -> None:
    _name(cache, ROOT, b"new", 18)
    _queue(cache, Op.WRITE, 17, end=3)
    _queue(cache, Op.RENAME, 18, parent=ROOT, name=b"tmp", parent2=ROOT, name2=b"new", ino2=17)
    assert [e["path"] for e in _report(cache)] == ["new", "tmp"]


def test_unlinked_and_unknown_places(cache: sqlite3.Connection) -> None:
    _name(cache, UNLINKED, b"11", 17)
    _queue(cache, Op.WRITE, 17, end=3)
    _queue(cache, Op.WRITE, 99, end=3)
    assert [e["path"] for e in _report(cache)] == [".afm/unlinked/11", None]


def test_bytes_that_are_not_text(cache: sqlite3.Connection) -> None:
    _name(cache, ROOT, b"\xff\n\xe4", 17)
    _queue(cache, Op.SIZE, 17, end=3)
    (raw,) = lines(cache, None, now_ns=NOW)
    assert raw.count(b"\n") == 1
    entry = json.loads(raw)
    assert entry["path"].encode("utf-8", "surrogateescape") == b"\xff\n\xe4"
    assert entry["path_hex"] == "ff0ae4"


def test_states(cache: sqlite3.Connection, gateway: sqlite3.Connection) -> None:
    for ino in range(16, 20):
        _queue(cache, Op.MAKE, ino, parent=ROOT, name=b"%d" % ino)
    gateway.execute("INSERT INTO outcome (id, ino, result) VALUES (1, 16, 'done')")
    gateway.execute("INSERT INTO flight VALUES (2), (3)")
    gateway.execute("INSERT INTO requeued VALUES (3, 28, ?, 4, ?, 0, 0)", (b"\xff: full", NOW))
    done, flying, requeued, pending = _report(cache, gateway)
    assert [e["state"] for e in (done, flying, requeued, pending)] == [
        "executed",
        "executing",
        "requeued",
        "pending",
    ]
    assert requeued["errno"] == "ENOSPC"
    assert (requeued["reason"], requeued["tries"]) == ("\udcff: full", 4)
    assert requeued["next_try"] == "2023-11-14T22:15:00.000Z"


def test_pages_leave_out_what_goes_in_between(cache: sqlite3.Connection) -> None:
    for ino in range(16, 26):
        _queue(cache, Op.ATTR, ino)
    found = pages(cache, None, now_ns=NOW, page=4)
    assert len(next(found)) == 4
    cache.execute("DELETE FROM queue WHERE id < 7")
    assert [json.loads(line)["id"] for page in found for line in page] == [7, 8, 9, 10]


def test_rfc3339() -> None:
    assert rfc3339(0) == "1970-01-01T00:00:00.000Z"


def test_events(cache: sqlite3.Connection) -> None:
    cache.execute("INSERT INTO event VALUES (1, 0, 'afmStarted', NULL)")
    cache.execute(
        "INSERT INTO event VALUES (2, 1000000000, 'afmCmdRequeued', ?)",
        (json.dumps({"path": "a b\n", "errno": "ENOSPC", "tries": 2}),),
    )
    events = read_events(cache)
    assert render_events(events, as_json=False) == (
        "1970-01-01T00:00:00.000Z afmStarted\n"
        '1970-01-01T00:00:01.000Z afmCmdRequeued path="a b\\n" errno=ENOSPC tries=2\n'
    )
    found = [json.loads(line) for line in render_events(events, as_json=True).splitlines()]
    assert found == events
    assert [e["number"] for e in read_events(cache, latest=1)] == [2]
