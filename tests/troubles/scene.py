"""A fileset whose home is about to get into trouble, and a program's work on what is cached."""

from __future__ import annotations

import errno
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from tests.harness.mounting import Mount, wait_until
from tests.harness.trees import differences, snapshot

BLOCK = 65536
STEP_SECONDS = 2.0
"""What a call on cached files may take: nothing beside a second for each request to home, of which
one change needs ten, and everything beside what such a call takes on a machine at rest."""


def fill(root: Path) -> None:
    """Two directories of files of one, two and three blocks."""
    for name in ("one", "two"):
        (root / name).mkdir(parents=True)
        for number in range(6):
            (root / name / f"old{number}").write_bytes(os.urandom(1 + number % 3 * BLOCK))
    os.symlink("one/old0", root / "link")


def warm_up(point: Path) -> None:
    """All names are known; of all files but two the content is cached, of one in part."""
    for path in sorted(point.glob("*/old*")):
        if path.name == "old5":
            continue
        path.read_bytes()
    with (point / "one/old5").open("rb", buffering=0) as file:
        file.read(10)


def say(mount: Mount, command: str) -> None:
    """A control command; where home was away, or is being recovered, as soon as that is over."""

    def taken() -> bool:
        try:
            (mount.point / ".afm/control").write_text(command)
        except OSError as exc:
            if exc.errno not in (errno.EHOSTDOWN, errno.EBUSY):
                raise
            return False
        return True

    wait_until(taken, 30, f"{command} is taken")


def flush(mount: Mount) -> None:
    """All that is pending is at home on return, whatever is under way there."""
    say(mount, "flushPending")
    wait_until(
        lambda: mount.status()["state"] in ("Active", "Inactive"),
        60,
        lambda: f"all is at home: {mount.status()['reason']}\n{mount.events()}",
    )


class Timed:
    """Runs calls, and knows the slowest."""

    def __init__(self) -> None:
        self.slowest = (0.0, "nothing")

    def __call__(self, what: str, call: Callable[[], object]) -> None:
        start = time.monotonic()
        call()
        self.slowest = max(self.slowest, (time.monotonic() - start, what))


def work(point: Path, turn: int) -> Timed:
    """What programs do, on cached files: create, write, read, list, rename, sync, remove."""
    timed, data = Timed(), os.urandom(5000)
    here, new = point / "one", point / "one" / f"new{turn}"

    def replace() -> None:
        beside = here / f"beside{turn}"
        beside.write_bytes(data)
        os.rename(beside, here / "old1")

    def overwrite() -> None:
        with (here / "old2").open("r+b", buffering=0) as file:
            file.seek(1000 * turn)
            file.write(data)
            os.fsync(file.fileno())

    def sync_names() -> None:
        descriptor = os.open(here, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def read(path: Path, wanted: bytes | None = None) -> None:
        found = path.read_bytes()
        assert wanted is None or found == wanted, path

    timed("create", lambda: new.write_bytes(data))
    timed("read what is new", lambda: read(new, data))
    timed("replace", replace)
    timed("read what was replaced", lambda: read(here / "old1", data))
    timed("overwrite", overwrite)
    timed("read what was cached", lambda: read(point / "two/old4"))
    timed("list", lambda: os.listdir(here))
    timed("make a directory", lambda: (point / f"dir{turn}").mkdir())
    timed("move", lambda: os.rename(new, point / f"dir{turn}" / "moved"))
    timed("link", lambda: os.link(here / "old3", here / f"link{turn}"))
    timed("truncate", lambda: os.truncate(here / "old3", 100 + turn))
    timed("change the mode", lambda: (here / "old4").chmod(0o600 + turn))
    timed("create another", lambda: (here / f"gone{turn}").write_bytes(data))
    timed("remove", lambda: (here / f"gone{turn}").unlink())
    timed("sync names", sync_names)
    return timed


def work_goes_on(mount: Mount, turn: int) -> None:
    timed = work(mount.point, turn)
    assert timed.slowest[0] < STEP_SECONDS, timed.slowest


def state_is_read_fast(mount: Mount) -> str:
    """The text of `.afm/state`."""
    took, text = [], ""
    for _ in range(5):
        start = time.monotonic()
        text = (mount.point / ".afm/state").read_text()
        took.append(time.monotonic() - start)
    assert statistics.median(took) < 0.1, took
    return text


def equal_at_home(mount: Mount, served: Path, *, whole_seconds: bool) -> None:
    """Everything here is there, as it is here; what is there alone (resync removes nothing, and
    knows no name that was removed before a snapshot was taken) is told apart by the caller."""
    here, there = snapshot(mount.point), snapshot(served)
    found = differences(here, {path: there[path] for path in here if path in there},
                        ignore=["mtime", "twins"])  # fmt: skip
    assert not found, "\n".join(found[:20])
    unit = 1_000_000_000 if whole_seconds else 1
    stale = [p for p, node in here.items() if node.mtime // unit != there[p].mtime // unit]
    assert not stale
