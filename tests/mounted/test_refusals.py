"""Mounts that would be unsafe are refused, with the reason and the way out; nothing is changed."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import MakeMount
from tests.harness.mounting import refusal, wait_until
from tests.mounted.test_cli import run

pytestmark = pytest.mark.mounted

Refused = Callable[..., str]


@pytest.fixture
def refused(tmp_path: Path) -> Refused:
    """refused(TARGET, cache, option, ...): what is said."""

    def mount(target: object, cache: Path, *options: str, point: Path | None = None) -> str:
        point = point or tmp_path / "point"
        point.mkdir(exist_ok=True)
        done = run(target, point, "-f", "-o", ",".join([f"cache={cache}", *options]))
        assert done.returncode == 32, done.stderr
        return done.stderr

    return mount


def test_a_cache_in_use(make_mount: MakeMount, home: Path, refused: Refused) -> None:
    mount = make_mount(home)
    assert mount.process is not None
    said = refused("none", mount.cache)
    assert str(mount.process.pid) in said
    (mount.point / "file").write_bytes(b"bytes")
    mount.flush()


def test_what_lies_in_each_other(home: Path, tmp_path: Path, refused: Refused) -> None:
    assert "is inside" in refused(home, home / "cache")
    assert "is inside" in refused(tmp_path / "point/below", tmp_path / "cache")
    assert "is inside" in refused(home, tmp_path / "cache", point=home / "point")
    assert list(home.iterdir()) == [home / "point"]


def test_anothers_home(make_mount: MakeMount, home: Path, tmp_path: Path, refused: Refused) -> None:
    mount = make_mount(home)
    said = refused(home, tmp_path / "other")
    assert "this home belongs to fileset mnt" in said
    assert "-o takeover" in said
    (mount.point / "file").write_bytes(b"bytes")
    mount.flush()


def test_an_old_copy_of_the_cache(make_mount: MakeMount, home: Path) -> None:
    """Whatever it has done since: home has heard of the other one last."""
    mount, old = make_mount(home), make_mount(home, start=False)
    mount.unmount()
    subprocess.run(["cp", "-a", mount.cache, old.cache], check=True)
    mount.mount("none")
    assert "old copy of the cache" in refusal(old)
    mount.unmount()
    assert "old copy of the cache" in refusal(old)  # it has counted further than the other
    mount.mount("none")


def test_an_old_copy_that_takes_over(make_mount: MakeMount, home: Path) -> None:
    """What came to home by the newer one is seen: it may hold the only trace of it."""
    mount, old = make_mount(home), make_mount(home, "takeover", start=False)
    (mount.point / "both").write_bytes(b"have this")
    mount.flush()
    mount.unmount()
    subprocess.run(["cp", "-a", mount.cache, old.cache], check=True)
    mount.mount("none")
    (mount.point / "newer").write_bytes(b"only one has")
    mount.flush()
    mount.unmount()
    old.mount()
    wait_until((old.point / "newer").exists, 20, "it is seen")
    assert (old.point / "newer").read_bytes() == b"only one has"
    assert {"both", "newer"} <= set(os.listdir(old.point))


def test_another_target_than_the_caches(
    make_mount: MakeMount, home: Path, tmp_path: Path, refused: Refused
) -> None:
    mount = make_mount(home)
    mount.unmount()
    (tmp_path / "elsewhere").mkdir()
    assert "failover --new-target" in refused(tmp_path / "elsewhere", mount.cache)
    assert "fixed when it was made" in refused("none", mount.cache, "block_size=64K")


def test_a_new_cache_needs_its_home(tmp_path: Path, refused: Refused) -> None:
    assert "the first mount of a cache needs its home" in refused(tmp_path / "no", tmp_path / "c")
    assert "name the TARGET" in refused("none", tmp_path / "d")
