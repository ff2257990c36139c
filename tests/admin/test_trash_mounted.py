"""The trash at a real mount: what a resync moved aside is listed, brought back, thrown away."""

from __future__ import annotations

import errno
import json
import os
import stat
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import MakeMount
from tests.harness.mounting import Mount, wait_until

pytestmark = pytest.mark.mounted

BLOCK = 4096
OLD = bytes([1]) * BLOCK + bytes([2]) * BLOCK + bytes([3]) * 100
NULLED = bytes(BLOCK) + OLD[BLOCK : 2 * BLOCK] + bytes(100)


@pytest.fixture
def mount(make_mount: MakeMount, home: Path) -> Mount:
    (home / "d").mkdir()
    (home / "d" / "partial").write_bytes(OLD)
    (home / "d" / "whole").write_bytes(b"whole")
    (home / "unread").mkdir()
    return make_mount(home, "fileset=sw1", "device=fs-test", "block_size=4096")


def ok(mount: Mount, *words: str) -> str:
    run = mount.afmctl(*words)
    assert run.returncode == 0, run.stderr
    return run.stdout


def refused(mount: Mount, *words: str) -> str:
    run = mount.afmctl(*words)
    assert run.returncode == 1, run.stdout
    return run.stderr


def events(mount: Mount, name: str) -> list[dict[str, Any]]:
    found = map(json.loads, ok(mount, "events", "--json").splitlines())
    return [event for event in found if event["name"] == name]


def resync(mount: Mount) -> None:
    """To its end."""
    done = len(events(mount, "afmManualResyncComplete"))
    mount.flush()
    (mount.point / ".afm/control").write_text("resync\n")
    wait_until(
        lambda: len(events(mount, "afmManualResyncComplete")) > done, 30, "the resync is done"
    )


def read_block(mount: Mount, number: int) -> bytes:
    with open(mount.point / "d" / "partial", "rb", buffering=0) as file:
        return os.pread(file.fileno(), BLOCK, number * BLOCK)


def nulled(mount: Mount) -> None:
    """One block of `partial` is cached; a resync makes the others null, and they are read so."""
    read_block(mount, 1)
    resync(mount)
    assert (mount.home / "d" / "partial").read_bytes() == NULLED
    assert (mount.point / "d" / "partial").read_bytes() == NULLED


def changed(mount: Mount) -> None:
    """`whole` was changed at home: a resync replaces it."""
    assert (mount.point / "d" / "whole").read_bytes() == b"whole"
    (mount.home / "d" / "whole").write_bytes(b"of a stranger")
    resync(mount)
    assert (mount.home / "d" / "whole").read_bytes() == b"whole"


def test_bytes_that_were_nulled_come_back_into_their_file(mount: Mount) -> None:
    nulled(mount)
    with open(mount.point / "d" / "partial", "r+b") as file:
        file.write(b"newer")
    mount.flush()
    before = (mount.point / "d" / "partial").stat()
    told = ok(mount, "trash", "restore", "1", "d/partial")
    assert told == f"restored d/partial: {BLOCK + 100 - 5} bytes that were null\n"
    expected = b"newer" + OLD[5:]
    assert (mount.home / "d" / "partial").read_bytes() == expected
    assert (mount.point / "d" / "partial").read_bytes() == expected
    after = (mount.point / "d" / "partial").stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert (mount.home / "d" / "partial").stat().st_mtime_ns == before.st_mtime_ns
    # It is a version like any other: it can be written, and nothing contradicts.
    with open(mount.point / "d" / "partial", "r+b") as file:
        file.seek(2 * BLOCK)
        file.write(b"again")
    mount.flush()
    assert mount.status()["state"] == "Active"
    assert (mount.home / "d" / "partial").read_bytes()[2 * BLOCK :][:5] == b"again"
    assert "was restored before" in refused(mount, "trash", "restore", "1", "d/partial")


def test_what_is_pending_is_not_lost(mount: Mount) -> None:
    nulled(mount)
    ok(mount, "stop")
    with open(mount.point / "d" / "partial", "r+b") as file:
        file.write(b"pending")
    ok(mount, "trash", "restore", "1")
    assert (mount.home / "d" / "partial").read_bytes() == OLD
    assert (mount.point / "d" / "partial").read_bytes() == b"pending" + OLD[7:]
    ok(mount, "start")
    mount.flush()
    assert (mount.home / "d" / "partial").read_bytes() == b"pending" + OLD[7:]


def test_a_replaced_file_comes_back_beside(mount: Mount) -> None:
    changed(mount)
    at = mount.point / "d" / "whole.restored-1"
    assert not at.exists()  # the kernel believes so for a while
    times = (mount.point / "d").stat().st_mtime_ns
    assert ok(mount, "trash", "restore", "1", "d") == "restored d/whole.restored-1\n"
    assert at.read_bytes() == b"of a stranger"
    assert (mount.point / "d" / "whole").read_bytes() == b"whole"
    assert sorted(os.listdir(mount.point / "d")) == ["partial", "whole", "whole.restored-1"]
    assert (mount.point / "d").stat().st_mtime_ns == times
    at.write_bytes(b"is like any other")
    mount.flush()
    assert (mount.home / "d" / "whole.restored-1").read_bytes() == b"is like any other"
    assert mount.status()["state"] == "Active"
    (event,) = events(mount, "afmTrashRestored")
    assert (event["job"], event["entries"], event["refused"]) == (1, 1, 0)


