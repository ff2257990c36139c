from __future__ import annotations

import errno
import json
import os
import shlex
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
from click.testing import CliRunner, Result

from afmfs.admin import find
from afmfs.admin.access import READ_SECONDS, Access, Hung, Reply
from afmfs.admin.afmctl import main
from afmfs.admin.find import Mount
from afmfs.cache.command.commands import TABLE, execute
from afmfs.cache.report.status import render_json
from afmfs.cache.store.schema import SCHEMA, VERSION
from afmfs.errors import AfmError
from afmfs.gateway.state.journal import Journal
from afmfs.model.entry import ROOT, Op
from afmfs.model.row_sum import row_sum
from tests.admin.fake import FakeFileset


class FakeAccess(Access):
    """Reaches filesets of this process by the paths of their control directories."""

    def __init__(self) -> None:
        super().__init__()
        self.filesets: dict[str, FakeFileset] = {}
        self.lines: list[str] = []

    def chunks(self, path: str, *, timeout: float = READ_SECONDS) -> Iterator[bytes]:
        fileset = self.filesets[path.rpartition("/.afm/")[0]]
        if fileset.broken:
            raise fileset.broken
        if path.endswith("/report"):
            text = fileset.report_lines()
            yield from (text[:10], text[10:])  # pieces end anywhere
        elif path.endswith("/events"):
            yield b"".join(json.dumps(event).encode() + b"\n" for event in fileset.events())
        elif path.endswith("/queue"):
            yield from (b'{"id": 1}\n', b'{"id": 2}\n')
        else:
            yield render_json(fileset.status()).encode()

    def command(self, path: str, line: str, *, timeout: float = 1) -> Reply:
        self.lines.append(line)
        try:
            text = trio.run(execute, self.filesets[path.rpartition("/.afm/")[0]], line)
        except AfmError as error:
            return Reply(error.errno, f"{error}\n")
        return Reply(0, text.partition("\n")[2])


Afmctl = Callable[..., Result]


@pytest.fixture
def access(monkeypatch: pytest.MonkeyPatch) -> FakeAccess:
    fake = FakeAccess()

    def mounts() -> list[Mount]:
        found = enumerate(fake.filesets.items())
        return [Mount(f.shown.device, point, f"0:{n}") for n, (point, f) in found]

    monkeypatch.setattr(find, "mounts", mounts)
    return fake


@pytest.fixture
def one(access: FakeAccess) -> FakeFileset:
    access.filesets["/mnt/sw1"] = FakeFileset(cache="/var/lib/afmfs/sw1")
    return access.filesets["/mnt/sw1"]


@pytest.fixture
def two(access: FakeAccess, one: FakeFileset) -> FakeFileset:
    access.filesets["/mnt/sw2"] = FakeFileset(fileset="sw2", cache="/var/lib/afmfs/sw2")
    return access.filesets["/mnt/sw2"]


@pytest.fixture
def afmctl(access: FakeAccess) -> Afmctl:
    return lambda *words: CliRunner().invoke(main, words, obj=lambda: access)


def test_getstate(afmctl: Afmctl, one: FakeFileset) -> None:
    for device in ("fs1", "/mnt/sw1"):
        result = afmctl(device, "getstate")
        assert result.stdout == (
            "Fileset Name Fileset Target Cache State Gateway Node Queue Length Queue numExec\n"
            "------------ -------------- ----------- ------------ ------------ -------------\n"
            "sw1          /home          Active      gw           0            0\n"
        )
    assert one.calls == []
    assert json.loads(afmctl("fs1", "getstate", "--json").stdout)["fileset"] == "sw1"


def test_getstate_says_what_is_the_matter_beside_its_table(
    afmctl: Afmctl, one: FakeFileset
) -> None:
    one.shown = replace(one.shown, state="Dirty", reason="2 entries are pending")
    assert afmctl("fs1", "getstate").stderr == ""
    one.shown = replace(one.shown, state="Unmounted", reason="/home: mount it", trouble=True)
    result = afmctl("fs1", "getstate")
    assert len(result.stdout.splitlines()) == 3
    assert result.stderr == "sw1: Unmounted: /home: mount it\n"


def test_getstate_lists_all_filesets_of_a_device(afmctl: Afmctl, two: FakeFileset) -> None:
    assert len(afmctl("fs1", "getstate").stdout.splitlines()) == 4
    assert len(json.loads(afmctl("fs1", "getstate", "--json").stdout)) == 2
    for words in (["fs1", "getstate", "-j", "sw2"], ["fs1", "-j", "sw2", "getstate"]):
        assert "sw1" not in afmctl(*words).stdout


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (OSError(errno.ENOTCONN, ""), "/mnt/sw2 is dead"),
        (Hung("/mnt/sw2/.afm/status.json"), "/mnt/sw2 does not answer"),
    ],
)
def test_getstate_shows_what_answers_and_names_what_does_not(
    afmctl: Afmctl, two: FakeFileset, error: OSError, text: str
) -> None:
    two.broken = error
    result = afmctl("fs1", "getstate")
    assert result.exit_code == 1
    assert len(result.stdout.splitlines()) == 3
    assert text in result.stderr
    assert afmctl("/mnt/sw2", "stop").exit_code == 1


