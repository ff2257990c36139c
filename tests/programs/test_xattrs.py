"""Extended attributes and access control lists, where the mount has them enabled."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path

import pytest

from tests.conftest import MakeMount

pytestmark = pytest.mark.mounted


def run(*words: str | Path) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def lists_below(top: Path) -> dict[str, tuple[int, str]]:
    """Mode and access lists of everything below `work`."""
    return {
        str(path.relative_to(top)): (
            path.stat().st_mode,
            run("getfacl", "--numeric", "--omit-header", "--absolute-names", path),
        )
        for path in (top / "work", *(top / "work").rglob("*"))
    }


def test_attributes_and_lists_reach_home(make_mount: MakeMount, home: Path) -> None:
    (home / "work").mkdir()
    (home / "work" / "there").write_text("from home")
    os.setxattr(home / "work" / "there", "user.origin", b"home\xff")
    run("setfacl", "-m", "u:1234:r", home / "work" / "there")
    mount = make_mount(home, "xattrs")
    work = mount.point / "work"
    assert os.getxattr(work / "there", "user.origin") == b"home\xff"
    assert lists_below(mount.point) == lists_below(home)

    run("setfacl", "-m", "d:u:1234:rwx,d:m::rx", work)
    (work / "below").mkdir(mode=0o755)
    (work / "new").write_text("inherits")
    os.setxattr(work / "new", "user.big", b"v" * 2000)
    os.removexattr(work / "there", "user.origin")
    run("setfacl", "-m", "u:77:rw", work / "new")
    os.chmod(work / "new", 0o640)
    with pytest.raises(OSError) as caught:
        os.setxattr(work / "new", "user.big", b"", os.XATTR_CREATE)
    assert caught.value.errno == errno.EEXIST
    assert (work / "new").stat().st_mode & 0o777 == 0o640

    mount.flush()
    assert lists_below(mount.point) == lists_below(home)
    assert os.getxattr(home / "work" / "new", "user.big") == b"v" * 2000
    assert "user.origin" not in os.listxattr(home / "work" / "there")
    assert (home / "work" / "new").stat().st_mode == (work / "new").stat().st_mode


def test_the_state_of_a_file_is_an_attribute(make_mount: MakeMount, home: Path) -> None:
    (home / "file").write_bytes(b"x" * 100)
    mount = make_mount(home, "xattrs")
    assert os.getxattr(mount.point / "file", "user.afm.state") == b"uncached 0/100 0/1"
    (mount.point / "file").read_bytes()
    assert os.getxattr(mount.point / "file", "user.afm.state") == b"cached 100/100 1/1"


def test_without_them_nobody_gets_more_than_home_grants(make_mount: MakeMount, home: Path) -> None:
    """A list that keeps somebody out is no longer seen; the mode has to keep him out instead."""
    (home / "file").write_text("not for 1234")
    (home / "file").chmod(0o664)
    run("setfacl", "-m", "u:1234:-", home / "file")
    mount = make_mount(home)
    assert (mount.point / "file").stat().st_mode & 0o777 == 0o600
    with pytest.raises(OSError, match="not supported"):
        os.setxattr(mount.point / "file", "user.a", b"b")


def test_a_removed_directory_that_is_held_has_no_attributes(
    make_mount: MakeMount, home: Path
) -> None:
    """No error either: the kernel asks for its access list whenever it is used."""
    mount = make_mount(home, "xattrs")
    path = mount.point / "held"
    path.mkdir()
    held = os.open(path, os.O_RDONLY)
    path.rmdir()
    try:
        assert os.listxattr(held) == []
        with pytest.raises(OSError) as caught:
            os.getxattr(held, "user.none")
        assert caught.value.errno == errno.ENODATA
    finally:
        os.close(held)
