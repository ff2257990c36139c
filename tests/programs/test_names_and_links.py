"""Renames, swaps, hard links, odd names, files removed while open."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tests.harness.surfaces import Surface
from tests.harness.syscalls import RENAME_EXCHANGE, RENAME_NOREPLACE, renameat2

pytestmark = pytest.mark.mounted

ODD_NAMES = [
    b"not utf-8 \xff\xfe",
    b"two\nlines\n",
    b" ",
    b"-rf",
    b"\x01\x02\x1b[31m",
    b"tab\tquote\"back\\slash'",
    b"x" * 255,
    "\N{SNOWMAN}".encode() * 85,
    b"...",
    b".afm",  # virtual only in the root
]


def as_path(directory: Path, name: bytes) -> bytes:
    return os.fsencode(directory) + b"/" + name


def test_odd_names_of_every_type(work: Path) -> None:
    for name in ODD_NAMES:
        path = as_path(work, name)
        os.mkdir(path)
        for inner in ODD_NAMES:
            os.close(os.open(path + b"/" + inner, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    os.symlink(ODD_NAMES[0], as_path(work, b"link"))
    assert sorted(os.listdir(os.fsencode(work))) == sorted([*ODD_NAMES, b"link"])
    assert os.readlink(as_path(work, b"link")) == ODD_NAMES[0]


def test_a_name_that_is_too_long(work: Path) -> None:
    path = as_path(work, b"x" * 256)
    for call in (os.mkdir, os.stat, os.unlink, lambda p: os.symlink(b"t", p)):
        with pytest.raises(OSError) as caught:
            call(path)
        assert caught.value.errno == errno.ENAMETOOLONG


def test_rename_directories_of_home(work: Path, surface: Surface) -> None:
    """A directory that home already holds, partly read, moves with what is in it."""
    deep = work / "a/b/c"
    deep.mkdir(parents=True)
    for number in range(20):
        (deep / str(number)).write_bytes(b"%d" % number * 1000)
    surface.flush()
    surface.remount()
    (work / "a").rename(work / "z")
    (work / "z/b").rename(work / "b")
    (work / "z").rename(work / "b/z")
    (work / "b/c/new").write_bytes(b"new")
    surface.flush()
    assert (surface.home / work.name / "b/c/7").read_bytes() == b"7" * 1000
    assert (work / "b/c/11").read_bytes() == b"11" * 1000
    with pytest.raises(OSError) as caught:
        (work / "b").rename(work / "b/z/inside")
    assert caught.value.errno == errno.EINVAL


def test_rename_over(work: Path) -> None:
    (work / "old").write_bytes(b"old")
    (work / "new").write_bytes(b"new")
    os.rename(work / "new", work / "old")
    assert (work / "old").read_bytes() == b"new"
    (work / "d1/sub").mkdir(parents=True)
    (work / "d2").mkdir()
    with pytest.raises(OSError) as caught:
        os.rename(work / "d2", work / "d1")
    assert caught.value.errno in (errno.ENOTEMPTY, errno.EEXIST)
    os.rename(work / "d1", work / "d2")
    assert os.listdir(work / "d2") == ["sub"]
    with pytest.raises(NotADirectoryError):
        os.rename(work / "d2", work / "old")
    with pytest.raises(IsADirectoryError):
        os.rename(work / "old", work / "d2")


def test_rename_to_a_twin_does_nothing(work: Path) -> None:
    (work / "one").write_bytes(b"both")
    os.link(work / "one", work / "other")
    os.rename(work / "one", work / "other")
    assert sorted(os.listdir(work)) == ["one", "other"]


def test_exchange(work: Path, surface: Surface) -> None:
    (work / "file").write_bytes(b"file")
    (work / "dir/sub").mkdir(parents=True)
    (work / "dir/sub/deep").write_bytes(b"deep")
    surface.flush()
    renameat2(work / "file", work / "dir", RENAME_EXCHANGE)
    assert (work / "file/sub/deep").read_bytes() == b"deep"
    assert (work / "dir").read_bytes() == b"file"
    renameat2(work / "dir", work / "file/sub/deep", RENAME_EXCHANGE)
    assert (work / "file/sub/deep").read_bytes() == b"file"
    assert (work / "dir").read_bytes() == b"deep"
    for flags, target, error in (
        (RENAME_NOREPLACE, "file", errno.EEXIST),
        (RENAME_EXCHANGE, "missing", errno.ENOENT),
        (RENAME_EXCHANGE | RENAME_NOREPLACE, "file", errno.EINVAL),
    ):
        with pytest.raises(OSError) as caught:
            renameat2(work / "dir", work / target, flags)
        assert caught.value.errno == error
    renameat2(work / "dir", work / "free", RENAME_NOREPLACE)


def test_hard_links(work: Path, surface: Surface) -> None:
    (work / "one").write_bytes(b"1" * 5000)
    (work / "d").mkdir()
    os.link(work / "one", work / "two")
    os.link(work / "two", work / "d/three")
    assert (work / "one").stat().st_nlink == 3
    assert (work / "one").stat().st_ino == (work / "d/three").stat().st_ino
    surface.flush()
    surface.remount()
    with (work / "two").open("r+b") as file:
        file.write(b"2" * 10)
    assert (work / "d/three").read_bytes() == b"2" * 10 + b"1" * 4990
    (work / "one").unlink()
    surface.flush()
    there = surface.home / work.name
    assert (there / "two").stat().st_ino == (there / "d/three").stat().st_ino
    with pytest.raises(PermissionError):
        os.link(work / "d", work / "directory twin")


@pytest.mark.parametrize("flushed", [False, True])
def test_removed_while_open(work: Path, surface: Surface, flushed: bool) -> None:
    (work / "gone").write_bytes(b"before")
    if flushed:
        surface.flush()
    with (work / "gone").open("r+b", buffering=0) as file:
        (work / "gone").unlink()
        assert not (work / "gone").exists()
        assert os.fstat(file.fileno()).st_nlink == 0
        file.write(b"AFTER")
        surface.flush()
        (work / "gone").write_bytes(b"another")
        file.seek(0)
        assert file.read() == b"AFTERe"
        file.truncate(2)
        assert os.fstat(file.fileno()).st_size == 2


def test_replaced_while_open(work: Path, surface: Surface) -> None:
    (work / "file").write_bytes(b"old" * 100)
    surface.flush()
    with (work / "file").open("rb", buffering=0) as file:
        (work / "new").write_bytes(b"new")
        os.rename(work / "new", work / "file")
        surface.flush()
        assert file.read() == b"old" * 100
    assert (work / "file").read_bytes() == b"new"


def test_a_large_directory(work: Path) -> None:
    """Read while it changes: what stays is listed exactly once."""
    many = 3000
    for number in range(many):
        os.close(os.open(work / f"{number:05}", os.O_CREAT | os.O_WRONLY))
    seen = []
    with os.scandir(work) as entries:
        for count, entry in enumerate(entries):
            seen.append(entry.name)
            if count == 100:
                for number in range(0, many, 3):
                    os.unlink(work / f"{number:05}")
                for number in range(many, many + 500):
                    (work / f"{number:05}").touch()
    stay = {f"{number:05}" for number in range(many) if number % 3}
    assert len(seen) == len(set(seen))
    assert stay <= set(seen)
    assert len(os.listdir(work)) == len(stay) + 500


def test_what_rmdir_and_unlink_refuse(work: Path) -> None:
    (work / "full/sub").mkdir(parents=True)
    (work / "file").touch()
    cases = [
        (os.rmdir, "full", (errno.ENOTEMPTY,)),
        (os.rmdir, "file", (errno.ENOTDIR,)),
        (os.unlink, "full", (errno.EISDIR, errno.EPERM)),
        (os.rmdir, "missing", (errno.ENOENT,)),
        (os.mkdir, "file", (errno.EEXIST,)),
        (os.mkdir, "file/below", (errno.ENOTDIR,)),
    ]
    for call, name, errors in cases:
        with pytest.raises(OSError) as caught:
            call(work / name)
        assert caught.value.errno in errors