def test_a_directory_comes_back_with_what_is_in_it(mount: Mount) -> None:
    (mount.point / "d" / "whole").read_bytes()
    (mount.home / "d" / "whole").unlink()
    (mount.home / "d" / "whole").mkdir()
    (mount.home / "d" / "whole" / "inner").write_text("inner")
    resync(mount)
    links = (mount.point / "d").stat().st_nlink
    ok(mount, "trash", "restore", "1")
    at = mount.point / "d" / "whole.restored-1"
    assert stat.S_ISDIR(at.stat().st_mode)
    assert (at / "inner").read_text() == "inner"
    assert (mount.point / "d").stat().st_nlink == links + 1


def test_listed_and_emptied(mount: Mount) -> None:
    changed(mount)
    resync(mount)
    nulled(mount)
    found = [json.loads(line) for line in ok(mount, "trash", "list", "--json").splitlines()]
    assert [(f["path"], f["why"], f["kind"], f["size"], f["state"]) for f in found] == [
        ("d/whole", "changed", "file", 13, "moved"),
        ("d/partial", "nulled", "file", len(OLD), "moved"),
    ]
    first, last = found[0]["job"], found[1]["job"]
    table = ok(mount, "trash", "list", str(last)).splitlines()
    assert table[0].split() == ["ID", "Why", "Kind", "Size", "Moved", "aside", "State", "Path"]
    assert table[1].split()[:4] == [str(last), "nulled", "file", str(len(OLD))]
    assert table[2] == f"1 entry, {len(OLD)} bytes"
    index = mount.home / ".afm" / ".afmtrash" / str(first) / "index"
    assert json.loads(index.read_text())["path"] == "d/whole"
    assert ok(mount, "trash", "empty", str(first)) == (
        "trash empty: 1 entry, 13 bytes are gone for good\n"
    )
    assert os.listdir(mount.home / ".afm" / ".afmtrash") == [str(last)]
    assert "there is nothing of ID" in refused(mount, "trash", "restore", str(first))
    assert ok(mount, "trash", "empty", "--all").startswith("trash empty: 1 entry")
    assert ok(mount, "trash", "list").splitlines()[-1] == "0 entries, 0 bytes"
    assert "there is nothing of ID 99" in refused(mount, "trash", "empty", "99")
    assert "there is nothing of ID 99" in refused(mount, "trash", "restore", "99")
    assert len(events(mount, "afmTrashEmptied")) == 2
    assert events(mount, "afmTrashRestored") == []


def test_without_home(mount: Mount) -> None:
    changed(mount)
    mount.home.rename(mount.home.parent / "away")
    with pytest.raises(OSError):
        os.listdir(mount.point / "unread")  # needs home, and so finds out
    mount.await_state("Unmounted")
    assert "d/whole" in ok(mount, "trash", "list")
    assert "needs home" in refused(mount, "trash", "restore", "1")
    assert "needs home" in refused(mount, "trash", "empty", "1")
    (mount.home.parent / "away").rename(mount.home)


def test_wrong_words(mount: Mount) -> None:
    for words in (
        "frobnicate", "restore", "restore x", "empty", "empty 1 --all", "list --all", "list 0",
    ):  # fmt: skip
        run = mount.afmctl("trash", *words.split())
        assert run.returncode == 2, run.stdout


def test_names_of_any_bytes(mount: Mount) -> None:
    name = b"\xff\n '"
    (mount.point / os.fsdecode(name)).write_bytes(b"ours")
    mount.flush()
    (mount.home / os.fsdecode(name)).write_bytes(b"theirs")
    resync(mount)
    found = json.loads(ok(mount, "trash", "list", "--json"))
    assert bytes.fromhex(found["path_hex"]) == name
    ok(mount, "trash", "restore", "1", os.fsdecode(name))
    assert (mount.point / os.fsdecode(name + b".restored-1")).read_bytes() == b"theirs"


FILES = 300


def ask(control: int) -> None:
    """Restore everything; the mount may be killed over it."""
    try:
        os.write(control, b"trash restore 1\n")
    except OSError as exc:
        assert exc.errno in (errno.ENOTCONN, errno.ECONNABORTED, errno.EIO), exc


@pytest.mark.parametrize("who", [pytest.param("gateway", marks=pytest.mark.long), "both"])
def test_killed_while_it_restores(mount: Mount, who: str) -> None:
    """It goes on by itself, and what came back is seen: no null is cached over it."""
    names = [f"p{n}" for n in range(FILES)]
    home, point = mount.home / "d", mount.point / "d"
    for name in names:
        (home / name).write_bytes(OLD)
    for name in names:
        with open(point / name, "rb", buffering=0) as file:
            os.pread(file.fileno(), BLOCK, BLOCK)
    resync(mount)
    for name in names:
        assert (point / name).read_bytes() == NULLED

    def back() -> int:
        return sum((home / name).read_bytes() == OLD for name in names)

    control = os.open(mount.point / ".afm/control", os.O_RDWR)
    asking = threading.Thread(target=ask, args=(control,))
    asking.start()
    wait_until(lambda: back() > 20, 20, "some are restored")
    mount.kill9(who)
    assert back() < FILES, "it was under way"
    if who == "both":
        mount.mount("none")
    asking.join(10)
    os.close(control)
    wait_until(lambda: events(mount, "afmTrashRestored"), 30, "it goes on by itself")
    assert back() == FILES
    for name in names:
        assert (point / name).read_bytes() == OLD
