"""Power loss at the cache while home does not have what counts as clean here."""

from __future__ import annotations

import json
import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.conftest import MakeMount
from tests.harness.mounting import Mount, wait_until

pytestmark = pytest.mark.mounted

BLOCK = 65536
DATA = os.urandom(10 * BLOCK)
WANTED = DATA[:5] + b"!" + DATA[6:]


def overwrite(path: Path, data: bytes = b"!", offset: int = 5) -> None:
    """Durable on return."""
    fd = os.open(path, os.O_RDWR)
    os.pwrite(fd, data, offset)
    os.fsync(fd)
    os.close(fd)


def power_loss(mount: Mount) -> None:
    """As far as the cache can tell: all that is written is there, and it can't know it."""
    mount.kill9("both")
    with closing(sqlite3.connect(mount.cache / "cache.db")) as db:
        db.execute("UPDATE fileset SET value='another boot' WHERE key='boot_id'")
        db.commit()
    mount.mount("none")


@pytest.fixture
def mount(make_mount: MakeMount, home: Path) -> Mount:
    """All of a file is cached, and durable."""
    (home / "f").write_bytes(DATA)
    mount = make_mount(home, "async_delay=1000", "block_size=64K", "auto_resync=off")
    assert (mount.point / "f").read_bytes() == DATA
    (mount.point / "made").touch()
    fd = os.open(mount.point, os.O_RDONLY)
    os.fsync(fd)  # a durable point of everything
    os.close(fd)
    mount.flush()
    return mount


def test_home_is_away(mount: Mount) -> None:
    os.rename(mount.home, f"{mount.home}.away")
    overwrite(mount.point / "f")
    power_loss(mount)
    assert (mount.point / "f").read_bytes() == WANTED
    os.rename(f"{mount.home}.away", mount.home)
    mount.flush()
    assert (mount.home / "f").read_bytes() == WANTED


def test_a_new_home_does_not_have_it_yet(mount: Mount, tmp_path: Path) -> None:
    """The old one is gone for good."""
    os.rename(mount.home, f"{mount.home}.gone")
    (tmp_path / "new").mkdir()
    assert mount.afmctl("stop").returncode == 0
    moved = mount.afmctl("failover", "--new-target", str(tmp_path / "new"))
    assert moved.returncode == 0, moved.stderr
    overwrite(mount.point / "f")
    power_loss(mount)
    assert mount.afmctl("start").returncode == 0
    wait_until(lambda: "afmManualResyncComplete" in mount.events(), 60, "the failover is done")
    mount.flush()
    assert (tmp_path / "new" / "f").read_bytes() == WANTED
    assert (mount.point / "f").read_bytes() == WANTED


def test_home_has_lost_it(mount: Mount) -> None:
    (mount.home / "f").unlink()
    overwrite(mount.point / "f")
    mount.afmctl("flushPending")
    mount.await_state("NeedsResync")
    power_loss(mount)
    assert mount.afmctl("resync", "--yes", "--wait").returncode == 0
    assert (mount.home / "f").read_bytes() == WANTED
    assert (mount.point / "f").read_bytes() == WANTED


def test_an_entry_was_dropped(mount: Mount) -> None:
    overwrite(mount.point / "f", b"DROPPED", 3 * BLOCK)
    number = json.loads(mount.afmctl("queue").stdout.splitlines()[0])["id"]
    assert mount.afmctl("drop", str(number)).returncode == 0
    overwrite(mount.point / "f")
    power_loss(mount)
    wanted = WANTED[: 3 * BLOCK] + b"DROPPED" + WANTED[3 * BLOCK + 7 :]
    assert (mount.point / "f").read_bytes() == wanted
