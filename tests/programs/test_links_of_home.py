"""Files with several names at home, of which not all have been read yet."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.conftest import MakeMount

pytestmark = pytest.mark.mounted


@pytest.fixture
def twins(home: Path) -> Path:
    """One file, in two directories."""
    (home / "a").mkdir()
    (home / "b").mkdir()
    (home / "a" / "name").write_bytes(b"0123456789" * 10_000)
    os.link(home / "a" / "name", home / "b" / "name")
    return home


def test_two_names_are_one_file(make_mount: MakeMount, twins: Path) -> None:
    mount = make_mount(twins)
    one, two = mount.point / "a" / "name", mount.point / "b" / "name"
    assert one.stat().st_ino == two.stat().st_ino
    assert one.stat().st_nlink == 2
    with one.open("r+b") as file:
        file.write(b"changed")
    assert two.read_bytes()[:10] == b"changed789"
    mount.flush()
    assert (twins / "b" / "name").read_bytes()[:10] == b"changed789"
    assert (twins / "a" / "name").stat().st_ino == (twins / "b" / "name").stat().st_ino


@pytest.mark.parametrize("flushed", [False, True])
def test_written_after_its_known_name_went(
    make_mount: MakeMount, twins: Path, *, flushed: bool
) -> None:
    """The other name, which nobody has looked at, has what was written."""
    mount = make_mount(twins)
    with (mount.point / "a" / "name").open("r+b") as file:
        (mount.point / "a" / "name").unlink()
        if flushed:
            mount.flush()
        file.write(b"later")
        file.flush()
        assert os.fstat(file.fileno()).st_nlink == 1
    mount.flush()
    assert (twins / "b" / "name").read_bytes()[:10] == b"later56789"
    assert (mount.point / "b" / "name").read_bytes()[:10] == b"later56789"
    assert not (twins / "a" / "name").exists()
    assert list((twins / ".afm" / "unlinked").glob("*")) == []
    mount.remount()
    assert (mount.point / "b" / "name").stat().st_nlink == 1
