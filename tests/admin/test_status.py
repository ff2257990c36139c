from __future__ import annotations

import json
import sqlite3
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from afmfs.cache.report.metrics import render_metrics
from afmfs.cache.report.status import (
    CachedReport,
    JobStatus,
    Status,
    cached_state,
    dirty_bytes,
    from_json,
    render_cached,
    render_json,
    render_state,
    why_blocked,
)
from afmfs.cache.store.schema import SCHEMA
from afmfs.model.entry import Op

SEED = Status(
    device="fs1",
    fileset="sw1",
    target="nfs://c26c3apv2/gpfs/homefs1/newdir1",
    state="Dirty",
    gateway="c26c2apv1",
    queue_length=4067,
    num_exec=10844,
)


def test_the_table_has_the_columns_of_afm() -> None:
    assert render_state([SEED]) == (
        "Fileset Name Fileset Target                       Cache State Gateway Node Queue Length"
        " Queue numExec\n"
        "------------ --------------                       ----------- ------------ ------------"
        " -------------\n"
        "sw1          nfs://c26c3apv2/gpfs/homefs1/newdir1 Dirty       c26c2apv1    4067        "
        " 10844\n"
    )


JOB = JobStatus(id=3, kind="resync", phase="pushing", manual=True, reason="", left=40, total=100)


def test_columns_are_as_wide_as_their_widest_cell() -> None:
    short = replace(SEED, fileset="a-fileset-with-a-long-name", target="/h", state="Active")
    lines = render_state([SEED, short]).splitlines()
    assert len(lines) == 4
    assert lines[2].index("nfs://") == lines[3].index("/h") == lines[0].index("Fileset Target")


def test_a_cell_never_leaves_its_row() -> None:
    odd = replace(SEED, target="/home/new\nline\udcff", gateway="")
    lines = render_state([odd]).splitlines()
    assert lines[2].split() == ["sw1", "/home/new\\nline\udcff", "Dirty", "-", "4067", "10844"]


def test_no_fileset_is_an_empty_table() -> None:
    assert len(render_state([]).splitlines()) == 2


def test_json_comes_back() -> None:
    status = replace(SEED, target="/h/\udcff", seconds_left=1.5)
    text = render_json(status)
    assert text.isascii()
    assert from_json(text) == status
    with_job = replace(status, job=JOB)
    assert from_json(render_json(with_job)) == with_job
    assert json.loads(text)["schema"] == 1


def test_json_of_a_later_version_is_understood_as_far_as_it_goes() -> None:
    fields = json.loads(render_json(SEED)) | {"invented_later": 1}
    assert from_json(json.dumps(fields)) == SEED
    with pytest.raises(TypeError):
        from_json("[]")


def test_metrics() -> None:
    text = render_metrics(replace(SEED, fileset="odd\udcff", home_latency_ms=None)).decode()
    labels = 'device="fs1",fileset="odd\\\\xff"'
    assert f"afmfs_queue_length{{{labels}}} 4067.0" in text
    assert f"afmfs_executed_total{{{labels}}} 10844.0" in text
    assert f'afmfs_state{{{labels},state="Dirty"}} 1.0' in text
    assert f'afmfs_state{{{labels},state="Active"}} 0.0' in text
    assert "home_latency" not in text
    assert "job" not in text
    text = render_metrics(replace(SEED, job=JOB)).decode()
    assert 'afmfs_job_left{device="fs1",fileset="sw1",kind="resync"} 40.0' in text
    assert "job_seconds_left" not in text


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({}, ""),
        ({"settled_through": 9, "last_entry": 9}, ""),
        ({"state": "Stopped", "queue_length": 0}, ""),
        ({"state": "Stopped"}, "Stopped"),
        ({"state": "Disconnected", "reason": "EIO"}, "Disconnected: EIO"),
        ({"state": "Recovery"}, ""),
        ({"requeued": 2, "settled_through": 8, "last_entry": 9}, ""),
        (
            {"requeued": 2, "last_error": "ENOSPC", "settled_through": 9, "last_entry": 9},
            "2 entries were refused by home and requeued (ENOSPC); `queue` lists them,"
            " `resumeRequeued` tries them again",
        ),
    ],
)
def test_why_blocked(change: dict[str, object], text: str) -> None:
    assert why_blocked(replace(SEED, **change)) == text  # type: ignore[arg-type]


# -- dirty bytes ---------------------------------------------------------------------------------

writes_ = st.lists(
    st.tuples(st.integers(16, 18), st.integers(0, 40), st.integers(1, 20)), max_size=30
)


def _database(writes: list[tuple[int, int, int]], size: int) -> sqlite3.Connection:
    database = sqlite3.connect(":memory:")
    database.executescript(SCHEMA)
    database.executemany("INSERT INTO inode (ino, size) VALUES (?, ?)", [(16, size), (17, 1000)])
    database.executemany(
        'INSERT INTO queue (op, ino, start, "end") VALUES (?, ?, ?, ?)',
        [(int(Op.WRITE), ino, start, start + length) for ino, start, length in writes],
    )
    return database


@given(writes_, st.integers(0, 60))
def test_dirty_bytes_count_each_byte_once(writes: list[tuple[int, int, int]], size: int) -> None:
    sizes = {16: size, 17: 1000}  # inode 18 is gone
    covered = {
        (ino, at)
        for ino, start, length in writes
        for at in range(start, start + length)
        if at < sizes.get(ino, 0)
    }
    database = _database(writes, size)
    assert dirty_bytes(database) == len(covered)
    assert dirty_bytes(database, cap=len(writes)) == len(covered)


@given(writes_, st.integers(0, 10))
def test_beyond_its_cap_dirty_bytes_is_never_too_small(
    writes: list[tuple[int, int, int]], cap: int
) -> None:
    database = _database(writes, 60)
    assert dirty_bytes(database, cap=cap) >= dirty_bytes(database)


# -- cached --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("have", "all_", "word"),
    [(0, 0, "cached"), (0, 3, "uncached"), (1, 3, "partial"), (3, 3, "cached")],
)
def test_cached_state(have: int, all_: int, word: str) -> None:
    assert cached_state(have, all_) == word


def test_render_cached() -> None:
    report = CachedReport(
        state="partial",
        size=100,
        cached_bytes=64,
        blocks=2,
        cached_blocks=1,
        block_size=64,
        dirty=True,
    )
    assert render_cached("a", report, as_json=False) == (
        "partial 64 of 100 bytes, 1 of 2 blocks of 64 bytes, dirty\n"
    )
    assert json.loads(render_cached("a", report, as_json=True))["path"] == "a"
