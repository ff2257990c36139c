"""Who may not open a file at home does not reach it through the cache by moving or linking it.

The gateway may be root. A directory that several users write lets each of them move the others'
files; where the kernel lets them (fs.protected_hardlinks = 0), they link what they may not open.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import MakeMount
from tests.gateway.fake_mount import FakeMount
from tests.harness.mounting import wait_until

ALICE, BOB = 1001, 1002
SECRET, MINE = b"Bob's secret", b"Alice's file"  # of one length

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="needs files of several users")
pytestmark = root_only


@pytest.fixture
def shared(home: Path) -> Path:
    """Both may make, move and remove names here; the secret can only be read by Bob."""
    shared = home / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    put(shared / "mine", MINE, ALICE, 0o644)
    put(shared / "secret", SECRET, BOB, 0o600)
    return shared


def put(path: Path, data: bytes, owner: int, mode: int) -> None:
    path.write_bytes(data)
    os.chown(path, owner, owner)
    path.chmod(mode)


def read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def owned(path: Path) -> tuple[bytes, int, int]:
    info = path.lstat()
    return path.read_bytes(), info.st_uid, info.st_mode & 0o777


@pytest.mark.mounted
def test_moving_a_secret_to_a_known_name_shows_it_to_nobody(
    shared: Path, home: Path, make_mount: MakeMount
) -> None:
    mount = make_mount(home, "allow_other", "async_delay=0")
    mine = mount.point / "shared/mine"
    assert (mine.stat().st_uid, mine.stat().st_mode & 0o777) == (ALICE, 0o644)
    (shared / "secret").rename(shared / "mine")
    assert read(mine) != SECRET
    mount.await_state("NeedsResync")

    def resynced() -> bool:
        assert read(mine) != SECRET  # a read, but not the first one, starts a resync
        return mount.status()["state"] in ("Active", "Dirty")

    wait_until(resynced, 20, "an automatic resync has come to its end", every=0.4)
    assert read(mine) != SECRET
    mine.chmod(0o604)
    mount.flush()
    assert read(mine) != SECRET
    assert owned(shared / "mine") == (SECRET, BOB, 0o600)


@pytest.mark.mounted
@pytest.mark.parametrize("owner", [ALICE, 0])
def test_what_is_written_does_not_go_into_another_file(
    shared: Path, home: Path, tmp_path: Path, make_mount: MakeMount, owner: int
) -> None:
    """Also not where root itself writes to a file of its own."""
    passwd = tmp_path / "passwd"
    put(passwd, b"root:x:0:0::", 0, 0o644)
    os.chown(shared / "mine", owner, owner)
    mount = make_mount(home, "allow_other")
    mine = mount.point / "shared/mine"
    with mine.open("r+b") as file:  # all of it, so that no cached byte tells the two apart
        file.write(b"root::0:0::/")
    (shared / "mine").unlink()
    os.link(passwd, shared / "mine")
    mount.afmctl("flushPending")
    mount.await_state("NeedsResync")
    assert mount.afmctl("resync", "--wait", "--yes").returncode == 0
    assert owned(passwd) == (b"root:x:0:0::", 0, 0o644)
    assert owned(shared / "mine") == (b"root::0:0::/", owner, 0o644)
    assert passwd.stat().st_nlink == 2, "what was linked there is in the trash"


# -- while a push is under way, no version is asked for -------------------------------------------


@pytest.fixture
def mount(shared: Path, home: Path, tmp_path: Path) -> Iterator[FakeMount]:
    """Alice's file, whose push was begun."""
    fake = FakeMount(tmp_path / "cache", home)
    try:
        fake.start()
        fake.await_message("connected")
        fake.stop()
        directory = fake.adopt(b"shared")
        ino = fake.adopt(b"mine", directory, "shared")
        entry = fake.write(ino, 0, b"root::")
        journal = sqlite3.connect(fake.cache / "gateway/1/gateway.db")
        with journal:
            journal.execute("INSERT INTO flight VALUES (?, ?)", (entry, None))
        journal.close()
        yield fake
    finally:
        fake.close()


def test_a_push_in_doubt_is_done_again_only_to_the_same_file(
    mount: FakeMount, shared: Path
) -> None:
    (shared / "secret").rename(shared / "mine")
    mount.start()
    assert mount.await_message("inconsistent")["path"] == "shared/mine"
    reply, data = mount.request("fetch", ino=mount.next_ino - 1, start=6, end=12)
    assert reply["errno"] and not data
    assert owned(shared / "mine") == (SECRET, BOB, 0o600)


def test_its_own_file_is_no_other(mount: FakeMount, shared: Path) -> None:
    put(shared / "mine", b"roo" + MINE[3:], 0, 0o600)  # as far as the push had come
    mount.start()
    mount.settle()
    assert owned(shared / "mine")[0] == b"root::" + MINE[6:]
