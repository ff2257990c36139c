"""Home was changed behind our back: noticed before anything of it is lost, and nothing replayed."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from afmfs.gateway.state.journal import Journal
from tests.gateway.fake_mount import FakeMount


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[FakeMount]:
    home = tmp_path / "home"
    (home / "d").mkdir(parents=True)
    for name in ("f", "g", "d/x"):
        (home / name).write_bytes(b"0123456789")
    mount = FakeMount(tmp_path / "cache", home)
    mount.adopt(b"f", cached=True)
    mount.adopt(b"g")
    mount.adopt(b"d")
    yield mount
    mount.close()


def rewrite(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    os.utime(path, ns=(10**18, 10**18))


def contents(home: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(home)): path.read_bytes() if path.is_file() else None
        for path in sorted(home.rglob("*"))
        if ".afm" not in path.parts
    }


Meddle = Callable[[FakeMount], object]


def push(mount: FakeMount) -> None:
    mount.write(mount.look_up(1, b"f"), 2, b"xx")


def attr(mount: FakeMount) -> None:
    mount.setattr(mount.look_up(1, b"f"), mode=stat.S_IFREG | 0o600)


def save_over(mount: FakeMount) -> None:
    mount.make(b"tmp", b"new")
    mount.rename(b"tmp", b"g")


CASES: dict[str, tuple[Meddle, Meddle]] = {
    "file changed": (lambda m: rewrite(m.home / "f", b"longer than before"), push),
    "file changed, same size": (lambda m: rewrite(m.home / "f", b"9876543210"), push),
    "file changed before its mode": (lambda m: rewrite(m.home / "f", b"9876543210"), attr),
    "file removed before its push": (lambda m: (m.home / "f").unlink(), push),
    "file removed before its removal": (
        lambda m: (m.home / "g").unlink(),
        lambda m: m.remove(b"g"),
    ),
    "file became a directory": (
        lambda m: [(m.home / "f").unlink(), (m.home / "f").mkdir()],
        lambda m: m.remove(b"f"),
    ),
    "file became a symlink before its removal": (
        lambda m: [(m.home / "g").unlink(), (m.home / "g").symlink_to("f")],
        lambda m: m.remove(b"g"),
    ),
    "file became a symlink": (
        lambda m: [(m.home / "f").unlink(), (m.home / "f").symlink_to("g")],
        push,
    ),
    "new name in the way": (
        lambda m: rewrite(m.home / "new", b"theirs"),
        lambda m: m.make(b"new", b"ours"),
    ),
    "directory in the way": (
        lambda m: (m.home / "new").mkdir(),
        lambda m: m.mkdir(b"new"),
    ),
    "rename's target in the way": (
        lambda m: rewrite(m.home / "new", b"theirs"),
        lambda m: m.rename(b"f", b"new"),
    ),
    "rename's source is gone": (
        lambda m: (m.home / "f").unlink(),
        lambda m: m.rename(b"f", b"new"),
    ),
    "what a rename replaces is gone": (
        lambda m: (m.home / "g").unlink(),
        lambda m: m.rename(b"f", b"g"),
    ),
    "directory not empty": (lambda m: None, lambda m: m.remove(b"d") and None),
    "directory is gone": (
        lambda m: shutil.rmtree(m.home / "d"),
        lambda m: m.make(b"new", b"", parent=m.look_up(1, b"d")),
    ),
    "directory became a symlink": (
        lambda m: [shutil.rmtree(m.home / "d"), (m.home / "d").symlink_to("/")],
        lambda m: m.make(b"new", b"", parent=m.look_up(1, b"d")),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_noticed_and_nothing_more_executed(mount: FakeMount, case: str) -> None:
    meddle, change = CASES[case]
    meddle(mount)
    before = contents(mount.home)
    change(mount)
    mount.start()
    found = mount.await_message("inconsistent")
    assert found["reason"]
    mount.make(b"later", b"must wait")
    mount.gateway.receive({"type": "flush", "through": mount.next_id})  # type: ignore[union-attr]
    for rid in (1, 2):  # the replay answers between its steps: one whole step lies between two
        mount.gateway.receive({"type": "drop", "rid": rid, "id": 999})  # type: ignore[union-attr]
        mount.await_message("dropped", rid=rid)
    assert contents(mount.home) == before
    assert [message["type"] for message in mount.log].count("inconsistent") == 1
    mount.retire()
    assert mount.pending()


def test_others_of_the_batch_are_certain(mount: FakeMount) -> None:
    """What was executed before the inconsistency is done, what comes after is not in doubt."""
    mount.tunables["flush_threads"] = 1  # else a slow home has them done side by side
    mount.make(b"first", b"1")
    mount.make(b"new", b"ours")
    mount.make(b"last", b"3")
    rewrite(mount.home / "new", b"theirs")
    mount.start()
    mount.await_message("inconsistent", path="new")
    mount.await_message("outcomes")
    mount.retire()
    assert (mount.home / "first").read_bytes() == b"1"
    assert not (mount.home / "last").exists()
    assert len(mount.pending()) == 4
    os.unlink(mount.home / "new")  # somebody has seen to it
    mount.gateway.receive(  # type: ignore[union-attr]
        {"type": "run", "stopped": False, "needs_resync": False}
    )
    mount.settle()
    assert (mount.home / "new").read_bytes() == b"ours"
    assert (mount.home / "last").read_bytes() == b"3"
    assert mount.pending() == []


def test_a_file_that_was_replaced_while_its_push_was_in_doubt(mount: FakeMount) -> None:
    """Half of the push may be in the file that it went to, but in no other."""
    push(mount)
    journal = Journal(mount.cache / "gateway/1")
    journal.take_off(mount.pending())
    journal.close()
    (mount.home / "theirs").write_bytes(b"theirs")
    (mount.home / "theirs").rename(mount.home / "f")
    mount.start()
    mount.await_message("inconsistent", path="f")
    assert (mount.home / "f").read_bytes() == b"theirs"


def test_a_touch_is_adopted(mount: FakeMount) -> None:
    """Equal size, and what is cached of it agrees: that is the known version."""
    os.utime(mount.home / "f", ns=(10**18, 10**18))
    os.utime(mount.home / "g", ns=(10**18, 10**18))
    push(mount)
    mount.setattr(mount.look_up(1, b"g"), mode=stat.S_IFREG | 0o600)
    mount.start()
    mount.settle()
    assert (mount.home / "f").read_bytes() == b"01xx456789"
    assert mount.pending() == []


def test_a_symlink_at_home_leads_nowhere(mount: FakeMount, tmp_path: Path) -> None:
    """A directory is swapped for a symlink: nothing is made, removed or read behind it."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "x").write_bytes(b"0123456789")
    d = mount.look_up(1, b"d")
    x = mount.adopt(b"x", d, "d")
    shutil.rmtree(mount.home / "d")
    (mount.home / "d").symlink_to(outside)
    mount.remove(b"x", d)
    mount.start()
    mount.await_message("inconsistent")
    assert (outside / "x").exists()
    reply, data = mount.request("fetch", ino=x, start=0, end=10)
    assert reply["errno"] and not data
