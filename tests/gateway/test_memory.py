"""A home behind sshfs, which remembers by the name what is not so any more."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from afmfs.gateway.home.connection import Era, PutBack, connect
from afmfs.gateway.home.home import Home
from afmfs.gateway.home.marker import Claim, Marker
from tests.gateway.fake_mount import FakeMount
from tests.gateway.test_doubt import run
from tests.gateway.test_job import resync, start

if TYPE_CHECKING:
    from tests.harness.sshd import Sshd

LATER_NS = 60 * 10**9

pytestmark = pytest.mark.remote

OPTIONS = ("dcache_timeout=3600", "entry_timeout=0", "attr_timeout=3600")
"""What sshfs remembers outlives the test; of names the kernel remembers nothing by itself."""


@pytest.fixture
def mount(sshd: Sshd, tmp_path: Path) -> Iterator[FakeMount]:
    """A few objects at home, and a cache that knows them."""
    served, home = tmp_path / "served", tmp_path / "remote"
    (served / "d").mkdir(parents=True)
    (served / "e").mkdir()
    for name in ("a", "b", "c", "d/x"):
        (served / name).write_bytes(old(name))
        os.utime(served / name, (10**9, 10**9))
    remote = sshd.mount(served, home, "reconnect", *OPTIONS)
    mount = FakeMount(tmp_path / "cache", home)
    for known in (b"a", b"b", b"c", b"e"):
        mount.adopt(known)
    mount.adopt(b"x", mount.adopt(b"d"), "d")
    yield mount
    mount.close()
    remote.clear()


class Lost:
    """One call to home is executed on the server, and nobody hears of it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, mount: FakeMount) -> None:
        self.home, self.served = mount.home, mount.home.parent / "served"
        self.verb, self.at, self.count = "", 0, 0
        for verb in ("rename", "rename_new", "unlink", "rmdir", "make_dir", "symlink", "link"):
            monkeypatch.setattr(Home, verb, self._wrapped(verb, getattr(Home, verb)))

    def _wrapped(self, verb: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(home: Home, *args: Any) -> Any:
            if verb != self.verb or not home.properties.is_fuse or self._is_odd(args):
                return call(home, *args)
            self.count += 1
            if self.count != self.at + 1:
                return call(home, *args)
            behind = [self._behind(a) if isinstance(a, int) else a for a in args]
            call(home, *behind)
            for fd in behind:
                if isinstance(fd, int):
                    os.close(fd)
            raise OSError(errno.EIO, "nobody answers")

        return wrapper

    def _is_odd(self, args: tuple[Any, ...]) -> bool:
        """Of a look at home, or a trial."""
        return any(isinstance(a, int) and "/.afm/scratch" in _path(a) for a in args)

    def _behind(self, fd: int) -> int:
        below = os.path.relpath(_path(fd), self.home)
        return os.open(self.served / below, os.O_PATH | os.O_DIRECTORY)


def _path(fd: int) -> str:
    return os.readlink(f"/proc/self/fd/{fd}")


def old(name: str) -> bytes:
    return b"old " + name.encode() * 500


BEFORE = {name: old(name) for name in ("a", "b", "c", "d/x")} | {"d": None, "e": None}


def rename_a_file(mount: FakeMount) -> dict[str, bytes | None]:
    mount.rename(b"a", b"new")
    mount.setattr(mount.look_up(1, b"new"), mode=stat.S_IFREG | 0o640)
    return {"new": BEFORE["a"]} | {n: data for n, data in BEFORE.items() if n != "a"}


def rename_a_directory(mount: FakeMount) -> dict[str, bytes | None]:
    mount.rename(b"d", b"moved")
    moved = mount.look_up(1, b"moved")
    mount.rename(b"x", b"y", moved)
    kept = {n: data for n, data in BEFORE.items() if n[0] != "d"}
    return {"moved": None, "moved/y": BEFORE["d/x"]} | kept


def exchange(mount: FakeMount) -> dict[str, bytes | None]:
    mount.exchange(b"a", b"b")
    mount.exchange(b"d", b"e")
    other = {"a": BEFORE["b"], "b": BEFORE["a"], "e/x": BEFORE["d/x"]}
    return other | {n: BEFORE[n] for n in ("c", "d", "e")}


def link_and_remove(mount: FakeMount) -> dict[str, bytes | None]:
    mount.link(mount.look_up(1, b"a"), b"too")
    mount.remove(b"b")
    mount.remove(b"x", mount.look_up(1, b"d"))
    mount.remove(b"d")
    return {"too": BEFORE["a"]} | {n: BEFORE[n] for n in ("a", "c", "e")}


LOST_CALLS = [
    (rename_a_file, "rename_new", 0),
    (rename_a_directory, "rename_new", 0),
    (exchange, "rename_new", 2),
    *(
        pytest.param(*call, marks=pytest.mark.long)
        for call in (
            (exchange, "rename", 0),
            (exchange, "rename_new", 0),
            (exchange, "rename_new", 1),
            (exchange, "rename", 1),
            (link_and_remove, "link", 0),
            (link_and_remove, "unlink", 0),
            (link_and_remove, "rmdir", 0),
        )
    ),
]


@pytest.mark.parametrize(("change", "verb", "at"), LOST_CALLS)
def test_a_call_whose_answer_is_lost(
    mount: FakeMount,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[FakeMount], dict[str, bytes | None]],
    verb: str,
    at: int,
) -> None:
    """It was done, and sshfs does not know: no inconsistency, and nothing is done twice."""
    lost = Lost(monkeypatch, mount)
    for path in mount.home.rglob("*"):
        path.lstat()  # so that sshfs remembers it
    wanted = change(mount)
    lost.verb, lost.at = verb, at
    run(mount)
    assert lost.count > at
    assert contents(lost.served) == wanted


