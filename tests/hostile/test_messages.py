"""Messages that no program of ours sends: they end neither process, and change nothing."""

from __future__ import annotations

import array
import errno
import os
import random
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgpack
import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from afmfs.cache.fileset import Fileset
from afmfs.gateway import protocol
from afmfs.gateway.protocol import ProtocolError
from afmfs.model.entry import ROOT
from tests.gateway.fake_mount import FakeMount
from tests.harness.checking import assert_sound
from tests.harness.fake_gateway import CONNECTED, FakeGateway, Office, open_office

EXAMPLES = int(os.environ.get("AFMFS_FUZZ_EXAMPLES", "60"))

numbers = st.one_of(
    st.integers(-3, 20), st.sampled_from([2**31, 2**63 - 1, 2**63, 2**64 - 1, -(2**63)])
)
texts = st.one_of(
    st.text(max_size=8), st.sampled_from(["Disconnected", "RESYNC", "resync", "\udcff", "..", "/"])
)
scalars = st.one_of(st.none(), st.booleans(), numbers, st.floats(), texts, st.binary(max_size=9))
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)

TO_GATEWAY = ("fetch", "list", "flush", "resume", "run", "point_done", "forget", "drop", "wake",
              "job", "job_taken", "journal_known", "report", "cancel_report", "restore", "empty",
              "hello")  # fmt: skip
FROM_GATEWAY = sorted(protocol.SHAPES - {*TO_GATEWAY, "bye", "harm"})  # harm is for good


@st.composite
def messages(draw: st.DrawFn, kinds: tuple[str, ...] | list[str]) -> dict[str, Any]:
    """Of the right fields and types, mostly, and whatever is optional."""
    kind = draw(st.sampled_from(kinds))
    message: dict[str, Any] = {"type": kind}
    for name, types in protocol._REQUIRED[kind].items():
        fitting = {int: st.integers(0, 30), str: texts, bool: st.booleans()}
        fitting |= {dict: st.dictionaries(texts, values, max_size=4), bytes: st.binary(max_size=9)}
        usual = [fitting[one] for one in types if one in fitting]
        message[name] = draw(st.one_of(*usual * 8, values))
    for name in draw(st.lists(st.sampled_from(sorted(protocol._OPTIONAL)), max_size=3)):
        message[name] = draw(values)
    return message


def is_valid(message: object) -> bool:
    try:
        protocol.check(message)
    except ProtocolError:
        return False
    return True


# -- the bytes themselves --------------------------------------------------------------------------


@given(st.binary(max_size=300), st.integers(0, 2**32))
def test_bytes_that_are_almost_a_message(noise: bytes, seed: int) -> None:
    said = {"type": "fetch", "rid": 1, "ino": 5, "start": 0, "end": 4096}
    data, chance = bytearray(protocol.encode(said)), random.Random(seed)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(data) + 1)
        data[at : at + chance.randint(0, 3)] = noise[: chance.randint(0, 9)]
    try:
        found = protocol.decode(bytes(data))
    except ProtocolError:
        return
    assert found["type"] in protocol.SHAPES


@given(values)
def test_any_value(value: object) -> None:
    try:
        data = msgpack.packb(value, use_bin_type=True, unicode_errors="surrogateescape")
    except (OverflowError, ValueError):
        return
    with pytest.raises(ProtocolError):
        protocol.decode(data)  # the strategy knows no types of messages


def test_a_deep_one() -> None:
    with pytest.raises(ProtocolError):
        protocol.decode(b"\x81\xa4type" + b"\x91" * 100_000 + b"\xc0")


