"""Rows on how the data of one file travel."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest

from tests.conftest import MakeMount
from tests.harness.mounting import MountFailed
from tests.seed.scene import OPTIONS, Scene, noise
from tests.seed.tracing import STRACE, Write, traced

MIB = 1 << 20
STEP = 8 * MIB
"""The most that one call moves."""

Writes = dict[str, list[Write]]


def _writes(make_mount: MakeMount, home: Path, sizes: dict[str, int]) -> Writes:
    """How a resync writes these files, at a home that is slow enough for eight threads to pay:
    one half of them is at home, the other was removed there. Files by their path at home, or by
    that under which they were written beside."""
    if STRACE is None:
        pytest.skip("needs strace")
    scene = Scene(make_mount(home, *OPTIONS))
    for seed, (name, size) in enumerate(sizes.items()):
        (scene.point / name).write_bytes(noise(MIB, seed) * (size // MIB))
    scene.flush()
    for name in list(sizes)[::2]:
        (home / name).unlink()
    with traced(scene.status["gateway_pid"], home.parent / "trace", home) as writes:
        for number in range(8):
            (scene.point / f"new {number}").touch()
        scene.flush()  # here the gateway learns how slow home is
        scene.resync()
    for seed, (name, size) in enumerate(sizes.items()):
        assert (home / name).read_bytes() == noise(MIB, seed) * (size // MIB)
    found: Writes = defaultdict(list)
    for write in writes:
        found[write.path].append(write)
    return found


def one_thread_a_file(make_mount: MakeMount, home: Path) -> None:
    names = [f"file{number}" for number in range(5)]
    found = _writes(make_mount, home, dict.fromkeys(names, 3 * MIB))
    assert len(found) == len(names)
    for writes in found.values():
        assert len({write.thread for write in writes}) == 1
    assert len({write.thread for writes in found.values() for write in writes}) > 1


def never_split(make_mount: MakeMount, home: Path) -> None:
    found = _writes(make_mount, home, {"gone": 36 * MIB, "there": 36 * MIB})
    assert len(found) == 2
    for writes in found.values():
        assert len({write.thread for write in writes}) == 1
        assert len(writes) <= 36 * MIB // STEP + 1
        reached = 0
        for write in writes:  # in order, none twice
            assert write.offset == reached
            reached += write.size
        assert reached == 36 * MIB
    mapped = make_mount(home, start=False)
    with pytest.raises(MountFailed, match="not supported yet"):
        mapped.mount("nfs://mapping1/home")
