"""The command `resync`: refusals, the dry run, consent, the wait."""

from __future__ import annotations

import errno
import json
from dataclasses import replace
from typing import Any

import pytest

from afmfs.admin import resync
from afmfs.admin.job import render_summary
from afmfs.admin.progress import describe_job
from afmfs.cache.command.commands import execute
from afmfs.cache.report.status import JobStatus, Status
from afmfs.errors import AfmError
from tests.admin.fake import FakeFileset
from tests.admin.test_afmctl import (  # noqa: F401  # fixtures
    Afmctl,
    FakeAccess,
    access,
    afmctl,
    one,
)

PERFORMING = "afmctl: Performing resync of fileset: sw1\n"
HARMLESS = {
    "pushed": 2, "pushed_bytes": 3000, "made": 1, "replaced": 0, "aside": 0, "aside_bytes": 0,
    "nulled": 0, "nulled_bytes": 0, "adopted": 0, "lost": 0, "removed": 0,
}  # fmt: skip
JOB = JobStatus(id=4, kind="resync", phase="pushing", manual=True, reason="", left=1, total=2)


@pytest.mark.parametrize("state", ["Active", "Inactive", "NeedsResync"])
@pytest.mark.parametrize("line", ["resync", "resync --yes --wait --timeout 3"])
async def test_admitted(state: str, line: str) -> None:
    fileset = FakeFileset(state=state, queue_length=3 if state == "NeedsResync" else 0)
    assert await execute(fileset, line) == f"{line}\n{PERFORMING}"
    assert fileset.calls == ["touch", ("resync", False)]


async def test_keep_uncached() -> None:
    fileset = FakeFileset()
    await execute(fileset, "resync --keep-uncached")
    assert fileset.calls == ["touch", ("resync", True)]


@pytest.mark.parametrize("line", ["resync", "resync --dry-run"])
@pytest.mark.parametrize(
    ("state", "code", "way_on"),
    [
        ("Dirty", errno.EBUSY, "`flushPending --wait` first, or `resync --wait`"),
        ("Stopped", errno.EBUSY, "`start` first"),
        ("QueueOnly", errno.EBUSY, "wait for its end"),
        ("Recovery", errno.EBUSY, "wait for its end"),
        ("FlushOnly", errno.EBUSY, "try again in a moment"),
        ("Unmounted", errno.EHOSTDOWN, "needs home, which is away"),
        ("Disconnected", errno.EHOSTDOWN, "needs home, which is away"),
    ],
)
async def test_refused_by_state(line: str, state: str, code: int, way_on: str) -> None:
    fileset = FakeFileset(state=state, reason="because")
    with pytest.raises(AfmError) as caught:
        await execute(fileset, line)
    text = str(caught.value)
    assert (caught.value.errno, state in text, "because" in text) == (code, True, True)
    assert way_on in text
    assert not [call for call in fileset.calls if call != "touch"]


async def test_dirty_by_a_job_is_refused_with_another_way_on() -> None:
    fileset = FakeFileset(state="Dirty", reason="a resync is running", job=JOB)
    with pytest.raises(AfmError, match="a resync is running.*; wait for its end"):
        await execute(fileset, "resync")


async def test_beside_what_home_refuses_the_way_on_is_another() -> None:
    """To flush first would fail, with whatever command."""
    fileset = FakeFileset(state="Dirty", reason="1 entry is pending", requeued=1)
    with pytest.raises(AfmError, match="have home permit what it refuses .* or `drop` it"):
        await execute(fileset, "resync")


@pytest.mark.parametrize("mode", ["iw", "lu", "ro"])
async def test_refused_by_mode(mode: str) -> None:
    with pytest.raises(AfmError, match=f"filesets of mode sw, sw1 is {mode}") as caught:
        await execute(FakeFileset(mode=mode), "resync")
    assert caught.value.errno == errno.EPERM


