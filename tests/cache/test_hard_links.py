"""link(2) at homes that have hard links, and at those that are known to have none."""

from __future__ import annotations

import errno
import stat
from pathlib import Path
from typing import Any

import pytest
import trio

from afmfs.cache.fileset import Fileset
from afmfs.gateway.protocol import Message
from afmfs.model.entry import ROOT
from tests.harness.fake_gateway import CONNECTED, HEAR_SECONDS, open_office


def connected(**properties: Any) -> Message:
    return CONNECTED | {"properties": {"name_max": 255, **properties}}


async def link(fileset: Fileset, name: bytes) -> int:
    """What a link of a new file fails with; 0 where it does not."""
    mode = stat.S_IFREG | 0o644
    inode = await fileset.make(ROOT, name, mode=mode, uid=0, gid=0)
    try:
        await fileset.link(inode.ino, ROOT, name + b" again")
    except OSError as exc:
        return exc.errno or 0
    return 0


@pytest.mark.parametrize(("properties", "code"), [({}, 0), ({"hard_links": False}, errno.EPERM)])
async def test_as_home_has_them(tmp_path: Path, properties: dict[str, bool], code: int) -> None:
    """Also at a mount that has not reached home yet."""
    async with open_office() as office:
        office.answers["hello"] = lambda message: connected(**properties)
        async with office.fileset(tmp_path) as fileset:
            assert await link(fileset, b"f") == code
        del office.answers["hello"]
        async with office.fileset(tmp_path) as fileset:
            assert await link(fileset, b"g") == code


async def test_another_home(tmp_path: Path) -> None:
    """What the last home could, or could not, says nothing of the one that is there now."""
    async with open_office() as office, office.fileset(tmp_path) as fileset:
        assert await link(fileset, b"f") == 0
        await office.gateway.say(**connected(hard_links=False))
        await office.gateway.say(type="outcomes", seq=0, num_exec=7)
        with trio.fail_after(HEAR_SECONDS):
            while fileset.status().num_exec != 7:  # noqa: ASYNC110  # said next
                await trio.sleep(0.001)
        assert await link(fileset, b"g") == errno.EPERM
