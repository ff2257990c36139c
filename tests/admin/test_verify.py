"""afmctl's verify: the report is awaited, shown, and told by the exit status."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import trio
from click.testing import CliRunner, Result

from afmfs.admin import find
from afmfs.admin.access import READ_SECONDS, Access, Reply
from afmfs.admin.afmctl import main
from afmfs.admin.find import Mount
from afmfs.admin.verify import render_difference, render_summary
from afmfs.cache.command.commands import execute
from afmfs.cache.report.status import render_json
from afmfs.errors import AfmError, Refused
from tests.admin.fake import FakeFileset

NOTHING = {"files": 3, "directories": 1, "others": 0, "bytes_compared": 0, "differences": {}}
MISSING = {"path": "d/\udcff\n", "path_hex": "ff", "difference": "missing"}
EXTRA = {"path": "new", "difference": "extra", "home": "file"}


class ReportingFileset(FakeFileset):
    """Its reports take two looks at its status."""

    def __init__(self) -> None:
        super().__init__(cache="/var/lib/afmfs/sw1")
        self.rows: list[dict[str, Any]] = []
        self.errno = self.looks = 0

    def start_report(self, kind: str, **options: Any) -> int:
        self.calls.append((kind, options))
        self.looks = 2
        self._show(running=True)
        return 7

    def cancel_report(self) -> int:
        self.calls.append("cancel")
        if not self.looks:
            raise Refused("no report is being made")
        return 7

    def status(self) -> Any:
        if self.looks:
            self.looks -= 1
            self._show(running=bool(self.looks))
        return super().status()

    def _show(self, *, running: bool) -> None:
        code = 0 if running else self.errno
        shown = {"number": 7, "kind": "verify", "running": running, "errno": code, "reason": "why"}
        self.shown = replace(self.shown, report=shown)


class FakeAccess(Access):
    def __init__(self, fileset: ReportingFileset) -> None:
        super().__init__()
        self.fileset = fileset

    def chunks(self, path: str, *, timeout: float = READ_SECONDS) -> Iterator[bytes]:
        if not path.endswith("/report"):
            yield render_json(self.fileset.status()).encode()
            return
        data = "".join(json.dumps(row) + "\n" for row in self.fileset.rows).encode()
        yield data[:10]
        yield data[10:]

    def command(self, path: str, line: str, *, timeout: float = 1) -> Reply:
        try:
            text = trio.run(execute, self.fileset, line)
        except AfmError as error:
            return Reply(error.errno, f"{error}\n")
        return Reply(0, text.partition("\n")[2])


@pytest.fixture
def fileset() -> ReportingFileset:
    return ReportingFileset()


@pytest.fixture
def afmctl(fileset: ReportingFileset, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    monkeypatch.setattr(find, "mounts", lambda: [Mount("fs1", "/mnt/sw1", "0:1")])
    return lambda *words: CliRunner().invoke(main, words, obj=lambda: FakeAccess(fileset))


@pytest.mark.parametrize(
    ("rows", "status", "text"),
    [
        ([], 0, "3 files, 1 directory, 0 others\nno differences\n"),
        ([EXTRA], 0, "no differences, 1 new name at home\n"),
        ([EXTRA, MISSING], 1, "1 difference (1 missing), 1 new name at home\n"),
    ],
)
def test_the_exit_status_tells(
    fileset: ReportingFileset,
    afmctl: Callable[..., Result],
    rows: list[dict[str, Any]],
    status: int,
    text: str,
) -> None:
    kinds = [row["difference"] for row in rows]
    summary = NOTHING | {"differences": {kind: kinds.count(kind) for kind in kinds}}
    fileset.rows = [*rows, {"summary": summary, "report": 7}]
    result = afmctl("fs1", "verify", "--data", "dir")
    assert (result.exit_code, result.stderr) == (status, "")
    assert result.stdout.endswith(text)
    assert ("verify", {"data": True, "ino": 16}) in fileset.calls
    result = afmctl("fs1", "verify", "--json")
    assert [json.loads(line) for line in result.stdout.splitlines()] == fileset.rows
    assert result.exit_code == status


def test_a_failure_is_no_difference(
    fileset: ReportingFileset, afmctl: Callable[..., Result]
) -> None:
    fileset.errno = errno.EHOSTDOWN
    result = afmctl("fs1", "verify")
    assert (result.exit_code, result.stdout, result.stderr) == (2, "", "afmctl: verify: why\n")
    fileset.shown = replace(fileset.shown, state="Disconnected")
    assert afmctl("fs1", "verify").exit_code == 2
    assert afmctl("no such", "verify").exit_code == 2
    assert afmctl("fs1", "verify", "nowhere").exit_code == 2


def test_another_report_in_its_place_is_not_taken_for_it(
    fileset: ReportingFileset, afmctl: Callable[..., Result]
) -> None:
    fileset.rows = [{"summary": NOTHING, "report": 8}]
    result = afmctl("fs1", "verify", "--json")
    assert (result.exit_code, "replaced" in result.stderr) == (2, True)
    fileset.rows = []
    assert afmctl("fs1", "verify").exit_code == 2


def test_cancelling(fileset: ReportingFileset, afmctl: Callable[..., Result]) -> None:
    result = afmctl("fs1", "verify", "--cancel")
    assert (result.exit_code, result.stderr) == (2, "afmctl: no report is being made\n")
    fileset.looks = 3
    assert afmctl("fs1", "verify", "--cancel").stdout == "verify: report 7 is being ended\n"
    assert afmctl("fs1", "verify", "--cancel", "dir").exit_code == 2


def test_who_is_interrupted_wants_no_report(
    fileset: ReportingFileset, afmctl: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("afmfs.admin.verify.rows", interrupted)
    assert afmctl("fs1", "verify", "--data", "dir").exit_code == 1
    assert fileset.calls[-1] == "cancel"


@pytest.mark.parametrize(
    ("row", "line"),
    [
        (MISSING, "missing         d/\udcff\\n\n"),
        (
            {"path": "a", "difference": "mtime", "cache": 1, "home": 1_600_000_000_000_000_000},
            "mtime           a: 1970-01-01T00:00:00.000000001Z in the cache,"
            " 2020-09-13T12:26:40.000000000Z at home\n",
        ),
        (
            {"path": "a", "difference": "mtime", "cache": -1, "home": 10**24},
            "mtime           a: 1969-12-31T23:59:59.999999999Z in the cache,"
            " 1000000000000000.000000000 s at home\n",
        ),
        (
            {"path": "a", "difference": "data", "bytes": 4096, "ranges": [[0, 4096]]},
            "data            a: 4096 bytes in blocks that differ, at 0-4096\n",
        ),
        (
            {"path": "a", "difference": "nulled", "start": 1, "end": 2, "job": 3, "trash": 9},
            "nulled          a: bytes 1-2 are null at home since job 3; what was there is in its"
            " trash\n",
        ),
        (
            {"path": None, "difference": "unrepresentable", "op": "Mknod", "errno": "EPERM"},
            "unrepresentable an inode without a name: home can't hold it: Mknod, EPERM\n",
        ),
        (
            {"path": "a", "difference": "type", "cache": "file", "home": "symlink"},
            "type            a: file in the cache, symlink at home\n",
        ),
        (
            {"path": "a", "difference": "target", "cache": "\udcff", "home": "b\n"},
            "target          a: \udcff in the cache, b\\n at home\n",
        ),
        ({"path": "a", "difference": "lost", "job": 3}, None),
        ({"path": "a", "difference": "version", "cache": 3, "home": 4}, None),
        ({"path": "a", "difference": "in doubt", "reason": "x"}, "in doubt        a: x\n"),
        (EXTRA, "extra           new: a new name at home (file)\n"),
    ],
)
def test_a_difference_is_one_line(row: dict[str, Any], line: str | None) -> None:
    text = render_difference(row)
    assert text.count("\n") == 1
    assert line in (None, text)


def test_a_summary() -> None:
    found = {"others": 2, "bytes_compared": 10, "differences": {"size": 2, "data": 1, "extra": 3}}
    assert render_summary(NOTHING | found) == (
        "3 files, 1 directory, 2 others; 10 bytes compared\n"
        "3 differences (1 data, 2 size), 3 new names at home\n"
    )