def test_commands_reach_the_fileset_that_is_meant(
    afmctl: Afmctl, one: FakeFileset, two: FakeFileset
) -> None:
    assert afmctl("fs1", "stop", "-j", "sw2").exit_code == 0
    assert (one.calls, two.calls) == ([], ["touch", "stop"])
    result = afmctl("fs1", "stop")
    assert result.exit_code == 2
    assert "name one with -j: sw1, sw2" in result.stderr
    assert afmctl("fs1", "stop", "-j", "sw3").exit_code == 1


def test_the_reply_is_printed_without_the_command(afmctl: Afmctl, one: FakeFileset) -> None:
    assert afmctl("fs1", "flushPending").stdout == "flushPending: through 42\n"
    assert afmctl("fs1", "drop", "7").stdout.startswith("drop: entry 7")
    assert afmctl("fs1", "queue").stdout == '{"id": 1}\n{"id": 2}\n'
    assert afmctl("fs1", "events").stdout == "T afmStarted\n"
    assert json.loads(afmctl("fs1", "events", "--json").stdout)["name"] == "afmStarted"


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["nowhere", "getstate"], 1, "mounted: fs1 at /mnt/sw1"),
        (["fs1", "drop", "8"], 1, "no entry 8"),
        (["fs1", "drop"], 2, "ID"),
        (["fs1", "drop", "x"], 2, "is a number"),
        (["fs1", "flushpending"], 2, "did you mean flushPending"),
        (["fs1", "flushPending", "--timeout", "3"], 2, "--timeout is for --wait"),
        (["fs1", "flushPending", "--wait", "--timeout", "x"], 2, "x"),
        (["fs1", "stop", "--now"], 2, "--now"),
        (["fs1"], 2, "Missing command"),
        (["getstate"], 2, "DEVICE comes first"),
        (["help", "nothing"], 2, "unknown command"),
    ],
)
def test_errors(afmctl: Afmctl, one: FakeFileset, words: list[str], code: int, text: str) -> None:
    result = afmctl(*words)
    assert result.exit_code == code
    assert text in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize("path", ["dir/a file", "/mnt/sw1/dir/a file", "/mnt/sw1//dir/./a file"])
def test_cached(afmctl: Afmctl, access: FakeAccess, one: FakeFileset, path: str) -> None:
    result = afmctl("fs1", "cached", path)
    assert result.stdout == "partial 1 of 17 bytes, 1 of 2 blocks of 4096 bytes\n"
    assert shlex.split(access.lines[0]) == ["cached", "--", "dir/a file"]


def test_cached_takes_names_of_any_bytes(afmctl: Afmctl, one: FakeFileset) -> None:
    result = afmctl("fs1", "cached", "--json", os.fsdecode(b"dir/\xff\n"))
    assert json.loads(result.stdout)["size"] == 18


def test_cached_follows_links_above_the_mount_point(
    afmctl: Afmctl, access: FakeAccess, one: FakeFileset, tmp_path: Path
) -> None:
    (tmp_path / "link").symlink_to("/mnt")
    assert afmctl("fs1", "cached", f"{tmp_path}/link/sw1/dir").exit_code == 0
    assert access.lines == ["cached -- dir\n"]
    assert afmctl("fs1", "cached", "/etc").exit_code == 2


# -- flushPending --wait -------------------------------------------------------------------------


class Draining(FakeFileset):
    """Every look at it finds one entry less."""

    left = 3

    def status(self) -> Any:
        state = "Dirty" if self.left else "Active"
        self.left = max(0, self.left - 1)
        return replace(
            self.shown, state=state, queue_length=self.left, flushed_through=42 - self.left
        )


def test_wait(afmctl: Afmctl, access: FakeAccess) -> None:
    access.filesets["/mnt/sw1"] = Draining()
    result = afmctl("fs1", "flushPending", "--wait", "--timeout", "20")
    assert (result.exit_code, result.stdout) == (0, "flushPending: through 42\n")
    assert result.stderr == ""


def test_wait_says_why_it_gave_up(afmctl: Afmctl, one: FakeFileset) -> None:
    one.shown = replace(one.shown, state="Dirty", queue_length=4, requeued=4, settled_through=42)
    result = afmctl("fs1", "flushPending", "--wait")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "4 entries were refused by home" in result.stderr


