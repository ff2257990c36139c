"""What is shown of the fileset: right, and the same wherever one looks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import MakeMount
from tests.harness.mounting import Mount

pytestmark = pytest.mark.mounted

MEMORY = ("mount_memory_bytes", "gateway_memory_bytes")

MOVING = {"oldest_pending_seconds", "cache_free_bytes", "home_latency_ms", *MEMORY}
MOVING |= {"entries_per_second", "bytes_per_second", "write_bytes_per_second"}
"""Figures that two looks need not find the same."""

NAMES = {"executed": "num_exec"}
"""Metrics that are called otherwise in status.json."""


def metrics(mount: Mount) -> dict[str, float]:
    """By their names in status.json; of a state, only the shown one."""
    text = (mount.point / ".afm/metrics").read_text()
    found = {}
    for family in text_string_to_metric_families(text):
        name = family.name.removeprefix("afmfs_")
        for sample in family.samples:
            if name != "state" or sample.value:
                found[sample.labels.get("state") or NAMES.get(name, name)] = sample.value
    return found


def shown(mount: Mount) -> dict[str, Any]:
    """The status, once all that shows it was seen to agree."""
    status = mount.status()
    for name, value in metrics(mount).items():
        if name == status["state"]:
            assert value == 1
        elif name not in MOVING:
            assert value == status[name], name
    table = (mount.point / ".afm/state").read_text()
    assert mount.afmctl("getstate").stdout == table
    assert table.splitlines()[2].split() == [
        *(status["fileset"], status["target"], status["state"], status["gateway"]),
        *(str(status["queue_length"]), str(status["num_exec"])),
    ]
    assert (
        json.loads(mount.afmctl("getstate", "--json").stdout)["queue_length"]
        == (status["queue_length"])
    )
    return status


def queue(mount: Mount) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (mount.point / ".afm/queue").read_text().splitlines()]


def test_what_is_pending(make_mount: MakeMount, home: Path) -> None:
    mount = make_mount(home)
    assert mount.afmctl("stop").returncode == 0
    for data in (b"12345", b"abc"):  # the second over the first
        with (mount.point / "file").open("r+b" if data == b"abc" else "wb") as file:
            file.write(data)
    (mount.point / "dir").mkdir()
    entries = queue(mount)
    status = shown(mount)
    assert status["state"] == "Stopped"
    assert status["queue_length"] == len(entries) >= 4
    assert (status["bytes_pending"], status["dirty_bytes"], status["cached_bytes"]) == (8, 5, 5)
    assert status["oldest_pending_seconds"] >= entries[0]["age_seconds"] > 0
    assert (status["num_exec"], status["written_bytes"]) == (0, 0)
    assert mount.afmctl("start").returncode == 0
    mount.flush()
    status = shown(mount)
    assert (status["state"], queue(mount)) == ("Active", [])
    assert [status[name] for name in ("queue_length", "bytes_pending", "dirty_bytes")] == [0, 0, 0]
    assert status["oldest_pending_seconds"] == 0
    assert (status["num_exec"], status["written_bytes"]) == (len(entries), 8)
    assert status["home_latency_ms"] > 0
    assert status["connected_since"]
    assert all(1 << 20 < metrics(mount)[name] < 1 << 30 for name in MEMORY)
