"""A gateway that is killed, loses home, or meets an error of one object, at any call: what is in
doubt is done again, rightly.

One series of changes is replayed to the end; then again and again with an interruption before or
after each call that changes home or the journal. Home must come out the same.
"""

from __future__ import annotations

import errno
import itertools
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from afmfs.gateway.gateway import _Engine
from afmfs.gateway.home.connection import Connection
from afmfs.gateway.home.home import Home
from afmfs.gateway.home.trouble import HomeAway
from afmfs.gateway.state.journal import Journal
from afmfs.model.entry import UNLINKED
from tests.gateway.fake_mount import FakeMount

VERBS = [
    (Home, name)
    for name in (
        "make_file", "make_dir", "symlink", "mknod", "link", "unlink", "rmdir", "rename",
        "rename_new", "exchange", "set_attributes", "set_attributes_at", "set_times",
        "set_times_at", "sync",
    )
] + [(Journal, name) for name in ("take_off", "land", "put")]  # fmt: skip


class Killed(BaseException):
    pass


class Interrupter:
    """Counts calls; at the chosen one it raises, before or after the call is made."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count, self.at, self.after, self.armed = 0, -1, False, False
        self.error: Callable[[], BaseException] = Killed
        self.gone = False  # home, till it is connected to again
        self.moves: list[int] = []  # the calls that were renames
        monkeypatch.setattr(Connection, "check", self._check(Connection.check))
        for owner, name in VERBS:
            monkeypatch.setattr(owner, name, self._wrapped(getattr(owner, name), owner))

    def _check(self, check: Callable[..., None]) -> Callable[..., None]:
        def checking(connection: Connection, home: Home) -> None:
            if self.gone:
                self.gone = False
                raise HomeAway("Disconnected", "home is gone")
            check(connection, home)

        return checking

    def bad(self) -> OSError:
        """One object."""
        return OSError(errno.EIO, "bad sector")

    def away(self) -> OSError:
        self.gone = True
        return OSError(errno.EIO, "home is gone")

    def _wrapped(self, call: Callable[..., Any], owner: type) -> Callable[..., Any]:
        def fail() -> BaseException:
            return self.error() if owner is Home else Killed()

        def wrapper(*args: Any, **kwargs: Any) -> Any:
            if not self.armed:
                return call(*args, **kwargs)
            self.count += 1
            hit = self.count == self.at
            if call.__name__.startswith("rename"):
                self.moves.append(self.count)
            if hit and not self.after:
                self.armed = False
                raise fail()
            result = call(*args, **kwargs)
            if hit:
                self.armed = False
                if isinstance(result, int) and owner is Home:
                    os.close(result)
                raise fail()
            return result

        return wrapper


def prepare(base: Path, **tunables: Any) -> FakeMount:
    """A home with some objects, and a cache that knows them."""
    home = base / "home"
    (home / "d").mkdir(parents=True)
    (home / "e").mkdir()
    (home / "gone").mkdir()
    for name in ("a", "b", "c", "over", "swap1", "swap2", "open", "d/x", "d/y", "many"):
        (home / name).write_bytes(b"old " + name.encode() * 500)
    os.link(home / "many", home / "many2")
    for n, name in enumerate(sorted(os.listdir(home))):
        os.utime(home / name, ns=(10**18, 10**18 + n * 10**9))
    mount = FakeMount(base / "cache", home, **tunables)
    for name in ("a", "b", "c", "over", "swap1", "swap2", "open"):
        mount.adopt(name.encode())
    many = mount.adopt(b"many")
    mount.add_name(1, b"many2", many)
    d = mount.adopt(b"d")
    for name in (b"x", b"y"):
        mount.adopt(name, d, "d")
    mount.adopt(b"e")
    mount.adopt(b"gone")
    return mount


def change(mount: FakeMount) -> None:
    """Every kind of change."""
    d, a, b = mount.look_up(1, b"d"), mount.look_up(1, b"a"), mount.look_up(1, b"b")
    new = mount.make(b"new", b"new file")
    mount.link(new, b"new too")
    mount.write(a, 4, b"NEW" * 1000)
    mount.truncate(b, 100)
    mount.truncate(b, 5000)
    mount.setattr(mount.look_up(1, b"c"), mode=stat.S_IFREG | 0o600)
    mount.make(b"c.tmp", b"saved by an editor")
    mount.rename(b"c.tmp", b"c")
    mount.rename(b"over", b"x", 1, d)
    mount.make(b"sym", mode=stat.S_IFLNK | 0o777, target=b"../nowhere")
    mount.make(b"fifo", mode=stat.S_IFIFO | 0o600)
    sub = mount.mkdir(b"sub", d)
    mount.make(b"deep", b"deep" * 3000, parent=sub)
    mount.rename(b"d", b"moved")
    mount.make(b"in moved", b"1", parent=d)
    mount.exchange(b"swap1", b"swap2")
    mount.write(mount.look_up(1, b"swap1"), 0, b"swapped")
    mount.exchange(b"moved", b"e")
    mount.remove(b"gone")
    mount.remove(b"many2")
    mount.remove(b"y", d)
    mount.make(b"y", b"another y", parent=d)
    mount.rename(b"open", b"2f", 1, UNLINKED)
    mount.make(b"open", b"replaced")
    mount.rename(b"new too", b"last")


def image(home: Path) -> dict[str, Any]:
    """All that there is at home, but for the marker's own."""
    found: dict[str, Any] = {}
    inodes: dict[int, str] = {}
    for above, directories, files in os.walk(home):
        directories.sort()
        for name in sorted(files + directories):
            path = os.path.join(above, name)
            short = os.path.relpath(path, home)
            if short == ".afm" or (short.startswith(".afm/") and "unlinked/" not in short):
                continue
            st = os.lstat(path)
            same = inodes.setdefault(st.st_ino, short)
            content: Any = None
            if stat.S_ISREG(st.st_mode):
                content = Path(path).read_bytes()
            elif stat.S_ISLNK(st.st_mode):
                content = os.readlink(path)
            found[short] = st.st_mode, st.st_mtime_ns, same, st.st_nlink, content
    return found


