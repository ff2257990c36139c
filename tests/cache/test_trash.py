"""What comes back from home's trash enters the cache; the gateway says what the test has it say."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgpack
import pytest
import trio
import trio.testing

from afmfs.cache.fileset import Fileset
from afmfs.cache.home import trash
from afmfs.errors import AfmError, Refused
from afmfs.gateway.protocol import Message
from afmfs.model.entry import ROOT
from tests.harness.fake_gateway import FakeGateway, Office, open_office

BLOCK = 4096


@pytest.fixture
async def office() -> AsyncIterator[Office]:
    async with open_office() as office:
        yield office


def row(name: bytes, mode: int = stat.S_IFREG | 0o644, size: int = 3) -> list[Any]:
    """An object as home's listing, or a restore, tells of it."""
    return [name, mode, 0, 0, size, 1, 2, 3, 77, 1, 0, None, None]


def beside(name: bytes = b"f.restored-3", **more: Any) -> Message:
    told = {"number": 5, "path": b"f", "why": "changed", "restored": name, "parent": ROOT}
    return told | {"entry": row(name)} | more


async def say_restored(gateway: FakeGateway, count: int, *entries: Message) -> Message:
    """Answer the `count`-th restore request."""
    asked = await gateway.hear("restore", count)
    await gateway.say(
        type="restored", rid=asked["rid"], errno=0, entries=list(entries),
        next=entries[-1]["number"] if entries else None,
    )  # fmt: skip
    return asked


async def say_listed(gateway: FakeGateway, *rows: list[Any]) -> None:
    asked = await gateway.hear("list")
    fd = os.memfd_create("listed")
    os.write(fd, b"".join(map(msgpack.packb, rows)))
    await gateway.say(type="listed", rid=asked["rid"], errno=0, count=len(rows), fds=[fd])
    os.close(fd)


async def names(fileset: Fileset) -> list[bytes]:
    return [name for name, _, _ in await fileset.readdir(ROOT, 0, 100)]


async def test_step_after_step(office: Office, tmp_path: Path) -> None:
    async with office.fileset(tmp_path) as fileset:
        assert await names(fileset) == []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fileset.trash.restore, 3, "f")
            gateway = office.gateway
            asked = await say_restored(gateway, 1, beside())
            assert (asked["job"], asked["path"], asked["after"]) == (3, b"f", 0)
            asked = await say_restored(gateway, 2)
            assert asked["after"] == 5, "the first one is taken in"
        assert await names(fileset) == [b"f.restored-3"]
        (event,) = [e for e in fileset.events() if e["name"] == "afmTrashRestored"]
        assert event["restored"] == ["f.restored-3"]


async def test_a_name_comes_while_its_directory_is_being_read(
    office: Office, tmp_path: Path
) -> None:
    """The listing may be older than the name."""
    del office.answers["list"]
    async with office.fileset(tmp_path) as fileset:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fileset.lookup, ROOT, b".")
            gateway = office.gateway
            await gateway.hear("list")
            nursery.start_soon(fileset.trash.restore, 3, None)
            await say_restored(gateway, 1, beside())
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert len(gateway.all("restore")) == 1
            await say_listed(gateway, row(b"other"))
            await say_restored(gateway, 2)
        assert sorted(await names(fileset)) == [b"f.restored-3", b"other"]


async def test_where_the_cache_is_damaged_it_waits_and_the_rest_goes_on(
    office: Office, tmp_path: Path
) -> None:
    async with office.fileset(tmp_path) as fileset, trio.open_nursery() as nursery:
        assert await names(fileset) == []
        with fileset._store:
            fileset._namespace.enter(ROOT, b"f.restored-3", 4711)  # of an inode that is not there
        nursery.start_soon(fileset.trash.restore, 3, None)
        await say_restored(office.gateway, 1, beside())
        await trio.testing.wait_all_tasks_blocked()
        assert await names(fileset) == []
        nursery.cancel_scope.cancel()


async def test_a_directory_that_was_never_read_is_read_later(
    office: Office, tmp_path: Path
) -> None:
    del office.answers["list"]
    async with office.fileset(tmp_path) as fileset, trio.open_nursery() as nursery:
        nursery.start_soon(fileset.trash.restore, 3, None)
        await say_restored(office.gateway, 1, beside())
        await say_restored(office.gateway, 2)
        nursery.start_soon(fileset.lookup, ROOT, b"f.restored-3")
        await say_listed(office.gateway, row(b"f.restored-3"))