def test_wait_times_out(afmctl: Afmctl, one: FakeFileset) -> None:
    one.shown = replace(one.shown, state="Dirty", queue_length=4)
    result = afmctl("fs1", "flushPending", "--wait", "--timeout", "0.1")
    assert result.exit_code == 1
    assert "timed out: 4 pending, sw1 is Dirty" in result.stderr


def test_wait_gives_up_on_a_home_that_stays_away(afmctl: Afmctl, one: FakeFileset) -> None:
    one.shown = replace(one.shown, state="Disconnected", reason="no route", queue_length=4)
    result = afmctl("fs1", "flushPending", "--wait", "--timeout", "0.1")
    assert result.exit_code == 1
    assert "needs home, which is away (Disconnected: no route)" in result.stderr


# -- help ----------------------------------------------------------------------------------------


def test_help(afmctl: Afmctl) -> None:
    for words in (["--help"], ["help"], ["fs1", "help"]):
        result = afmctl(*words)
        assert result.exit_code == 0, result.output
        assert all(name in result.stdout for name in TABLE)
        assert "bash_source" in result.stdout
    assert afmctl("fs1", "help", "drop").stdout.startswith("drop ID")
    assert "afmctl afmfs drop 4711" in afmctl("fs1", "drop", "--help").stdout


# -- an unmounted cache --------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path: Path, access: FakeAccess) -> Path:
    directory = tmp_path / "cache"
    (directory / "gateway/2").mkdir(parents=True)
    database = sqlite3.connect(directory / "cache.db")
    database.executescript(f"PRAGMA journal_mode=WAL; PRAGMA user_version={VERSION}; {SCHEMA}")
    settings = {"device": "fs1", "fileset": "sw9", "target": "/h", "block_size": 4096, "home": 2}
    database.executemany("INSERT INTO fileset VALUES (?, ?)", settings.items())
    columns = "(ino, mode, uid, gid, rdev, nlink, size, atime, mtime, ctime, gen, whole)"
    database.executemany(
        f"INSERT INTO inode {columns} VALUES (?, ?, 0, 0, 0, 1, ?, 0, 0, 0, 1, ?)",
        [(ROOT, stat.S_IFDIR, 0, 1), (16, stat.S_IFREG, 10_000, 0), (17, stat.S_IFREG, 5, 1)],
    )
    database.execute("UPDATE inode SET listed = 2, retired = 0, changed = 5 * (ino = 17)")
    database.executemany("INSERT INTO dentry VALUES (1, ?, ?, ?)", [(1, b"a", 16), (2, b"b", 17)])
    bits = bytes([4]) + bytes(1023)
    database.execute("INSERT INTO blockmap VALUES (16, 0, ?, ?)", (bits, row_sum(16, 0, bits)))
    database.execute(
        'INSERT INTO queue (id, op, ino, kind, start, "end", queued_ns)'
        f" VALUES (5, {Op.WRITE:d}, 17, {stat.S_IFREG}, 0, 5, 0)"
    )
    database.execute("UPDATE counters SET queue_length = 1, bytes_pending = 5")
    database.commit()
    database.close()
    return directory


def test_an_unmounted_cache(afmctl: Afmctl, cache: Path) -> None:
    text = afmctl(str(cache), "getstate").stdout
    assert text.splitlines()[2].split() == ["sw9", "/h", "Dirty", "-", "1", "0"]
    status = json.loads(afmctl(str(cache), "getstate", "--json").stdout)
    assert (status["dirty_bytes"], status["flushed_through"]) == (5, 4)
    assert json.loads(afmctl(str(cache), "queue").stdout)["path"] == "b"
    assert afmctl(str(cache), "events").stdout == ""
    assert afmctl(str(cache), "cached", "a").stdout == (
        "partial 1808 of 10000 bytes, 1 of 3 blocks of 4096 bytes\n"
    )
    assert afmctl(str(cache), "cached", "b").stdout.endswith("dirty\n")
    assert afmctl(str(cache), "cached", ".").stdout.startswith("cached ")