# -- what the gateway hears ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mount() -> Iterator[FakeMount]:
    base = Path(tempfile.mkdtemp())
    (base / "home").mkdir()
    (base / "home/f").write_bytes(b"at home")
    fake = FakeMount(base / "cache", base / "home", async_delay_s=1e6)
    fake.adopt(b"f")
    fake.start(stopped=True)
    fake.await_message("connected")
    fake.rids = 1000  # no number of a message that is made up
    yield fake
    fake.close()
    shutil.rmtree(base)


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(said=messages(TO_GATEWAY))
def test_the_gateway_goes_on_whatever_it_hears(mount: FakeMount, said: dict[str, Any]) -> None:
    assert mount.gateway is not None
    try:
        mount.gateway.receive(said)
    except ProtocolError:
        pass
    assert not [m for m in mount.log if m["type"] == "crashed"]
    ino = mount.next_ino - 1
    reply, data = mount.request("fetch", ino=ino, start=0, end=7)
    assert (reply["errno"], data) == (0, b"at home")
    assert (mount.home / "f").read_bytes() == b"at home"


# -- what the mount process hears ------------------------------------------------------------------


ROW = [b"f", 0o100644, 0, 0, 7, 1, 1, 1, 5, 1, 0, None, None]


def listing(*rows: object) -> bytes:
    return b"".join(msgpack.packb(row, use_bin_type=True) for row in rows)


async def say_raw(gateway: FakeGateway, message: dict[str, Any], *files: bytes) -> None:
    """Whatever it is, with memory files beside it."""
    memories = [os.memfd_create("said", os.MFD_CLOEXEC) for _ in files]
    try:
        for memory, data in zip(memories, files, strict=True):
            os.write(memory, data)
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", memories))]
        packed = msgpack.packb(message, use_bin_type=True, unicode_errors="surrogateescape")
        await gateway._sock.sendmsg([packed], rights if files else [])
    finally:
        protocol.close_all(memories)


@dataclass
class Home:
    """What its gateways say when they are asked; the first answer is used once."""

    office: Office
    lists: list[tuple[dict[str, Any], tuple[bytes, ...]]] = field(default_factory=list)
    fetches: list[tuple[dict[str, Any], tuple[bytes, ...]]] = field(default_factory=list)

    def start(self, cache: Path, number: int, sock: socket.socket) -> FakeGateway:
        gateway = Office.start(self.office, cache, number, sock)
        usual = gateway._take
        listed = {"type": "listed", "errno": 0, "count": 1}, (listing(ROW),)
        fetched = {"type": "fetched", "errno": 0, "length": 7}, (b"at home",)

        async def take(message: dict[str, Any]) -> None:
            answers = {"list": (self.lists, listed), "fetch": (self.fetches, fetched)}
            if message["type"] not in answers:
                return await usual(message)
            lies, truth = answers[message["type"]]
            said, files = lies.pop(0) if lies else truth
            return await say_raw(gateway, {"rid": message["rid"]} | said, *files)

        gateway._take = take  # type: ignore[method-assign]
        return gateway


@asynccontextmanager
async def served(base: Path) -> AsyncIterator[tuple[Home, Fileset]]:
    async with open_office() as office:
        home = Home(office)
        office.start = home.start  # type: ignore[method-assign]
        async with office.fileset(base) as fileset:
            yield home, fileset


async def is_well(fileset: Fileset) -> None:
    """It serves what a truthful gateway says, perhaps not at once: another one may have to come."""
    with trio.fail_after(30):
        while True:
            try:
                found = await fileset.lookup(ROOT, b"f")
                assert await fileset.read(found.ino, 0, 100) == b"at home"
                return
            except OSError:
                await trio.sleep(0.05)