async def test_after_a_restart_of_either(office: Office, tmp_path: Path) -> None:
    """Nothing is taken in twice, and nothing is forgotten."""
    async with office.fileset(tmp_path) as fileset:
        assert await names(fileset) == []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fileset.trash.restore, 3, None)
            mode = stat.S_IFDIR | 0o755
            told = beside(b"d.restored-3", entry=row(b"d.restored-3", mode))
            await say_restored(office.gateway, 1, told)
            await office.gateway.hear("restore", 2)
            nursery.cancel_scope.cancel()
        office.gateway.kill()
        gateway = await office.another(1)
        assert (await gateway.hear("restore"))["after"] == 5
        with pytest.raises(Refused, match="under way"):
            await fileset.trash.restore(3, None)
    async with office.fileset(tmp_path) as fileset:
        gateway = office.gateway
        assert (await gateway.hear("restore"))["after"] == 0
        await say_restored(gateway, 1, told)
        await say_restored(gateway, 2)
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert await names(fileset) == [b"d.restored-3"]
        assert (await fileset.getattr(ROOT)).nlink == 3
        assert [e["name"] for e in fileset.events()].count("afmTrashRestored") == 1
    async with office.fileset(tmp_path):
        assert not office.gateway.all("restore")


async def test_what_is_cached_of_it_is_fetched_again(office: Office, tmp_path: Path) -> None:
    """Also what was on its way when the bytes came back."""
    del office.answers["list"]
    async with (
        office.fileset(tmp_path, "block_size=4096") as fileset,
        trio.open_nursery() as nursery,
    ):
        gateway = office.gateway
        found: list[bytes] = []

        async def read(offset: int) -> None:
            ino = (await fileset.lookup(ROOT, b"f")).ino
            found.append(bytes(await fileset.read(ino, offset, 4)))

        async def fetched(count: int, data: bytes) -> None:
            asked = await gateway.hear("fetch", count)
            fd = os.memfd_create("fetched")
            os.write(fd, data * (asked["end"] - asked["start"]))
            length = asked["end"] - asked["start"]
            await gateway.say(type="fetched", rid=asked["rid"], errno=0, length=length, fds=[fd])
            os.close(fd)
            await trio.testing.wait_all_tasks_blocked(0.05)

        nursery.start_soon(read, 0)
        await say_listed(gateway, row(b"f", size=4 * BLOCK))
        await fetched(1, b"\0")
        inode = await fileset.lookup(ROOT, b"f")
        await fileset.write(inode.ino, 0, b"ab")
        nursery.start_soon(read, 2 * BLOCK)
        await gateway.hear("fetch", 2)
        nursery.start_soon(fileset.trash.restore, 3, None)
        told = {"number": 5, "path": b"f", "why": "nulled", "ino": inode.ino}
        await say_restored(gateway, 1, told | {"ranges": [[2 * BLOCK, 4 * BLOCK]]})
        await fetched(2, b"\0")  # read before it was restored
        await fetched(3, b"x")
        assert found[1] == b"xxxx"
        await say_restored(gateway, 2, told | {"number": 6, "ranges": [[0, BLOCK]]})
        await say_restored(gateway, 3)
        nursery.start_soon(read, 0)
        await fetched(4, b"x")
        assert found[2] == b"abxx", "what is pending stays"


async def test_refusals(office: Office, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    office.answers["restore"] = lambda m: {
        "type": "restored", "rid": m["rid"], "errno": 0, "next": None, "entries": []
    }  # fmt: skip
    office.answers["empty"] = lambda m: {
        "type": "emptied", "rid": m["rid"], "errno": errno.EBUSY, "reason": "resync 3 is running",
        "count": 0, "bytes": 0,
    }  # fmt: skip
    async with office.fileset(tmp_path) as fileset:
        fileset.touch()
        with pytest.raises(AfmError, match="no 'nothing' of ID 3"):
            await fileset.execute("trash restore 3 nothing")
        with pytest.raises(AfmError, match="resync 3 is running") as caught:
            await fileset.execute("trash empty 3")
        assert caught.value.errno == errno.EBUSY
        office.answers["restore"] = lambda m: {
            "type": "restored", "rid": m["rid"], "errno": 0, "next": None if m["after"] else 5,
            "entries": [] if m["after"] else [
                {"number": 5, "path": b"f", "why": "nulled", "reason": "was changed"}
            ],
        }  # fmt: skip
        with pytest.raises(Refused, match="f: was changed"):
            await fileset.execute("trash restore 3")
        monkeypatch.setattr(trash, "WAIT_S", 0.0)
        del office.answers["restore"], office.answers["empty"]
        assert "goes on in the background" in await fileset.execute("trash restore 3")
        assert "goes on in the background" in await fileset.execute("trash empty --all")
        assert (await office.gateway.hear("restore", 4))["job"] == 3