async def test_auto_resync() -> None:
    fileset = FakeFileset()
    assert "auto_resync: off" in await execute(fileset, "auto_resync off")
    assert "auto_resync: off" in await execute(fileset, "auto_resync")
    assert "auto_resync: on" in await execute(fileset, "auto_resync on")
    with pytest.raises(AfmError, match="on or off") as caught:
        await execute(fileset, "auto_resync maybe")
    assert caught.value.errno == errno.EINVAL


# -- afmctl --------------------------------------------------------------------------------------


def harm(**figures: int) -> list[dict[str, Any]]:
    return [{"do": "push", "path": "f", "inode": 16}, {"summary": HARMLESS | figures}]


def resyncs(fileset: FakeFileset) -> list[Any]:
    return [call for call in fileset.calls if isinstance(call, tuple) and call[0] == "resync"]


def test_a_harmless_resync_asks_nobody(afmctl: Afmctl, one: FakeFileset) -> None:  # noqa: F811
    one.rows = harm()
    result = afmctl("fs1", "resync", "-j", "sw1", "--keep-uncached")
    assert (result.exit_code, result.stdout) == (0, PERFORMING)
    assert ("dry-run", {"manual": True, "keep_uncached": True}) in one.calls
    assert resyncs(one) == [("resync", True)]


@pytest.mark.parametrize("figures", [{"aside": 1, "replaced": 1}, {"nulled": 2}])
def test_without_a_terminal_harm_needs_yes(
    afmctl: Afmctl,  # noqa: F811
    one: FakeFileset,  # noqa: F811
    figures: dict[str, int],
) -> None:
    one.rows = harm(**figures)
    result = afmctl("fs1", "resync")
    assert (result.exit_code, result.stdout, resyncs(one)) == (1, "", [])
    assert "consent with --yes" in result.stderr
    one.calls.clear()
    assert afmctl("fs1", "resync", "--yes").stdout == PERFORMING
    assert one.calls == ["touch", ("resync", False)]  # no dry run


