"""Both processes killed in the middle of a replay, and what they knew harmed: gateway.db lost,
damaged, or put back from an older copy; entries of the queue deleted. The next mount recovers."""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import MakeMount
from tests.crash.points.board import Board
from tests.crash.points.seams import environment
from tests.harness.mounting import Mount, wait_until
from tests.harness.trees import Tree, assert_same, differences, snapshot

BLOCK = 4096
OPTIONS = (f"block_size={BLOCK}", "async_delay=3600", "durable_interval=1")


def journal(mount: Mount) -> Path:
    return mount.cache / "gateway" / "1" / "gateway.db"


def plant(home: Path) -> None:
    """What is at home before: files of many blocks, of which few will be cached."""
    dice = random.Random(1)
    (home / "old/inner").mkdir(parents=True)
    for number in range(40):
        (home / "old" / f"f{number}").write_bytes(dice.randbytes(6 * BLOCK + number))
    for number in range(20):
        (home / "old/inner" / f"g{number}").write_bytes(dice.randbytes(3 * BLOCK))


def work(point: Path) -> None:
    """Changes of every kind, most of them to files that are cached in part."""
    dice = random.Random(2)
    old = point / "old"
    for number in range(20):
        with (old / f"f{number}").open("r+b", buffering=0) as file:
            os.pwrite(file.fileno(), dice.randbytes(100), BLOCK * (number % 6) + 10)
    for number in range(10, 30, 2):
        (old / f"f{number}").rename(old / f"moved{number}")
    for number in range(30, 34):
        (old / f"f{number}").unlink()
    os.truncate(old / "f34", 5)
    os.truncate(old / "f35", BLOCK)
    os.truncate(old / "f35", 9 * BLOCK)
    os.link(old / "f36", point / "linked")
    (old / "f37").chmod(0o600)
    (old / "inner").rename(point / "inner moved")
    (point / "inner moved" / "g3").rename(point / "out")
    (point / "new").mkdir()
    for number in range(300):
        (point / "new" / f"n{number}").write_bytes(dice.randbytes(number * 10))
        if number % 3 == 0:
            (point / "new" / f"n{number}").rename(point / "new" / f"m{number}")
    (point / "new/again").write_bytes(b"first")
    (point / "new/again").unlink()
    (point / "new/again").write_bytes(b"second")
    os.symlink("again", point / "new/link")


CREATED = "home create: after"


@pytest.fixture
def board(tmp_path: Path) -> Iterator[Board]:
    board = Board.create(tmp_path / "board")
    yield board
    board.close()


@pytest.fixture
def mount(make_mount: MakeMount, home: Path, tmp_path: Path, board: Board) -> Mount:
    """With crash points, and something of everything at home."""
    plant(home)
    mount = make_mount(home, *OPTIONS, start=False)
    mount.environment = environment(tmp_path / "board")
    mount.mount()
    return mount


def interrupt(mount: Mount, board: Board, nth: int) -> None:
    """Kill both in the middle of a batch: home has that many new files."""
    board.arm(CREATED, nth, both=True)
    with suppress(OSError):  # it may be killed over its answer
        (mount.point / ".afm/control").write_text("flushPending")
    wait_until(lambda: board.deaths()[CREATED], 30, f"home has {nth} new files")
    mount.kill9("both")


def recover(mount: Mount) -> list[dict[str, Any]]:
    """Mount, wait for the end of the recovery, and flush; what it did."""
    mount.mount("none")
    wait_until(lambda: ended(mount), 60, f"the recovery ends\n{mount.events()}")
    mount.flush()
    assert mount.status()["state"] == "Active"
    return events(mount)


def events(mount: Mount) -> list[dict[str, Any]]:
    lines = (mount.point / ".afm/events").read_text().splitlines()
    return [json.loads(line) for line in lines]


def ended(mount: Mount) -> bool:
    names = [event["name"] for event in events(mount)]
    assert "afmRecoveryFail" not in names and "afmNeedsResync" not in names, names
    return names.count("afmRecoveryEnd") > 0


def remove(path: Path, copy: Path) -> None:
    for file in path.parent.glob("gateway.db*"):
        file.unlink()