def test_a_name_that_is_free_again(mount: FakeMount, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is made under a name whose removal nobody heard of waits until that is forgotten."""
    monkeypatch.setattr("afmfs.gateway.replay.landing.pause_ns", lambda tries: 0)
    lost = Lost(monkeypatch, mount)
    (mount.home / "b").lstat()
    mount.remove(b"b")
    lost.verb = "unlink"
    run(mount)
    assert lost.count
    mount.make(b"b", b"another")
    run(mount)
    assert contents(lost.served) == BEFORE | {"b": b"another"}


def test_a_file_that_is_pushed_under_another_name(
    mount: FakeMount, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is remembered of one of its names is not what was pushed under the other."""
    served = mount.home.parent / "served"
    a = mount.look_up(1, b"a")
    mount.link(a, b"too")
    run(mount)
    (mount.home / "too").lstat()
    mount.write(a, 0, b"longer" * 1000)
    run(mount)
    assert (mount.home / "too").lstat().st_size == len(old("a"))
    mount.remove(b"a")
    mount.truncate(a, len(old("a")))
    run(mount)
    wanted = {name: data for name, data in BEFORE.items() if name != "a"}
    assert contents(served) == wanted | {"too": (b"longer" * 1000)[: len(old("a"))]}


def test_a_resync_moves_to_a_name_that_is_only_remembered(mount: FakeMount) -> None:
    """Not moved, what only home has of the file would be lost here."""
    served = mount.home.parent / "served"
    (mount.home / "b").lstat()
    (served / "b").unlink()  # by a call of ours that nobody heard of
    mount.remove(b"b")
    mount.rename(b"a", b"b")
    start(mount)
    assert "lost" not in resync(mount).values()
    wanted = {name: data for name, data in BEFORE.items() if name != "a"}
    assert contents(served) == wanted | {"b": BEFORE["a"]}


def test_a_resync_below_directories_that_are_only_remembered(mount: FakeMount) -> None:
    """Looked for where it is remembered, what only home has of a file would be lost here."""
    served = mount.home.parent / "served"
    for path in mount.home.rglob("*"):
        path.lstat()
    (served / "d/x").rename(served / "d/y")  # by calls of ours that nobody heard of
    (served / "d").rename(served / "e/d")
    (served / "e").rename(served / "moved")
    d, e = mount.look_up(1, b"d"), mount.look_up(1, b"e")
    mount.rename(b"x", b"y", d)
    mount.rename(b"d", b"d", 1, e)
    mount.rename(b"e", b"moved")
    start(mount)
    assert "lost" not in resync(mount).values()
    wanted = {name: BEFORE[name] for name in ("a", "b", "c")}
    assert contents(served) == wanted | {"moved": None, "moved/d": None, "moved/d/y": old("d/x")}


def test_a_marker_that_is_remembered_is_no_older_home(mount: FakeMount) -> None:
    """A look at it overtook the call that moved its time on, and sshfs has kept what it saw."""
    path, era, claim = os.fsencode(mount.home), Era(), Claim(Marker("i", "f", 1, "t"), first=True)
    connection = connect(path, claim, era=era)
    marker = Path(".afm/home.json")
    era.reached = (mount.home / marker).stat().st_mtime_ns + LATER_NS
    os.utime(mount.home.parent / "served" / marker, ns=(era.reached, era.reached))
    with connection.opened() as home:
        connection.check(home)
    (mount.home / marker).chmod(0o600)  # it is forgotten, and looked at
    era.reached += LATER_NS
    os.utime(mount.home.parent / "served" / marker, ns=(era.reached, era.reached))
    assert not connect(path, replace(claim, first=False), era=era).older
    era.reached += LATER_NS
    with pytest.raises(PutBack), connection.opened():
        pass


def contents(served: Path) -> dict[str, bytes | None]:
    found = {str(p.relative_to(served)): p for p in served.rglob("*") if ".afm" not in p.parts}
    return {name: p.read_bytes() if p.is_file() else None for name, p in found.items()}