@pytest.mark.parametrize(("answer", "goes_on"), [("y\n", True), ("n\n", False), ("\n", False)])
def test_at_a_terminal_it_asks(
    afmctl: Afmctl,  # noqa: F811
    one: FakeFileset,  # noqa: F811
    answer: str,
    goes_on: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []

    def confirm(text: str, err: bool) -> bool:
        asked.append(text)
        return answer == "y\n"

    monkeypatch.setattr(resync, "_at_terminal", lambda: True)
    monkeypatch.setattr(resync.click, "confirm", confirm)
    one.rows = harm(aside=1, aside_bytes=7, nulled=2, nulled_bytes=4096)
    result = afmctl("fs1", "resync")
    assert asked == [
        "resync: this would move 1 entry (7 bytes) into home's trash and fill 4.1 kB of 2 files"
        " with null bytes. Go on?"
    ]
    assert (result.exit_code, bool(resyncs(one))) == (0 if goes_on else 1, goes_on)


def test_a_dry_run_is_listed(afmctl: Afmctl, one: FakeFileset) -> None:  # noqa: F811
    aside = [{"path": "d/f", "why": "changed", "bytes": 7}]
    one.rows = [
        {"do": "push", "path": "d/f", "inode": 16, "bytes": 3000, "aside": aside},
        {"do": "push", "path": "a\nb\udcff", "inode": 17, "bytes": 0, "null_bytes": 4096},
        {"do": "lost", "path": "gone", "inode": 18},
        {"do": "fail", "path": "", "inode": 19, "reason": "no"},
        {"summary": HARMLESS | {"aside": 1, "aside_bytes": 7, "nulled": 1, "lost": 1}},
    ]
    lines = afmctl("fs1", "resync", "--dry-run").stdout_bytes.splitlines()
    assert lines[:4] == [
        b"push   d/f (3.0 kB; moves d/f aside: changed)",
        b"push   a\\nb\xff (0 bytes; nulls 4.1 kB)",
        b"lost   gone",
        b"fail    (no)",
    ]
    assert lines[4] == b"push    2 objects, 3.0 kB; 1 of them new at home"
    assert [line.split()[0] for line in lines[4:]] == [b"push", b"aside", b"null", b"lost"]
    assert resyncs(one) == []
    rows = [
        json.loads(line)
        for line in afmctl("fs1", "resync", "--dry-run", "--json").stdout.splitlines()
    ]
    assert rows[:4] == one.rows[:4]


class Reporter(FakeFileset):
    """Its report is what the test says, whatever is asked for."""

    made: dict[str, Any]

    def start_report(self, kind: str, **options: Any) -> int:
        self.shown = replace(self.shown, report=self.made)
        return 1


@pytest.mark.parametrize(
    ("made", "rows", "text"),
    [
        ({"number": 1, "running": False, "errno": 5, "reason": "no route"}, [], "no route"),
        ({"number": 2, "running": False, "errno": 0}, harm(), "replaced by another"),
        ({"number": 1, "running": False, "errno": 0}, harm()[:1], "replaced by another"),
    ],
)
def test_a_report_that_fails_or_is_replaced(
    afmctl: Afmctl,  # noqa: F811
    access: FakeAccess,  # noqa: F811
    made: dict[str, Any],
    rows: list[dict[str, Any]],
    text: str,
) -> None:
    fileset = access.filesets["/mnt/sw1"] = Reporter()
    fileset.made, fileset.rows = made, rows or harm()
    result = afmctl("fs1", "resync", "--dry-run")
    assert result.exit_code == 1
    assert text in result.stderr


class Busy(FakeFileset):
    """Shows what is next in `coming` whenever it is looked at."""

    coming: list[dict[str, Any]]
    said: list[dict[str, Any]]

    def status(self) -> Status:
        if self.coming:
            self.shown = replace(self.shown, **self.coming.pop(0))
        return self.shown

    def events(self) -> list[dict[str, Any]]:
        return self.said


@pytest.fixture
def busy(access: FakeAccess, one: FakeFileset) -> Busy:  # noqa: F811
    fileset = Busy(cache="/c", last_job=4)
    fileset.coming = []
    fileset.said = [
        {"name": "afmManualResyncComplete", "job": 4, "files": 3, "bytes": 5, "lost": 2}
    ]
    access.filesets["/mnt/sw1"] = fileset
    return fileset


def test_wait(afmctl: Afmctl, busy: Busy) -> None:  # noqa: F811
    dirty, active = {"state": "Dirty", "job": JOB}, {"state": "Active", "job": None}
    busy.coming = [{}, {}, {}, {}, dirty, dirty, dirty, active]
    result = afmctl("fs1", "resync", "--yes", "--wait")
    assert result.exit_code == 0, result.stderr
    assert result.stdout == (
        f"{PERFORMING}resync: 3 objects pushed (5 bytes), 2 files neither here nor at home"
        " (`verify` lists them)\n"
    )
    assert not busy.coming


def test_wait_flushes_first(afmctl: Afmctl, busy: Busy) -> None:  # noqa: F811
    dirty = {"state": "Dirty", "queue_length": 3, "flushed_through": 1}
    busy.coming = [dirty, {}, {}, {}, {"state": "Active", "queue_length": 0, "flushed_through": 42}]
    result = afmctl("fs1", "resync", "--yes", "--wait")
    assert result.exit_code == 0, result.stderr
    assert [call for call in busy.calls if call != "touch"] == ["flush", ("resync", False)]


def test_wait_lets_a_resync_that_runs_end_first(afmctl: Afmctl, busy: Busy) -> None:  # noqa: F811
    runs = {"state": "Dirty", "job": replace(JOB, id=3)}
    busy.coming = [runs, runs, runs, {"state": "Active", "job": None}]
    result = afmctl("fs1", "resync", "--yes", "--wait")
    assert result.exit_code == 0, result.stderr
    assert resyncs(busy) == [("resync", False)]


def test_needs_resync_is_not_flushed_first(afmctl: Afmctl, busy: Busy) -> None:  # noqa: F811
    busy.coming = [{"state": "NeedsResync", "queue_length": 3}, {}, {}, {"state": "Active"}]
    assert afmctl("fs1", "resync", "--yes", "--wait").exit_code == 0
    assert "flush" not in busy.calls


def test_one_whose_place_is_taken_is_not_waited_for(afmctl: Afmctl, busy: Busy) -> None:  # noqa: F811
    busy.coming = [{"state": "NeedsResync", "job": replace(JOB, id=3, phase="waiting")}]
    afmctl("fs1", "resync", "--yes", "--wait", "--timeout", "1")
    assert resyncs(busy) == [("resync", False)]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"state": "Stopped", "reason": "stopped by hand"}, "sw1 is Stopped (stopped by hand)"),
        (
            {"state": "Dirty", "job": replace(JOB, phase="waiting", requeued=2)},
            "2 objects were refused by home and requeued",
        ),
        ({"state": "Disconnected", "reason": "no route"}, "sw1 is Disconnected (no route)"),
        ({"state": "Dirty", "reason": "running"}, "timed out: sw1 is Dirty (running)"),
        ({"state": "NeedsResync", "reason": "f", "job": None}, "changed meanwhile (f)"),
    ],
)
def test_wait_says_why_it_gave_up(
    afmctl: Afmctl,  # noqa: F811
    busy: Busy,
    change: dict[str, Any],
    text: str,
) -> None:
    busy.coming = [{}, {}, {}, {}, {"job": JOB} | change]
    result = afmctl("fs1", "resync", "--yes", "--wait", "--timeout", "0.6")
    assert result.exit_code == 1
    assert text in result.stderr
    assert result.stdout == PERFORMING


