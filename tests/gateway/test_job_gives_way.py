"""A job that takes the place of one whose last rows home refuses: all is brought home by it."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from afmfs.gateway.home.home import Home
from afmfs.gateway.replay import backoff
from tests.gateway.fake_mount import BLOCK, FakeMount
from tests.gateway.test_restore import (
    JOB,
    OLD,
    changed_file,
    partial,
    restore,
    start,
    states,
    trash,
)

NEXT = JOB + 1


class Closed:
    """A home that lets nothing come to its place, as long as it is closed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.closed, self.on_link = True, list[FakeMount]()
        real = Home.link

        def link(home: Home, *values: object) -> None:
            for mount in self.on_link[:1]:
                self.on_link.clear()
                begin(mount, NEXT)
            if self.closed:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            real(home, *values)  # type: ignore[arg-type]

        monkeypatch.setattr(Home, "link", link)


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Closed:
    monkeypatch.setattr(backoff, "BACK_OFF_S", 300.0)  # only what is resumed is tried again
    return Closed(monkeypatch)


def begin(mount: FakeMount, job: int, kind: str = "resync") -> None:
    assert mount.gateway is not None
    record = {"id": job, "kind": kind, "bound": mount.next_id - 1, "manual": True}
    mount.gateway.receive({"type": "job", "job": record})


def wait_for_home(mount: FakeMount, kind: str = "resync") -> None:
    """Both files went aside, neither came to its place."""
    partial(mount, b"f")
    changed_file(mount, b"g")
    start(mount)
    begin(mount, JOB, kind)
    mount.await_message("progress", id=JOB, phase="waiting", left=2)
    assert len(list(trash(mount).glob("[0-9]*"))) == 2
    assert not (mount.home / "f").exists() and not (mount.home / "g").exists()


def finish(mount: FakeMount) -> None:
    assert mount.gateway is not None
    mount.await_message("progress", id=NEXT, phase="done")
    mount.retire()
    mount.gateway.receive({"type": "job_taken", "id": NEXT})
    mount.gateway.receive({"type": "run", "stopped": False, "needs_resync": False})
    mount.settle()
    assert mount.pending() == []
    assert not [message for message in mount.log if message["type"] == "inconsistent"]


def contents(mount: FakeMount) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in mount.home.iterdir() if path.is_file()}


NULLED = bytes(BLOCK) + OLD[BLOCK : 2 * BLOCK] + bytes(100)


@pytest.mark.parametrize("restarted", [False, True])
def test_what_the_first_decided_and_did_not_do(
    mount: FakeMount, home: Closed, restarted: bool
) -> None:
    """What it moved aside, and could not put anything in the place of, is kept as well."""
    wait_for_home(mount)
    if restarted:
        mount.stop()
        start(mount)
    home.closed = False
    begin(mount, NEXT)
    mount.make(b"h", b"made since")  # beyond its bound
    finish(mount)
    assert contents(mount) == {"f": NULLED, "g": b"old", "h": b"made since"}
    assert [row["path"] for row in restore(mount)] == [b"f", b"g"]
    assert contents(mount)[f"f.restored-{JOB}"] == OLD
    assert contents(mount)[f"g.restored-{JOB}"] == b"of home, g"
    mount.stop()
    assert "intended" not in states(mount)


def test_a_failover(mount: FakeMount, home: Closed) -> None:
    """Of which home is changed once more: that goes to the trash of the new one."""
    changed_file(mount, b"g")
    start(mount)
    begin(mount, JOB, "failover")
    mount.await_message("progress", id=JOB, phase="waiting")
    (mount.home / "g").write_bytes(b"of home, again")
    home.closed = False
    begin(mount, NEXT, "failover")
    finish(mount)
    assert contents(mount) == {"g": b"old"}
    texts = [kept(mount, job) for job in (JOB, NEXT)]
    assert texts == [[b"of home, g"], [b"of home, again"]]


def kept(mount: FakeMount, job: int) -> list[bytes]:
    return [path.read_bytes() for path in sorted(Path(trash(mount, job)).glob("[0-9]*"))]


@pytest.mark.parametrize("closed", [False, True])
def test_in_the_middle_of_a_step(mount: FakeMount, home: Closed, closed: bool) -> None:
    """What that does is the first one's, and it ends nothing of the new one."""
    wait_for_home(mount)
    home.closed, home.on_link = closed, [mount]
    assert mount.gateway is not None
    mount.gateway.receive({"type": "resume"})
    if closed:
        mount.await_message("progress", id=NEXT, phase="waiting")
        home.closed = False
        mount.gateway.receive({"type": "resume"})
    finish(mount)
    assert contents(mount) == {"f": NULLED, "g": b"old"}
    mount.stop()
    assert set(states(mount)) == {"moved"}
