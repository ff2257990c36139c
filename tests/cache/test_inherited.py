"""What a new object takes from its directory comes with it, or it does not come at all."""

from __future__ import annotations

import errno
import stat
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from afmfs.cache.store.inode import Inode
from afmfs.model import acl
from afmfs.model.entry import ROOT, Op
from tests.harness.engine import Engine, ThreadGateway

NOBODY = (1 << 32) - 1
NARROW = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", tag, allowed, who)
    for tag, allowed, who in [
        (1, 7, NOBODY), (2, 4, 1234), (4, 0, NOBODY), (16, 4, NOBODY), (32, 0, NOBODY),
    ]
)  # fmt: skip
"""u::rwx, u:1234:r, g::-, m::r, o::-"""


@pytest.fixture
def engine(home: Path, tmp_path: Path) -> Iterator[Engine]:
    one = Engine(home, tmp_path, "xattrs", "async_delay=1000", gateway=ThreadGateway)
    one.start()
    one.call(lambda: one.fileset.setxattr(ROOT, acl.DEFAULT, NARROW))
    yield one
    one.stop()


def make(engine: Engine) -> Inode:
    mode = stat.S_IFREG | 0o666
    return engine.call(lambda: engine.fileset.make(ROOT, b"new", mode=mode, uid=0, gid=0))


def refuse(engine: Engine, monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """The disk has no room for the list, so often."""
    store = engine.fileset._store
    append, left = store.append, [None] * times

    def full(op: Op, *rest: Any, **fields: Any) -> int:
        if op is Op.XATTR and left:
            left.pop()
            raise OSError(errno.ENOSPC, "no room")
        return append(op, *rest, **fields)

    monkeypatch.setattr(store, "append", full)


def test_made_once_there_is_room(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse(engine, monkeypatch, 1)
    inode = make(engine)
    assert engine.call(lambda: engine.fileset.getxattr(inode.ino, acl.ACCESS))
    assert stat.S_IMODE(inode.mode) == 0o640


def test_not_made_without_its_list(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse(engine, monkeypatch, 1000)
    with pytest.raises(OSError) as caught:
        make(engine)
    assert caught.value.errno == errno.ENOSPC
    with pytest.raises(FileNotFoundError):
        engine.call(lambda: engine.fileset.lookup(ROOT, b"new"))
