"""One home of more than 10,000 real files, mounted once for all programs."""

from __future__ import annotations

import random
import shutil
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import end_mounts
from tests.harness.mounting import Mount
from tests.harness.surfaces import MountSurface, PlainSurface, Surface
from tests.harness.trees import assert_same

FILES = 10_000
"""At least so many files are at home."""


def build_home(path: Path) -> None:
    """A copy of the running Python's library, filled up to FILES."""
    library = Path(sysconfig.get_path("stdlib"))
    ignored = shutil.ignore_patterns("site-packages")
    shutil.copytree(library, path, symlinks=True, ignore=ignored)
    missing = FILES + 100 - sum(1 for entry in path.rglob("*") if entry.is_file())
    dice = random.Random(1)
    for number in range(max(missing, 0)):
        directory = path / f"more/{number // 200:03}"
        directory.mkdir(parents=True, exist_ok=True)
        (directory / f"file {number}").write_bytes(dice.randbytes(dice.randrange(5000)))


@pytest.fixture(scope="package")
def real_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    base = tmp_path_factory.mktemp("programs")
    home = base / "home"
    build_home(home)
    yield home
    shutil.rmtree(base)


@pytest.fixture(scope="package")
def surface(real_home: Path, request: pytest.FixtureRequest) -> Iterator[Surface]:
    base = real_home.parent / "surface"
    if request.config.getoption("--surface") == "plain":
        yield PlainSurface(real_home, base)
        return
    mount = Mount(real_home, base, watch=900)
    try:
        mount.mount()
        yield MountSurface(mount)
    finally:
        end_mounts([mount], failed=request.session.testsfailed > 0)


@pytest.fixture
def work(surface: Surface, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A fresh directory in the mount, which home must hold exactly after the test."""
    name = request.node.name.replace("/", "_")
    directory = surface.path / name
    directory.mkdir()
    yield directory
    surface.flush()
    assert_same(directory, surface.home / name)
