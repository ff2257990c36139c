from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from afmfs import mountinfo
from afmfs.admin.access import Access, Hung
from afmfs.admin.find import Mount, NotFound, explain, find, lock_owner, uncovered
from afmfs.cache.report.status import Status, render_json
from afmfs.cache.store.settings import file_system_of
from mount.mountpoint import mounted_at

TABLE = rb"""22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
40 22 0:50 / /mnt/a\040b rw,nosuid - fuse.afmfs fs1 rw,user_id=0
41 22 0:51 / /mnt/two rw,nosuid shared:5 master:3 - fuse.afmfs fs1 rw
42 22 0:51 / /mnt/bind rw,nosuid - fuse.afmfs fs1 rw
43 22 0:50 /sub /mnt/sub rw,nosuid - fuse.afmfs fs1 rw
44 22 0:53 / /mnt/sshfs rw - fuse.sshfs host:/x rw
45 22 0:54 / /mnt/covered rw - fuse.afmfs fs2 rw
46 45 0:55 / /mnt/covered rw - tmpfs tmpfs rw
47 22 0:56 / /mnt/\134\377 rw - fuse.afmfs fs3 rw
"""


def test_uncovered() -> None:
    assert uncovered(mountinfo.parse(TABLE)) == [
        Mount("fs1", "/mnt/a b", "0:50"),
        Mount("fs1", "/mnt/two", "0:51"),
        Mount("fs3", "/mnt/\\\udcff", "0:56"),
    ]


def test_any_bytes() -> None:
    (one,) = mountinfo.parse(rb"47 22 0:56 / a\040\011\012\134\377x rw - tmpfs \043 rw")
    assert (one.point, one.source) == ("a \t\n\\\udcffx", "#")


def test_bytes_that_are_no_text(make: Make) -> None:
    """Of a mount that is nobody's concern here: it kept every cache from being mounted."""
    with open(mountinfo.TABLE, "ab") as table:
        table.write(b"99 1 0:99 / /mnt/\xff rw - tmpfs tmpfs rw\n")
    assert file_system_of(Path("/")) == "" and mounted_at(Path(os.fsdecode(b"/mnt/\xff")))


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (OSError(errno.ENOTCONN, ""), "is dead"),
        (OSError(errno.EACCES, ""), "permission denied"),
        (OSError(errno.ENOENT, ""), "no control directory"),
        (Hung("/m/.afm/control"), "does not answer"),
        (ValueError("x"), "/m: x"),
    ],
)
def test_explain(error: Exception, text: str) -> None:
    assert text in explain(error, Mount("fs1", "/m", "0:50"))


# -- plain directories in the place of mounts ----------------------------------------------------

Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Adds a directory with a status.json to a table of mounts of our own."""
    table = tmp_path / "mountinfo"
    table.touch()
    monkeypatch.setattr(mountinfo, "TABLE", str(table))

    def add(device: str, fileset: str, *, readable: bool = True) -> Path:
        point = tmp_path / fileset
        (point / ".afm").mkdir(parents=True)
        cache = str(tmp_path / f"cache-{fileset}")
        status = Status(
            device=device, fileset=fileset, target="/h", state="Active", gateway="g", cache=cache
        )
        if readable:
            (point / ".afm/status.json").write_text(render_json(status))
        number = len(table.read_bytes().splitlines())
        with table.open("a") as file:
            file.write(f"{number} 1 0:{number} / {point} rw - fuse.afmfs {device} rw\n")
        return point

    return add


@pytest.fixture
def access() -> Iterator[Access]:
    with Access() as child:
        yield child


def test_by_device_and_fileset(make: Make, access: Access) -> None:
    make("fs1", "one"), make("fs1", "two"), make("fs2", "three")
    assert [f.status.fileset for f in find("fs1", None, access).filesets] == ["one", "two"]
    assert [f.status.fileset for f in find("fs1", "two", access).filesets] == ["two"]
    with pytest.raises(NotFound, match="no fileset 'three' there, but: one, two"):
        find("fs1", "three", access)


def test_by_mount_point(
    make: Make, access: Access, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    point = make("fs1", "one")
    make("fs1", "two")
    (tmp_path / "link").symlink_to(point)
    monkeypatch.chdir(tmp_path)
    for device in (str(point), f"{point}/", "one", "./one", str(tmp_path / "link")):
        (found,) = find(device, None, access).filesets
        assert found.status.fileset == "one"


def test_nothing_found_names_what_there_is(make: Make, access: Access) -> None:
    with pytest.raises(NotFound, match="no afmfs is mounted here"):
        find("fs9", None, access)
    point = make("fs1", "one")
    with pytest.raises(NotFound, match=f"mounted: fs1 at {point}"):
        find("fs9", None, access)


def test_one_that_does_not_answer_keeps_no_other_from_answering(make: Make, access: Access) -> None:
    silent = make("fs1", "one", readable=False)
    make("fs1", "two")
    found = find("fs1", None, access)
    assert [f.status.fileset for f in found.filesets] == ["two"]
    assert [*found.silent] == [str(silent)]


def test_a_cache_directory(make: Make, access: Access, tmp_path: Path) -> None:
    make("fs1", "one")
    for fileset in ("one", "two"):
        (tmp_path / f"cache-{fileset}").mkdir()
        (tmp_path / f"cache-{fileset}/cache.db").touch()
        (tmp_path / f"cache-{fileset}/lock").touch()
    (found,) = find(str(tmp_path / "cache-one"), None, access).filesets
    assert found.status.fileset == "one"
    two = tmp_path / "cache-two"
    assert find(str(two), None, access).cache == str(two)
    with open(two / "lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if lock_owner(str(two / "lock")) is None:
            pytest.skip("the kernel names another device for files of this file system")
        with pytest.raises(NotFound, match=f"in use by process {os.getpid()}"):
            find(str(two), None, access)
