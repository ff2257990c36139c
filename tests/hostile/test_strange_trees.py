"""Homes with any names, very deep and very wide."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import MakeMount
from tests.harness.mounting import MountFailed
from tests.harness.trees import assert_same

pytestmark = pytest.mark.mounted

WIDE = int(os.environ.get("AFMFS_WIDE", "20000"))
DEEP = 100

NAMES = [
    b"\xff\xfe\x80", b"caf\xe9", b"new\nline", b"\n", b"tab\t", b"\x01\x1b[2J\x7f", b"\xc2\x9b31m",
    b" ", b" leading", b"trailing ", b"-rf", b"--", b"'", b'"', b"$(reboot)", b"`x`", b"*", b"?",
    b"\\", b"\\x41", b"#", b"%41", b"a:b", b"...", b"..a", b".hidden", b"~", b"lost+found", b"CON",
    b"case", b"CASE", b"Case", b"e\xcc\x81", b"\xc3\xa9", b"x" * 255, b"\xff" * 255,
    b".afmtrash", b"unlinked", b"scratch", b"\xed\xb3\xbf", b"\xf0\x9f\x98\x80" * 63,
]  # fmt: skip


@pytest.fixture
def named(home: Path) -> Path:
    """Files, directories and links of all these names, and `.afm` where it is not ours."""
    top = os.fsencode(home)
    for kind in (b"files", b"directories", b"links"):
        os.mkdir(top + b"/" + kind)
    for name in NAMES:
        with open(top + b"/files/" + name, "wb") as file:
            file.write(b"I am " + name)
        os.mkdir(top + b"/directories/" + name)
        with open(top + b"/directories/" + name + b"/" + name, "wb") as file:
            file.write(name)
        os.symlink(b"../files/" + name, top + b"/links/" + name)
    (home / "directories/.afm").mkdir()
    (home / "directories/.afm/control").write_text("a file of the user's")
    (home / "files/.afm").write_text("another")
    return home


def test_any_names(named: Path, make_mount: MakeMount) -> None:
    mount = make_mount(named, "async_delay=1000000")
    point = os.fsencode(mount.point)
    assert_same(named, mount.point)
    for name in NAMES:
        with open(point + b"/files/" + name, "ab") as file:
            file.write(b", changed")
        os.rename(point + b"/directories/" + name + b"/" + name, point + b"/directories/" + name
                  + b"/moved")  # fmt: skip
        os.unlink(point + b"/links/" + name)
        with open(point + b"/links/" + name, "wb") as file:
            file.write(b"a file now")
    lines = mount.afmctl("queue").stdout.splitlines()
    assert len(lines) >= 4 * len(NAMES)
    assert all(isinstance(json.loads(line), dict) for line in lines), "a name is never two lines"
    mount.flush()
    assert_same(named, mount.point)
    assert (named / "directories/.afm/control").read_text() == "a file of the user's"
    mount.afmctl("evict", "--safe-limit", "0")
    assert mount.afmctl("resync", "--wait", "--yes").returncode == 0
    run = mount.afmctl("verify")
    assert run.returncode == 0 and "Traceback" not in run.stderr, run.stdout + run.stderr
    mount.remount()
    assert_same(named, mount.point)
    for name in NAMES:
        shutil.rmtree(point + b"/directories/" + name)
        os.unlink(point + b"/files/" + name)
    mount.flush()
    assert sorted(os.listdir(named / "directories")) == [".afm"]
    assert os.listdir(named / "files") == [".afm"]


@pytest.mark.parametrize("kind", ["file", "directory", "link", "with a marker of text"])
def test_home_has_something_of_its_own_named_as_our_marker(
    home: Path, make_mount: MakeMount, kind: str
) -> None:
    theirs = home / ".afm"
    if kind == "file":
        theirs.write_text("theirs")
    elif kind == "link":
        theirs.symlink_to("/etc")
    else:
        theirs.mkdir()
        (theirs / "theirs").write_text("theirs")
    if kind == "with a marker of text":
        for name in ("marker", "fileset", "marker.json"):
            (theirs / name).write_text("{not ours")
    before = {path: path.lstat().st_mtime_ns for path in home.rglob("*")}
    mount = make_mount(home, start=False)
    try:
        mount.mount()
    except MountFailed as refusal:
        assert "status 32" in str(refusal) and "Traceback" not in str(refusal)
        assert before == {path: path.lstat().st_mtime_ns for path in home.rglob("*")}
    else:
        # It has taken a directory that nobody else has a marker in for its own, as it is.
        assert kind.startswith(("directory", "with"))
        assert (theirs / "theirs").read_text() == "theirs"
    assert "Traceback" not in mount.log_tail(200)


# -- deep ------------------------------------------------------------------------------------------


def descend(top: Path, names: list[bytes], *, make: bool = False) -> Iterator[int]:
    """A descriptor of each directory on the way, which is too long for one path."""
    fd = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    for name in names:
        if make:
            os.mkdir(name, dir_fd=fd)
        below = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
        os.close(fd)
        fd = below
        yield fd
    os.close(fd)


def at_the_bottom(top: Path, names: list[bytes], name: bytes, data: bytes | None = None) -> bytes:
    """What a file in the deepest directory holds, after `data` was written to it."""
    *_, found = (_at(fd, name, data) if at == len(names) else b"" for at, fd in
                 enumerate(descend(top, names)))  # fmt: skip
    return found


def _at(fd: int, name: bytes, data: bytes | None) -> bytes:
    flags = os.O_RDONLY if data is None else os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    file = os.open(name, flags, 0o644, dir_fd=fd)
    try:
        if data is None:
            return os.read(file, 1000)
        os.write(file, data)
        return data
    finally:
        os.close(file)


@pytest.mark.parametrize("length", [120])
def test_a_deep_tree(home: Path, make_mount: MakeMount, length: int) -> None:
    """The longer names make paths of 12,000 bytes, which no system call takes in one."""
    names = [b"%03d" % n + b"x" * (length - 3) for n in range(DEEP)]
    for _ in descend(home, names, make=True):
        pass
    at_the_bottom(home, names, b"old", b"from home")
    mount = make_mount(home, "async_delay=1000000")
    assert at_the_bottom(mount.point, names, b"old") == b"from home"
    at_the_bottom(mount.point, names, b"old", b"changed")
    at_the_bottom(mount.point, names, b"new", b"from here")
    moved = [b"top", *names[1:]]
    os.rename(mount.point / os.fsdecode(names[0]), mount.point / "top")
    at_the_bottom(mount.point, moved, b"later", b"after it was moved")
    assert mount.afmctl("queue").returncode == 0
    assert mount.afmctl("verify").returncode in (0, 1)
    mount.flush()
    expected = {b"old": b"changed", b"new": b"from here", b"later": b"after it was moved"}
    for name, data in expected.items():
        assert at_the_bottom(home, moved, name) == data
    mount.remount()
    for name, data in expected.items():
        assert at_the_bottom(mount.point, moved, name) == data
    run = mount.afmctl("verify")
    assert (run.returncode, "Traceback" in run.stderr) == (0, False), run.stdout + run.stderr
    rename_up(mount.point)  # or nobody could remove it, pytest included
    mount.flush()


def rename_up(top: Path) -> None:
    """Lift what lies deep, so that the paths are short again."""
    level, here = 0, top / "top"
    while True:
        below = [entry for entry in os.scandir(here) if entry.is_dir(follow_symlinks=False)]
        if not below:
            return
        level += 1
        lifted = top / f"level{level}"
        os.rename(below[0].path, lifted)
        here = lifted


# -- wide ------------------------------------------------------------------------------------------


def test_a_wide_directory(home: Path, make_mount: MakeMount) -> None:
    wide = home / "wide"
    wide.mkdir()
    fd = os.open(wide, os.O_RDONLY | os.O_DIRECTORY)
    for n in range(WIDE):
        os.mknod(b"file-%06d" % n, 0o100644, dir_fd=fd)
    os.close(fd)
    (home / "beside").write_text("beside")
    mount = make_mount(home, "async_delay=1000000", "life_timeout=20")
    here = mount.point / "wide"
    started = time.monotonic()
    found = os.listdir(here)
    took = time.monotonic() - started
    assert sorted(found) == [f"file-{n:06d}" for n in range(WIDE)]
    assert took < 15 + WIDE / 2000, f"{took:.1f} s for {WIDE} names"
    assert not (here / "no such file").exists()
    (here / "file-000007").write_text("seven")
    (here / "new").write_text("new")
    os.rename(here / "file-000008", here / "moved")
    os.unlink(here / "file-000009")
    with pytest.raises(OSError):
        os.rmdir(here)
    assert len(os.listdir(here)) == WIDE
    mount.flush()
    assert set(os.listdir(wide)) == set(os.listdir(here))
    assert (wide / "file-000007").read_text() == "seven"
    mount.remount()
    assert (here / "moved").stat().st_size == 0
    assert len(os.listdir(here)) == WIDE
