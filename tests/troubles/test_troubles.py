"""Each trouble of a home: cached work goes on, the state and its message say what is the matter,
and after the way out home has all that was done."""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.conftest import MakeMount
from tests.harness import sshd
from tests.harness.mounting import Mount, refusal, wait_until
from tests.troubles.homes import Home, Remote
from tests.troubles.scene import (
    STEP_SECONDS,
    equal_at_home,
    flush,
    state_is_read_fast,
    warm_up,
    work_goes_on,
)
from tests.troubles.table import TROUBLES, Trouble, readme_rows

pytestmark = [
    pytest.mark.mounted,
    pytest.mark.skipif(os.geteuid() != 0, reason="makes file systems and unmounts them"),
]

OPTIONS = ("block_size=64K", "async_delay=1", "durable_interval=1", "auto_resync=off")
UNMOUNT_SECONDS = 10.0
PROMISES = readme_rows()

troubles = pytest.mark.parametrize("trouble", TROUBLES, ids=lambda trouble: trouble.name)

OFTEN = ("away", "hung", "full")
leaving = pytest.mark.parametrize(
    "trouble",
    [pytest.param(t, marks=() if t.name in OFTEN else pytest.mark.long) for t in TROUBLES],
    ids=lambda trouble: trouble.name,
)


def test_the_readme_has_a_row_for_each() -> None:
    assert list(PROMISES) == [trouble.name for trouble in TROUBLES]
    assert all(promise.words and promise.way_out for promise in PROMISES.values())


@pytest.fixture
def home(trouble: Trouble, tmp_path: Path) -> Iterator[Home]:
    if issubclass(trouble.home, Remote) and (missing := sshd.available()):
        pytest.skip(missing)
    if trouble.stuck and shutil.which("fsfreeze") is None:
        pytest.skip("fsfreeze is not installed")
    with trouble.home(tmp_path) as home:
        yield home


@pytest.fixture
def mount(home: Home, make_mount: MakeMount) -> Iterator[Mount]:
    """Ended before its home is, which it uses."""
    mount = make_mount(home.target, *OPTIONS)
    warm_up(mount.point)
    yield mount
    mount.terminate()


def await_words(mount: Mount, state: str, words: list[str]) -> None:
    """Until this is what is said of home."""

    def is_said() -> bool:
        status = mount.status()
        return status["state"] == state and all(word in status["reason"] for word in words)

    try:
        wait_until(is_said, 45, "said", every=0.1)
    except AssertionError:
        status = mount.status()
        raise AssertionError(f"{status['state']}: {status['reason']}\n{mount.events()}") from None


def ends_well(trouble: Trouble, home: Home, mount: Mount) -> None:
    flush(mount)
    assert mount.status()["reason"] in ("", "nothing has used it since the mount")
    equal_at_home(mount, home.served, whole_seconds=home.whole_seconds)


@troubles
def test_work_goes_on_and_the_way_out_brings_it_home(
    trouble: Trouble, home: Home, mount: Mount
) -> None:
    trouble.strike(home, mount)
    work_goes_on(mount, 1)
    await_words(mount, PROMISES[trouble.name].state, PROMISES[trouble.name].words)
    work_goes_on(mount, 2)
    what_is_not_cached(trouble, home, mount)
    assert PROMISES[trouble.name].state in state_is_read_fast(mount)
    trouble.cure(home, mount)
    ends_well(trouble, home, mount)


@leaving
def test_umount_ends_in_time_and_the_next_mount_goes_on(
    trouble: Trouble, home: Home, mount: Mount
) -> None:
    trouble.strike(home, mount)
    work_goes_on(mount, 1)
    if trouble.stuck:
        await_words(mount, PROMISES[trouble.name].state, PROMISES[trouble.name].words)
    wait_until(lambda: has_been_met(mount), 20, "the gateway has met it")
    gateways = mount.gateways()
    start = time.monotonic()
    mount.unmount(left_behind=trouble.stuck)
    assert time.monotonic() - start < UNMOUNT_SECONDS
    if trouble.refused:
        said = refusal(mount)
        assert all(word in said for word in PROMISES[trouble.name].words), said
        trouble.cure(home, mount)
        mount.mount("none")
    else:
        mount.mount("none")
        work_goes_on(mount, 2)
        if any(map(is_stuck, gateways)):
            await_words(mount, "Disconnected", ["an earlier mount's, stuck at home"])
            assert "afmGatewayEnded" not in mount.events()
        trouble.cure(home, mount)
    ends_well(trouble, home, mount)


def what_is_not_cached(trouble: Trouble, home: Home, mount: Mount) -> None:
    path, promise = Path("two/old5"), PROMISES[trouble.name].uncached
    if trouble.name == "wiped":
        return  # there is nothing that is not
    if promise == "EIO, at once":
        start = time.monotonic()
        with pytest.raises(OSError, check=lambda exc: exc.errno == errno.EIO):
            (mount.point / path).read_bytes()
        assert time.monotonic() - start < STEP_SECONDS
    elif promise == "is read":
        assert (mount.point / path).read_bytes() == (home.served / path).read_bytes()
    else:  # which takes longer than there is time for
        assert promise == "is read, or EIO where it takes longer than `home_timeout`"


def is_stuck(process: psutil.Process) -> bool:
    """Whether a killed process lives on in a thread that home does not let go."""
    try:
        return len(os.listdir(f"/proc/{process.pid}/task")) > 1
    except FileNotFoundError:
        return False


def has_been_met(mount: Mount) -> bool:
    """Whether what was written is being replayed, or can't be."""
    status = mount.status()
    return bool(status["executing"] or status["requeued"]) or status["state"] != "Dirty"


@pytest.mark.parametrize("trouble", [t for t in TROUBLES if t.name == "read-only"])
def test_a_home_that_keeps_its_marker_is_no_older_one(
    trouble: Trouble, home: Home, mount: Mount
) -> None:
    """It could not be written at the mounts in between."""
    trouble.strike(home, mount)
    for _ in range(3):
        mount.remount()
        mount.await_state("Inactive")
    trouble.cure(home, mount)
    mount.remount()
    work_goes_on(mount, 1)
    ends_well(trouble, home, mount)
    assert "afmNeedsResync" not in mount.events(20)


@pytest.mark.parametrize("trouble", [t for t in TROUBLES if t.name == "an older snapshot"])
@pytest.mark.parametrize("mounts", [0, 1, 2])
def test_an_older_snapshot_is_noticed_though_nothing_of_it_is_looked_at(
    trouble: Trouble, home: Home, mount: Mount, mounts: int
) -> None:
    """Else what it lacks would be gone with the next eviction."""
    home.copy()
    (mount.point / "one/precious").write_bytes(b"kept here alone")
    flush(mount)
    for _ in range(mounts):
        mount.remount()
        mount.await_state("Inactive")
    home.put_snapshot()
    (mount.point / "dir").mkdir()
    await_words(mount, "NeedsResync", ["an older state of itself"])
    assert mount.afmctl("evict", "--file", "one/precious").returncode
    trouble.cure(home, mount)
    ends_well(trouble, home, mount)
    assert (home.served / "one/precious").read_bytes() == b"kept here alone"
