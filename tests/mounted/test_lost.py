"""What home has lost before it was cached: said once, and worked with as far as it goes."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

import pytest

from tests.conftest import MakeMount
from tests.harness.mounting import Mount, wait_until

pytestmark = pytest.mark.mounted

BLOCK = 4096


@pytest.fixture
def mount(make_mount: MakeMount, home: Path) -> Mount:
    """Home loses a file and a directory of which only the names are known; a resync sees it."""
    (home / "unread/below").mkdir(parents=True)
    (home / "unread/file").write_bytes(b"never seen")
    for name in ("file", "other"):
        (home / name).write_bytes(b"x" * 3 * BLOCK)
    mount = make_mount(home, f"block_size={BLOCK}", "async_delay=0")
    assert sorted(p.name for p in mount.point.iterdir()) == ["file", "other", "unread"]
    (home / "file").unlink()
    shutil.rmtree(home / "unread")
    run_resync(mount)
    assert mount.status()["lost"] == 2
    return mount


def run_resync(mount: Mount) -> None:
    done = mount.afmctl("resync", "--yes", "--wait")
    assert done.returncode == 0, done.stderr


def settles(mount: Mount) -> None:
    """What was done is at home, as far as home can have it, and contradicts nothing."""
    mount.flush()
    assert mount.status()["state"] == "Active"
    assert "afmNeedsResync" not in mount.events(100)


def test_reads_say_so(mount: Mount, home: Path) -> None:
    with pytest.raises(OSError) as caught:
        (mount.point / "file").read_bytes()
    assert caught.value.errno == errno.EIO
    with pytest.raises(OSError) as caught:
        list((mount.point / "unread").iterdir())
    assert caught.value.errno == errno.EIO
    assert not (home / "unread").exists(), "an empty directory would look as if it had been empty"


def test_names_and_attributes_contradict_nothing(mount: Mount) -> None:
    (mount.point / "file").chmod(0o600)
    (mount.point / "file").rename(mount.point / "renamed")
    (mount.point / "second").hardlink_to(mount.point / "renamed")
    (mount.point / "unread").chmod(0o700)
    (mount.point / "unread").rename(mount.point / "moved")
    settles(mount)
    (mount.point / "renamed").unlink()
    (mount.point / "second").unlink()
    settles(mount)
    assert mount.status()["lost"] == 1


def test_a_name_that_it_takes_is_taken_at_home(mount: Mount, home: Path) -> None:
    (mount.point / "file").rename(mount.point / "other")
    mount.afmctl("flushPending", "--wait")
    wait_until(lambda: mount.status()["state"] == "Active", 20, "it is settled")
    assert not (home / "other").exists()


def test_what_is_written_comes_to_home(mount: Mount, home: Path) -> None:
    with (mount.point / "file").open("r+b", buffering=0) as file:
        file.seek(BLOCK)
        file.write(b"w" * BLOCK)
    settles(mount)
    assert (home / "file").read_bytes()[BLOCK : 2 * BLOCK] == b"w" * BLOCK
    with (mount.point / "file").open("rb", buffering=0) as file:
        with pytest.raises(OSError):
            file.read(1)
        file.seek(BLOCK)
        assert file.read(BLOCK) == b"w" * BLOCK
    (mount.point / "file").write_bytes(b"anew")
    settles(mount)
    assert (home / "file").read_bytes() == (mount.point / "file").read_bytes() == b"anew"


def test_what_comes_back_is_seen_by_the_next_resync(mount: Mount, home: Path) -> None:
    (home / "unread").mkdir()
    (home / "unread/again").write_bytes(b"again")
    (home / "file").write_bytes(b"back")
    run_resync(mount)
    assert mount.status()["lost"] == 0
    assert (mount.point / "unread/again").read_bytes() == b"again"
    assert (mount.point / "file").read_bytes() == b"back"