def truncate(path: Path, copy: Path) -> None:
    settle(path)
    os.truncate(path, path.stat().st_size // 2 + 100)


def overwrite(path: Path, copy: Path) -> None:
    settle(path)
    path.write_bytes(random.Random(3).randbytes(50_000))


def spoil(path: Path, copy: Path) -> None:
    """Pages in the middle; the beginning is as it was."""
    settle(path)
    with path.open("r+b") as file:
        for page in range(1, path.stat().st_size // 4096):
            file.seek(page * 4096)
            file.write(bytes(64))


def drop_log(path: Path, copy: Path) -> None:
    Path(f"{path}-wal").unlink()


def put_back(path: Path, copy: Path) -> None:
    remove(path, copy)
    shutil.copy(copy, path)


def put_anothers(path: Path, copy: Path) -> None:
    put_back(path, copy)
    db = sqlite3.connect(path)
    with db:
        db.execute("UPDATE state SET value='another' WHERE key='journal'")
        db.execute("INSERT INTO outcome SELECT value, value, 1, 1, 1, 1, 'done', NULL FROM"
                   " json_each(?)", (json.dumps(list(range(100, 3000))),))  # fmt: skip
    db.close()


def settle(path: Path) -> None:
    """All of it into the one file."""
    db = sqlite3.connect(path)
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()


HARM: dict[str, Callable[[Path, Path], None]] = {
    "deleted": remove,
    "truncated": truncate,
    "overwritten": overwrite,
    "spoiled": spoil,
    "without its log": drop_log,
    "an older copy": put_back,
    "another cache's": put_anothers,
}


OFTEN = ("deleted", "overwritten", "an older copy")


@pytest.mark.mounted
@pytest.mark.parametrize(
    "harm", [pytest.param(h, marks=() if h in OFTEN else pytest.mark.long) for h in HARM]
)
def test_a_journal(mount: Mount, board: Board, home: Path, tmp_path: Path, harm: str) -> None:
    (mount.point / "before").write_bytes(b"before")
    mount.flush()
    mount.unmount()
    copy = tmp_path / "copy"
    settle(journal(mount))
    shutil.copy(journal(mount), copy)
    mount.mount("none")
    work(mount.point)
    wanted = final(home, mount.base / "model")
    interrupt(mount, board, 1 + len(harm) * 15)
    HARM[harm](journal(mount), copy)
    found = recover(mount)
    assert differences(wanted, snapshot(mount.point), ignore=["mtime"]) == []
    assert_same(mount.point, home)
    (lost,) = [event for event in found if event["name"] == "afmJournalLost"]
    start = [event for event in found if event["name"] == "afmRecoveryStart"][-1]
    assert start["reason"] == lost["reason"]
    print(lost["reason"], [e for e in found if e["name"] == "afmRecoveryEnd"])
    kept = list(journal(mount).parent.glob("gateway.db.damaged-*"))
    assert bool(kept) == (harm != "deleted")
    again = mount.afmctl("getstate")
    assert "Active" in again.stdout
    mount.remount()  # and once more nothing is to be recovered
    assert [event["name"] for event in events(mount)].count("afmJournalLost") == 1


def delete_rows(mount: Mount, which: str, dice: random.Random) -> int:
    """How many entries of the queue are lost."""
    db = sqlite3.connect(mount.cache / "cache.db")
    with db:
        rows = [number for (number,) in db.execute(f"SELECT id FROM queue WHERE {which}")]
        gone = dice.sample(rows, -(-len(rows) * 2 // 3)) if which == "1" else rows
        db.executemany("DELETE FROM queue WHERE id=?", [(number,) for number in gone])
    db.close()
    return len(gone)


def kept(wanted: Tree, home: Path) -> list[str]:
    """How home differs from the cache, but for names that the cache does not have."""
    found = snapshot(home)
    for path in found.keys() - wanted.keys():
        del found[path]
    for path, node in found.items():
        twins = tuple(twin for twin in node.twins if twin in wanted)
        found[path] = replace(node, twins=twins if len(twins) > 1 else ())
    return differences(wanted, found)


ROWS = {
    "all": "id > 0",
    "some": "1",
    "changes of names": "op <= 5",
    "renames": "op = 4",
    "new objects": "op = 1",
    "bytes and sizes": "op IN (6, 7)",
}


LESS_OFTEN = {("all", True), ("renames", True), ("some", False), ("changes of names", False),
              ("new objects", False), ("bytes and sizes", False)}  # fmt: skip


@pytest.mark.mounted
@pytest.mark.parametrize(
    ("rows", "begun"),
    [
        pytest.param(
            *case,
            marks=pytest.mark.long if case in LESS_OFTEN else (),
            id=f"{case[0]}, {'under way' if case[1] else 'at rest'}",
        )
        for case in itertools.product(ROWS, (False, True))
    ],
)
def test_a_queue(mount: Mount, board: Board, home: Path, rows: str, begun: bool) -> None:
    """Whatever is cached, and whatever only home has, is there afterwards under its name."""
    work(mount.point)
    wanted = final(home, mount.base / "model")
    if begun:
        interrupt(mount, board, 1 + len(rows) * 15)
    else:
        mount.kill9("both")
    lost = delete_rows(mount, ROWS[rows], random.Random(rows))
    found = recover(mount)
    (start, end) = [e for e in found if e["name"] in ("afmRecoveryStart", "afmRecoveryEnd")]
    assert start["reason"] == end["reason"] == f"{lost} entries of the queue were lost"
    now = snapshot(mount.point)
    assert differences(wanted, now, ignore=["mtime"]) == []
    assert not (left := kept(now, home)), "\n".join(left)
    print({key: end[key] for key in ("files", "aside", "nulled", "lost")})
    mount.remount()
    assert [event["name"] for event in events(mount)].count("afmRecoveryStart") == 1


def final(home: Path, model: Path) -> Tree:
    """What the changes come to; nothing of it is read through the mount, as that would cache it."""
    shutil.copytree(home, model, symlinks=True, ignore=shutil.ignore_patterns(".afm"))
    work(model)
    return snapshot(model)