def leftovers(home: Path) -> list[str]:
    found = []
    for name in ("scratch", "exchange"):
        if (home / ".afm" / name).exists():
            found += os.listdir(home / ".afm" / name)
    return found


def run(mount: FakeMount, counter: Interrupter | None = None, steps: int = 200) -> None:
    """A gateway from its start until there is nothing left to do."""
    log: list[Any] = []

    def send(message: dict[str, Any], fds: Any = ()) -> None:
        log.append(message)
        if message["type"] == "point":
            engine.replay.point_done(message["rid"], True)
        assert message["type"] != "inconsistent", message

    hello = {
        "type": "hello", "identity": "i", "target": str(mount.home), "counter": 1, "first": True,
        "token": "t", "tokens": ["t"], "owner": {"host": "h"}, "cache": str(mount.cache),
        "tunables": mount.tunables, "block_size": 4096,
    }  # fmt: skip
    directory = mount.cache / "gateway" / "1"
    engine = _Engine(mount.cache, directory, Journal(directory), hello, send)
    engine.replay._wait = lambda seconds: None  # type: ignore[method-assign]
    engine.replay._changed.wait = lambda *_: True  # type: ignore[method-assign]
    try:
        for _ in range(steps):
            if not engine.contact.is_up:
                assert engine.contact._connect()
            if counter is not None:
                counter.armed = counter.at >= 0 and counter.count < counter.at
            try:
                engine.replay.step()
            except HomeAway:
                engine.replay._break_off()
            finally:
                if counter is not None:
                    counter.armed = False
            mount.gateway = None
            if engine.journal.requeued():
                engine.replay.resume()
            elif engine.replay.settled:
                return
        raise AssertionError(f"not settled after {steps} steps: {log[-5:]}")
    finally:
        engine.stop(1.0)


def check_wanted(wanted: dict[str, Any]) -> None:
    """What the changes come to, told in another way."""
    content = {name: found[4] for name, found in wanted.items() if found[4] is not None}
    assert content["new"] == b"new file" and wanted["last"][2] == "last"
    assert wanted["new"][2] == "last"
    assert content["a"][4:3004] == b"NEW" * 1000 and content["a"][:4] == b"old "
    assert content["b"] == (b"old " + b"b" * 500)[:100] + bytes(4900)
    assert content["c"] == b"saved by an editor"
    assert content["sym"] == "../nowhere"
    assert content["e/x"] == b"old " + b"over" * 500
    assert content["e/sub/deep"] == b"deep" * 3000
    assert content["e/in moved"] == b"1" and content["e/y"] == b"another y"
    assert content["swap1"] == b"swapped" + (b"old " + b"swap2" * 500)[7:]
    assert content["swap2"] == b"old " + b"swap1" * 500
    assert content[".afm/unlinked/2f"] == b"old " + b"open" * 500
    assert content["open"] == b"replaced"
    assert stat.S_ISDIR(wanted["moved"][0])
    for gone in ("gone", "over", "d", "many2", "c.tmp", "new too"):
        assert gone not in wanted


@pytest.mark.parametrize("properties", ["at once", "by steps"])
@pytest.mark.parametrize("home_sync", ["none", "file"])
def test_every_interruption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, properties: str, home_sync: str
) -> None:
    if properties == "by steps":
        monkeypatch.setattr("afmfs.gateway.home.probe._exchange", lambda home, place: False)
    elif home_sync == "file":
        pytest.skip("covered by the others")
    counter = Interrupter(monkeypatch)
    mount = prepare(tmp_path / "model", home_sync=home_sync)
    change(mount)
    counter.at = 10**9
    run(mount, counter)
    wanted, calls = image(mount.home), counter.count
    mount.close()
    assert calls > 60
    check_wanted(wanted)
    kinds: dict[str, Callable[[], BaseException]] = {
        "killed": Killed,
        "away": counter.away,
        "bad": counter.bad,
    }
    step = int(os.environ.get("AFMFS_EVERY", "24"))  # 1 tries every call, in some minutes
    some = range(1 + len(tmp_path.name) % step, calls + 1, step)
    tries = list(itertools.product(some, (False, True), kinds))
    tries += [(at, True, "away") for at in set(counter.moves) - set(some)]  # done, and not known
    for at, after, kind in tries:
        mount = prepare(tmp_path / f"{at}-{after}-{kind}", home_sync=home_sync)
        change(mount)
        counter.count, counter.at, counter.after, counter.error = 0, at, after, kinds[kind]
        try:
            run(mount, counter)
        except Killed:
            counter.at = -1
            run(mount, counter)
        counter.at = -1
        assert image(mount.home) == wanted, f"{kind} at call {at}, after: {after}"
        mount.close()
