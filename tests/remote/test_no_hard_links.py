"""A remote home without hard links: files that have several names here all the same."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import MakeMount
from tests.harness.mounting import Mount
from tests.harness.sshd import Sshd, available

pytestmark = [pytest.mark.mounted, pytest.mark.remote]

DATA = os.urandom(300_000)


@pytest.fixture
def served(tmp_path: Path) -> Path:
    (tmp_path / "served").mkdir()
    (tmp_path / "served/a").write_bytes(DATA)
    return tmp_path / "served"


@pytest.fixture
def remote(tmp_path: Path, served: Path) -> Iterator[Path]:
    if missing := available():
        pytest.skip(missing)
    with Sshd(tmp_path / "sshd") as sshd:
        yield sshd.mount(served, tmp_path / "remote", "disable_hardlink").mountpoint


def flush(mount: Mount) -> None:
    run = mount.afmctl("flushPending", "--wait", "--timeout", "20")
    assert run.returncode == 0, run.stderr


def test_link_is_refused(make_mount: MakeMount, remote: Path) -> None:
    mount = make_mount(remote, "async_delay=1")
    try:
        with pytest.raises(OSError, match="not permitted") as refused:
            os.link(mount.point / "a", mount.point / "b")
        assert refused.value.errno == errno.EPERM
        assert (mount.point / "a").stat().st_nlink == 1
    finally:
        mount.terminate()  # before the server goes, which it uses


@pytest.mark.parametrize("over", [False, True])
def test_links_that_a_failover_brings(
    make_mount: MakeMount, home: Path, remote: Path, served: Path, over: bool
) -> None:
    """The new home has the file under one name; when that goes, it has it under the other."""
    (home / "a").write_bytes(DATA)
    os.link(home / "a", home / "b")
    for path in (home / "a", served / "a"):
        os.utime(path, (1, 1_600_000_000))
    mount = make_mount(home, "fileset=sw1", "async_delay=1")
    try:
        assert os.path.samefile(mount.point / "a", mount.point / "b")
        run = mount.afmctl("failover", "--new-target", str(remote), "--wait")
        assert run.returncode == 0, run.stderr
        assert "Link, EPERM" in mount.afmctl("verify").stdout
        if over:
            (mount.point / "x").write_bytes(b"new")
            os.rename(mount.point / "x", mount.point / "a")
        else:
            os.unlink(mount.point / "a")
        flush(mount)
        assert (served / "b").read_bytes() == DATA
        assert (served / "a").exists() == over
        assert (mount.point / "b").read_bytes() == DATA
        assert "1 difference (1 unrepresentable)" in mount.afmctl("verify").stdout
    finally:
        mount.terminate()