def test_a_job_of_an_unmounted_cache(afmctl: Afmctl, cache: Path) -> None:
    record = {"id": 4, "kind": "resync", "manual": True, "reason": "f: changed"}
    database = sqlite3.connect(cache / "cache.db")
    database.execute("INSERT INTO fileset VALUES ('job', ?)", (json.dumps(record),))
    database.commit()
    database.close()
    status = json.loads(afmctl(str(cache), "getstate", "--json").stdout)
    assert (status["state"], status["queue_length"], status["job"]["phase"]) == ("Dirty", 1, "due")
    journal = Journal(cache / "gateway/2")
    with journal.transaction() as rows:
        rows.execute("INSERT INTO job VALUES (4, '{}', 'pushing', 0, '{\"total\": 9}')")
        rows.execute("INSERT INTO priority (n, ino, bytes) VALUES (1, 16, 70), (2, 17, 0)")
    journal.close()
    status = json.loads(afmctl(str(cache), "getstate", "--json").stdout)
    assert (status["queue_length"], status["job"]["left"], status["job"]["total"]) == (3, 2, 9)
    assert status["reason"] == "a resync goes on with the next mount; 1 entry is pending"


def test_a_target_of_any_bytes(afmctl: Afmctl, cache: Path) -> None:
    database = sqlite3.connect(cache / "cache.db")
    for stored in ("?", "CAST(? AS TEXT)"):
        database.execute(f"UPDATE fileset SET value={stored} WHERE key='target'", (b"/h/\xff",))
        database.commit()
        assert b"/h/\xff" in afmctl(str(cache), "getstate").stdout_bytes
    database.close()


def test_requeued_entries_of_an_unmounted_cache(afmctl: Afmctl, cache: Path) -> None:
    database = sqlite3.connect(cache / "gateway/2/gateway.db")
    database.executescript("""
        CREATE TABLE flight (id); CREATE TABLE outcome (id);
        CREATE TABLE requeued (id, errno, reason, tries, next_try_ns);
        INSERT INTO requeued VALUES (5, 28, 'full', 3, 0);
    """)
    database.close()
    assert json.loads(afmctl(str(cache), "queue").stdout)["errno"] == "ENOSPC"
    assert json.loads(afmctl(str(cache), "getstate", "--json").stdout)["requeued"] == 1


def test_the_trash_of_an_unmounted_cache(afmctl: Afmctl, cache: Path) -> None:
    assert afmctl(str(cache), "trash", "list").stdout.endswith("\n0 entries, 0 bytes\n")
    database = sqlite3.connect(cache / "gateway/2/gateway.db")
    database.executescript("""
        CREATE TABLE trash (number, job, path BLOB, ino, kind, size, why, time_ns, state);
        INSERT INTO trash VALUES (71, 3, x'ff0a', 16, 32768, 5, 'changed', 0, 'moved');
        INSERT INTO trash VALUES (72, 4, x'62', 17, 16384, 0, 'in the way', 0, 'restored');
    """)
    database.close()
    assert json.loads(afmctl(str(cache), "trash", "list", "3", "--json").stdout) == {
        "job": 3, "number": 71, "path": "\udcff\n", "path_hex": "ff0a", "kind": "file",
        "why": "changed", "size": 5, "time": "1970-01-01T00:00:00.000Z", "state": "moved",
    }  # fmt: skip
    assert afmctl(str(cache), "trash", "list").stdout == (
        "ID  Why         Kind       Size  Moved aside               State     Path\n"
        '3   changed     file       5     1970-01-01T00:00:00.000Z  moved     "\\udcff\\n"\n'
        "4   in the way  directory  0     1970-01-01T00:00:00.000Z  restored  b\n"
        "2 entries, 5 bytes\n"
    )


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["trash", "restore", "3"], "trash restore needs the mount"),
        (["stop"], "is not mounted, and stop needs the mount: mount.afmfs none MOUNTPOINT -o"),
        (["cached", "none"], "none: not known to the cache"),
        (["cached", "/mnt/sw9/a"], "is not mounted; give a path relative"),
        (["getstate", "-j", "sw1"], "no fileset 'sw1' there, but: sw9"),
    ],
)
def test_errors_of_an_unmounted_cache(
    afmctl: Afmctl, cache: Path, words: list[str], text: str
) -> None:
    result = afmctl(str(cache), *words)
    assert result.exit_code == 1
    assert text in result.stderr


def test_a_cache_of_another_format(afmctl: Afmctl, cache: Path) -> None:
    database = sqlite3.connect(cache / "cache.db")
    database.execute("PRAGMA user_version = 99")
    database.close()
    assert "format 99" in afmctl(str(cache), "getstate").stderr


def test_a_cache_directory_of_a_mount(
    afmctl: Afmctl, one: FakeFileset, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one.shown = replace(one.shown, cache=str(cache))
    assert afmctl(str(cache), "stop").exit_code == 0
    assert one.calls == ["touch", "stop"]


def test_a_reader_that_has_seen_enough_is_no_error(cache: Path) -> None:
    command = [sys.executable, "-m", "afmfs.admin.afmctl", str(cache), "queue"]
    read, write = os.pipe()
    os.close(read)
    try:
        run = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, timeout=60, check=False)
    finally:
        os.close(write)
    assert run.stderr == b""
