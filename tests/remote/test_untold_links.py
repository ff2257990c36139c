"""sshfs tells of no symbolic link that is absolute or leads upwards (contain_symlinks)."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.conftest import MakeMount
from tests.harness.sshd import Sshd, available
from tests.remote.conftest import Remote

pytestmark = [pytest.mark.mounted, pytest.mark.remote]


@pytest.fixture
def untold(make_mount: MakeMount, tmp_path: Path) -> Iterator[Remote]:
    """A virtual environment has such links."""
    if missing := available():
        pytest.skip(missing)
    served = tmp_path / "served"
    (served / "venv").mkdir(parents=True)
    (served / "venv" / "file").write_bytes(b"beside it")
    os.symlink("/usr/bin/python3", served / "venv" / "python3")
    with Sshd(tmp_path / "sshd") as sshd:
        sshfs = sshd.mount(served, tmp_path / "remote", "reconnect", "dir_cache=no")
        with suppress(PermissionError):
            os.readlink(sshfs.mountpoint / "venv" / "python3")
            pytest.skip("this sshfs tells of all links")
        mount = make_mount(sshfs.mountpoint, "async_delay=1")
        yield Remote(served, sshd, sshfs, mount)
        mount.terminate()


def refusal(link: os.PathLike[str]) -> int | None:
    with pytest.raises(OSError) as caught:
        os.readlink(link)
    return caught.value.errno


def test_its_directory_can_be_read_and_it_stays_what_it_is(untold: Remote) -> None:
    mount, at_home = untold.mount, untold.served / "venv"
    link = mount.point / "venv" / "python3"
    assert sorted(os.listdir(link.parent)) == ["file", "python3"]
    assert link.is_symlink()
    assert refusal(link) == errno.EPERM
    os.rename(link, link.with_name("python"))
    os.utime(link.with_name("python"), (2, 2), follow_symlinks=False)
    mount.flush()
    assert os.readlink(at_home / "python") == "/usr/bin/python3"
    verified = mount.afmctl("verify", "--data", "--json")
    assert verified.returncode == 0, verified.stdout
    assert mount.afmctl("resync", "--yes", "--wait").returncode == 0
    assert os.readlink(at_home / "python") == "/usr/bin/python3"
    assert refusal(link.with_name("python")) == errno.EPERM


def test_it_is_lost_where_home_has_lost_it(untold: Remote) -> None:
    """No link to somewhere else is made in its place."""
    mount, at_home = untold.mount, untold.served / "venv"
    assert len(os.listdir(mount.point / "venv")) == 2
    (mount.point / "venv" / "file").read_bytes()
    shutil.rmtree(at_home)
    assert mount.afmctl("resync", "--yes", "--wait").returncode == 0
    assert os.listdir(at_home) == ["file"]
    verified = mount.afmctl("verify", "--json")
    found = [json.loads(line) for line in verified.stdout.splitlines()][:-1]
    assert [(one["difference"], one["path"]) for one in found] == [("lost", "venv/python3")]


def test_one_that_is_made_here_goes_home(untold: Remote) -> None:
    mount = untold.mount
    os.symlink("/etc/hostname", mount.point / "venv" / "made")
    mount.flush()
    assert os.readlink(untold.served / "venv" / "made") == "/etc/hostname"
    assert mount.afmctl("verify", "--json").returncode == 0
    assert os.readlink(mount.point / "venv" / "made") == "/etc/hostname"
