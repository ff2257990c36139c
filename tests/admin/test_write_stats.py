"""getstate --write-stats: AFM's columns, of the queue and of a job together."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from afmfs.cache.command.commands import execute
from afmfs.cache.report.metrics import render_metrics
from afmfs.cache.report.status import JobStatus, Status, from_json, render_json
from afmfs.cache.report.write_stats import render_write_stats, with_write_stats
from tests.admin.fake import FakeFileset

IDLE = Status(device="fs1", fileset="sw1", target="/h", state="Active", gateway="gw")
JOB = JobStatus(id=1, kind="resync", phase="pushing", manual=True, reason="")


def test_the_figures_of_afms_documentation() -> None:
    busy = replace(IDLE, bytes_pending=60648358095, bytes_per_second=84888 * 1024.0)
    assert render_write_stats([with_write_stats(busy, 8133222872)]) == (
        "Fileset Name Total Written Data (Bytes) N/w Throughput (KB/s)"
        " Total Pending Data to Write (Bytes) Estimated Completion time\n"
        "------------ -------------------------- ---------------------"
        " ----------------------------------- -------------------------\n"
        "sw1          8133222872                 84888                "
        " 60648358095                         11 (Min)\n"
    )


@pytest.mark.parametrize(
    ("left", "rate", "shown"),
    [
        (0, 0.0, "0 (Sec)"),
        (0, 5.0, "0 (Sec)"),
        (1, 0.0, "-"),
        (599, 10.0, "59 (Sec)"),
        (600, 10.0, "1 (Min)"),
        (100_000, 10.0, "166 (Min)"),
    ],
)
def test_the_time_left(left: int, rate: float, shown: str) -> None:
    status = with_write_stats(replace(IDLE, bytes_pending=left, bytes_per_second=rate), 0)
    assert render_write_stats([status]).splitlines()[2].endswith(f" {shown}")


def test_a_jobs_bytes_are_pending_as_well() -> None:
    job = replace(JOB, bytes_left=900, bytes_per_second=80.0)
    status = replace(IDLE, bytes_pending=100, bytes_per_second=20.0, job=job)
    found = with_write_stats(status, 7)
    assert (found.written_bytes, found.write_bytes_left) == (7, 1000)
    assert (found.write_bytes_per_second, found.write_seconds_left) == (100.0, 10.0)
    assert from_json(render_json(found)) == found


def test_metrics_carry_the_same_figures() -> None:
    busy = replace(IDLE, bytes_pending=100, bytes_per_second=20.0)
    text = render_metrics(with_write_stats(busy, 7)).decode()
    labels = '{device="fs1",fileset="sw1"}'
    assert f"afmfs_written_bytes_total{labels} 7.0" in text
    assert f"afmfs_write_bytes_left{labels} 100.0" in text
    assert f"afmfs_write_bytes_per_second{labels} 20.0" in text
    assert f"afmfs_write_seconds_left{labels} 5.0" in text
    stuck = render_metrics(with_write_stats(replace(busy, bytes_per_second=0.0), 7))
    assert b"write_seconds_left" not in stuck


async def test_the_command() -> None:
    fileset = FakeFileset(written_bytes=7, state="Inactive")
    text = await execute(fileset, "getstate --write-stats")
    assert text.splitlines()[1].startswith("Fileset Name Total Written Data (Bytes)")
    assert text.splitlines()[3].split()[:2] == ["sw1", "7"]
    assert fileset.calls == []
    text = await execute(fileset, "getstate --write-stats --json")
    assert json.loads(text.partition("\n")[2])["written_bytes"] == 7