@settings(max_examples=max(5, EXAMPLES // 10), deadline=None)
@given(lies=st.lists(messages(FROM_GATEWAY), min_size=10, max_size=30))
def test_the_mount_process_goes_on_whatever_it_hears(lies: list[dict[str, Any]]) -> None:
    async def scene(base: Path) -> None:
        async with served(base) as (home, fileset):
            for lie in lies:
                try:
                    await say_raw(home.office.gateway, lie)
                except (OverflowError, ValueError, OSError):
                    pass  # no such message can be sent, or nobody listens any more
            # Whatever it was told, home is there.
            with trio.fail_after(30):
                while True:
                    try:
                        await home.office.gateway.say(**CONNECTED)
                        await fileset.lookup(ROOT, b"f")
                        break
                    except OSError:
                        await trio.sleep(0.02)
            await is_well(fileset)
            fileset.status()
            fileset.events()

    with tempfile.TemporaryDirectory() as base:
        trio.run(scene, Path(base))


LIES: dict[str, tuple[dict[str, Any], tuple[bytes, ...]]] = {
    "no file": ({"errno": 0, "length": 7}, ()),
    "no length": ({"errno": 0}, (b"at home",)),
    "longer than asked for": ({"errno": 0, "length": 9000}, (b"x" * 9000,)),
    "longer than its file": ({"errno": 0, "length": 7}, (b"x",)),
    "shorter than the file is": ({"errno": 0, "length": 3}, (b"at ",)),
    "several files": ({"errno": 0, "length": 7}, (b"wrong..", b"wrong..")),
    "half a stamp": ({"errno": 0, "length": 7, "stamp": {"size": 7}}, (b"wrong..",)),
    "a stamp of text": (
        {"errno": 0, "length": 7, "stamp": {"size": "7", "mtime": 1, "ino": 1}}, (b"wrong..",)
    ),
    "an unknown error": ({"errno": 2**40, "length": None}, ()),
}  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
async def test_bytes_that_were_not_asked_for(tmp_path: Path, lie: str) -> None:
    async with served(tmp_path) as (home, fileset):
        said, files = LIES[lie]
        home.fetches = [({"type": "fetched"} | said, files)]
        inode = await fileset.lookup(ROOT, b"f")
        try:
            assert (await fileset.read(inode.ino, 0, 100)) == b"at home"
        except OSError as exc:
            assert exc.errno in (errno.EIO, 2**40)
        await is_well(fileset)


WRONG_ROWS: dict[str, list[object]] = {
    "a path": [ROW, [b"../f", *ROW[1:]]],
    "a path of its own": [ROW, [b"/etc/passwd", *ROW[1:]]],
    "dots": [ROW, [b"..", *ROW[1:]]],
    "a dot": [[b".", *ROW[1:]], ROW],
    "no name": [ROW, [b"", *ROW[1:]]],
    "text": [ROW, ["f2", *ROW[1:]]],
    "a mode of text": [[b"g", "0644", *ROW[2:]], ROW],
    "a size beyond all": [[b"g", *ROW[1:4], 2**63, *ROW[5:]], ROW],
    "too few fields": [ROW, ROW[:5]],
    "no rows": [7, b"\xff"],
}


@pytest.mark.parametrize("wrong", WRONG_ROWS)
async def test_names_that_no_home_has(tmp_path: Path, wrong: str) -> None:
    async with served(tmp_path) as (home, fileset):
        rows = WRONG_ROWS[wrong]
        home.lists = [({"type": "listed", "errno": 0, "count": len(rows)}, (listing(*rows),))]
        with pytest.raises(Exception) as caught:  # what it is, the mount's decorator makes EIO
            await fileset.lookup(ROOT, b"f")
        assert not isinstance(caught.value, trio.TooSlowError)
        await is_well(fileset)
        assert [name for name, *_ in await fileset.readdir(ROOT, 0, 10)] == [b"f"]


async def test_a_name_that_is_told_twice(tmp_path: Path) -> None:
    """As by a home where somebody renames while it is read."""
    async with served(tmp_path) as (home, fileset):
        rows = [ROW, [b"f", 0o100600, *ROW[2:8], 6, *ROW[9:]], [b"g", *ROW[1:8], 7, *ROW[9:]]]
        home.lists = [({"type": "listed", "errno": 0, "count": 3}, (listing(*rows),))]
        await is_well(fileset)
        assert sorted(name for name, *_ in await fileset.readdir(ROOT, 0, 10)) == [b"f", b"g"]
        assert fileset.status().inodes == 4  # the root, what is unlinked while open, and two files
    assert_sound(tmp_path / "cache")
