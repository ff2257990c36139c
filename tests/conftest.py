"""Fixtures of every test: real mounts that always go away again."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import psutil
import pytest

from tests.harness.mounting import Mount, fuse_missing, is_alive, mounts_below

hypothesis.settings.register_profile("shared", deadline=None)  # with whatever else runs beside
hypothesis.settings.load_profile("shared")

MakeMount = Callable[..., Mount]

_FAILED = pytest.StashKey[bool]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--surface",
        choices=["mount", "plain"],
        default="mount",
        help="where mounted tests work; `plain`, a local directory, tests the tests",
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Iterator[None]:  # tells fixtures at teardown whether their test failed
    report = yield
    item.stash[_FAILED] = item.stash.get(_FAILED, False) or report.failed
    return report


def has_failed(item: pytest.Item) -> bool:
    """For fixtures that show more, or throw away what they share, where their test failed."""
    return item.stash.get(_FAILED, False)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Without FUSE the tests that mount are skipped, and say why."""
    missing = fuse_missing()
    for item in items:
        if missing and item.get_closest_marker("mounted"):
            item.add_marker(pytest.mark.skip(reason=f"cannot mount here: {missing}"))


@pytest.fixture(scope="session", autouse=True)
def nothing_left_behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No mount, no process and no descriptor outlives the tests."""
    base = tmp_path_factory.getbasetemp()
    ours = psutil.Process()
    descriptors = ours.num_fds()
    yield
    assert not mounts_below(base)
    left = [p for p in psutil.process_iter(["cmdline"]) if _speaks_of(p, str(base))]
    assert not left, f"still running: {[p.info for p in left]}"
    assert not [child for child in ours.children(recursive=True) if is_alive(child)]
    assert ours.num_fds() <= descriptors + 3  # pytest's own captures come and go


def _speaks_of(process: psutil.Process, base: str) -> bool:
    words = process.info["cmdline"] or []
    return process.pid != os.getpid() and any(word.startswith(f"{base}/") for word in words)


@pytest.fixture
def make_mount(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[MakeMount]:
    """Build `Mount` objects: make_mount(home, "option", ...), mounted unless start=False."""
    made: list[Mount] = []

    def make(home: Path, *options: str, start: bool = True, watch: float = 180.0) -> Mount:
        mount = Mount(home, tmp_path / f"fs{len(made)}", *options, watch=watch)
        made.append(mount)
        if start:
            mount.mount()
        return mount

    yield make
    end_mounts(made, failed=has_failed(request.node))


def end_mounts(mounts: list[Mount], *, failed: bool) -> None:
    """End them all, show their logs if the test failed, and fail if one had to be aborted."""
    for mount in mounts:
        mount.terminate()
        if failed:
            print(mount.log_tail(200))
    fired = [mount.base.name for mount in mounts if mount.watchdog_fired]
    assert not fired, f"stopped answering and had to be aborted: {fired}"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """An empty home."""
    path = tmp_path / "home"
    path.mkdir()
    return path
