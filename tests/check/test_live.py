"""A check beside a mount that goes on working: finds what is there, and nothing that is not."""

from __future__ import annotations

import errno
import json
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from afmfs.cache.content.blobs import blob_name
from tests.conftest import MakeMount
from tests.harness.mounting import Mount

pytestmark = pytest.mark.mounted

BLOCK = 4096


@pytest.fixture
def mount(make_mount: MakeMount, home: Path) -> Mount:
    for n in range(40):
        (home / f"old{n}").write_bytes(os.urandom(3 * BLOCK + n))
    mount = make_mount(home, f"block_size={BLOCK}", "async_delay=0.1", "durable_interval=0.2")
    for n in range(40):
        (mount.point / f"old{n}").read_bytes()
    return mount


def blob_of(mount: Mount, name: str) -> Path:
    ino = (mount.point / name).stat().st_ino
    with closing(sqlite3.connect(f"file:{mount.cache}/cache.db?mode=ro", uri=True)) as db:
        (gen,) = db.execute("SELECT gen FROM inode WHERE ino=?", (ino,)).fetchone()
    return mount.cache / "blobs" / blob_name(gen)


@contextmanager
def work(point: Path) -> Iterator[None]:
    """Somebody makes, writes, cuts, renames and removes files all the while."""
    end = threading.Event()

    def run() -> None:
        for n in range(1 << 30):
            if end.is_set():
                return
            path = point / f"new{n % 50}"
            path.write_bytes(os.urandom(n % 5 * BLOCK + 7))
            os.truncate(path, n % 3 * BLOCK)
            os.rename(path, point / f"moved{n % 20}")
            if n % 7 == 0:
                (point / f"moved{n % 20}").unlink()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()


def test_nothing_is_found_beside_work(mount: Mount) -> None:
    with work(mount.point):
        for _ in range(2):
            run = mount.afmctl("check")
            assert (run.stdout, run.stderr, run.returncode) == ("no findings\n", "", 0)
    run = mount.afmctl("check", "--repair")
    assert run.returncode == 8
    assert f"umount {mount.point}" in run.stderr


def test_a_missing_blob(mount: Mount) -> None:
    mount.checks = False
    blob_of(mount, "old7").unlink()
    run = mount.afmctl("check", "--json")
    found, summary = map(json.loads, run.stdout.splitlines())
    assert (found["kind"], found["path"]) == ("missing blob", "old7")
    assert summary["summary"]["left"] == 1
    assert run.returncode == 4
    mount.await_state("Stopped")
    assert "old7: its blob" in mount.status()["reason"]
    with pytest.raises(OSError) as caught:
        (mount.point / "new").write_bytes(b"x")
    assert caught.value.errno == errno.EROFS
    assert len((mount.point / "old8").read_bytes()) == 3 * BLOCK + 8
    run = mount.afmctl("start")
    assert run.returncode == 1
    assert "check --repair" in run.stderr
    mount.unmount()
    assert mount.afmctl("check", "--repair", device=mount.cache).returncode == 1
    mount.mount("none")
    (mount.point / "new").write_bytes(b"x")
    assert (mount.point / "old7").read_bytes() == (mount.home / "old7").read_bytes()
    mount.checks = True