def test_wait_says_that_a_job_was_given_up(afmctl: Afmctl, busy: Busy) -> None:  # noqa: F811
    busy.said = []
    busy.coming = [{}, {}, {}, {}, {"job": JOB}, {"job": replace(JOB, id=5, kind="failover")}]
    result = afmctl("fs1", "resync", "--yes", "--wait")
    assert (result.exit_code, result.stdout) == (1, PERFORMING)
    assert "given up for another job" in result.stderr


def test_failover(afmctl: Afmctl, busy: Busy, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.chdir("/usr")
    busy.coming = [{}, {}, {"job": JOB}, {"job": None}]
    result = afmctl("fs1", "failover", "--new-target", "lib/../x", "--wait")
    assert result.exit_code == 0, result.stderr
    assert busy.calls == ["touch", ("failover", "/usr/x", False)]
    assert result.stdout.endswith("failover: 3 objects pushed (5 bytes), 2 files neither here nor"
                                  " at home (`verify` lists them)\n")  # fmt: skip
    result = afmctl("fs1", "failover", "--new-target", "file:///x", "--target-only", "--wait")
    assert (result.exit_code, result.stdout) == (
        0,
        "afmctl: Performing failover of fileset: sw1\n",
    )
    assert busy.calls[-1] == ("failover", "file:///x", True)
    assert afmctl("fs1", "failover").exit_code == 2


def test_texts() -> None:
    status = Status(device="d", fileset="f", target="t", gateway="g", state="Dirty", job=JOB)
    job = replace(JOB, bytes_total=2000, bytes_left=500, bytes_per_second=1e6, seconds_left=4.4)
    assert describe_job(status, replace(job, requeued=3)) == (
        "1 of 2 objects, 1.5 kB of 2.0 kB, 1.0 MB/s, about 4 s left, 3 requeued"
    )
    away = replace(status, state="Disconnected")
    assert describe_job(away, JOB) == "Disconnected: 1 of 2 objects, 0 bytes of 0 bytes"
    assert render_summary({"files": 1, "bytes": 1, "aside": 2, "nulled": 1, "nulled_bytes": 8}) == (
        "1 object pushed (1 byte), 2 entries moved aside into home's trash,"
        " 1 file with null bytes at home (8 bytes)\n"
    )
