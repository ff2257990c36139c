"""What happens to home is told once; a recovery ends well or badly, and once."""

from __future__ import annotations

import json
import socket
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from afmfs.cache.fileset import Fileset
from tests.harness.fake_gateway import CONNECTED, HEAR_SECONDS, FakeGateway, Office, open_office

GONE = {"type": "away", "state": "Unmounted", "reason": "the path is missing"}
SILENT = {"type": "away", "state": "Disconnected", "reason": "no answer"}
STATUS = {"type": "status", "num_exec": 0, "executing": 0, "requeued": 0, "settled": False}
FOUND = {"type": "inconsistent", "path": "f", "reason": "its size is another"}
REFUSED = {"type": "event", "name": "afmCmdRequeued", "detail": {"entry": 1, "reason": "no room"}}


@pytest.fixture
async def office() -> AsyncIterator[Office]:
    async with open_office() as office:
        yield office


def names(fileset: Fileset) -> list[str]:
    return [str(event["name"]) for event in fileset.events()]


async def heard(fileset: Fileset, gateway: FakeGateway) -> list[str]:
    """The events, once everything that was said is heard: what is said last is recorded last."""
    mark = f"mark {len(names(fileset))}"
    await gateway.say(type="event", name=mark, detail={})
    with trio.fail_after(HEAR_SECONDS):
        while mark not in names(fileset):  # noqa: ASYNC110  # a row is no event of trio's
            await trio.sleep(0.001)
    return [name for name in names(fileset) if not name.startswith("mark")]


async def test_home_comes_and_goes_once(office: Office, tmp_path: Path) -> None:
    async with office.fileset(tmp_path) as fileset:
        gateway = office.gateway
        said = [CONNECTED, SILENT, SILENT | {"reason": "no route"}, SILENT, CONNECTED, CONNECTED,
                GONE, GONE | {"reason": "the marker is missing"}, SILENT, CONNECTED]  # fmt: skip
        for message in said:
            await gateway.say(**message)
        assert await heard(fileset, gateway) == [
            "afmHomeConnected",
            "afmHomeDisconnected",
            "afmHomeConnected",
            "afmFilesetUnmounted",
            "afmHomeDisconnected",
            "afmHomeConnected",
        ]


async def test_a_new_gateway_is_no_new_home(office: Office, tmp_path: Path) -> None:
    async with office.fileset(tmp_path) as fileset:
        await office.gateway.say(**SILENT)
        await heard(fileset, office.gateway)
        del office.answers["hello"]
        office.gateway.kill()
        second = await office.another(1)
        await second.say(**SILENT)
        await second.say(**CONNECTED)
        assert [n for n in await heard(fileset, second) if n != "afmGatewayEnded"] == [
            "afmHomeConnected",
            "afmHomeDisconnected",
            "afmHomeConnected",
        ]


async def test_who_asks_while_a_gateway_ends_is_answered_by_the_next(
    office: Office, tmp_path: Path
) -> None:
    """Home has not failed: a read must not."""
    async with office.fileset(tmp_path) as fileset, trio.open_nursery() as nursery:
        first = office.gateway
        first.stuck = True  # its end is a matter of time
        first._sock.shutdown(socket.SHUT_RDWR)
        with trio.fail_after(HEAR_SECONDS):
            while fileset._link._sock is not None:  # noqa: ASYNC110  # nothing tells of it
                await trio.sleep(0.001)
        nursery.start_soon(partial(fileset._link.request, "list", ino=1))
        await trio.testing.wait_all_tasks_blocked()
        first._scope.cancel()
        second = await office.another(1)
        assert (await second.hear("list"))["rid"]


async def test_home_may_be_away_for_thousands_of_mounts(office: Office, tmp_path: Path) -> None:
    """Each has a word of its own that home may have; all have to be told to a gateway."""
    async with office.fileset(tmp_path):
        pass
    words = [f"{n:032x}" for n in range(5000)]
    with closing(sqlite3.connect(tmp_path / "cache/cache.db")) as db, db:
        db.execute("UPDATE fileset SET value=? WHERE key='tokens'", (json.dumps(words),))
    async with office.fileset(tmp_path):
        told = (await office.gateway.hear("hello"))["tokens"]
    assert {words[0], words[-1]} < set(told)


async def test_a_home_that_an_earlier_gateway_holds_is_waited_for(
    office: Office, tmp_path: Path
) -> None:
    """Its end is no end of a gateway, nor is home unknown till the next one has tried."""
    async with office.fileset(tmp_path) as fileset:
        del office.answers["hello"]
        office.gateway.kill()
        for number in (1, 2):
            gateway = await office.another(number)
            await gateway.say(**SILENT, held=True)
            await heard(fileset, gateway)
            gateway.kill()
        last = await office.another(3)
        assert fileset.status().state == "Disconnected"
        await last.say(**CONNECTED)
        assert await heard(fileset, last) == [
            "afmHomeConnected",
            "afmGatewayEnded",
            "afmHomeDisconnected",
            "afmHomeConnected",
        ]
        assert fileset.status().state == "Inactive"


def stopped_uncleanly(base: Path) -> None:
    with closing(sqlite3.connect(base / "cache/cache.db")) as db, db:
        db.execute("UPDATE fileset SET value=0 WHERE key='clean'")
        db.execute("DELETE FROM event")


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ([STATUS | {"in_doubt": 0}], "afmRecoveryEnd"),
        ([STATUS | {"in_doubt": 3}, STATUS | {"in_doubt": 0, "settled": True}], "afmRecoveryEnd"),
        # What home has refused before, and was not in doubt.
        ([STATUS | {"in_doubt": 0, "requeued": 1, "settled": True}], "afmRecoveryEnd"),
        ([STATUS | {"in_doubt": 3, "requeued": 1}, STATUS], "afmRecoveryEnd"),
        ([STATUS | {"in_doubt": 3, "requeued": 3, "settled": True}, STATUS], "afmRecoveryFail"),
        ([STATUS | {"in_doubt": 3}, REFUSED, STATUS | {"requeued": 1}], "afmRecoveryFail"),
        ([STATUS | {"in_doubt": 3}, FOUND, STATUS | {"in_doubt": 0}], "afmRecoveryFail"),
    ],
)
async def test_a_recovery_ends_once(
    office: Office, tmp_path: Path, said: list[dict[str, Any]], name: str
) -> None:
    async with office.fileset(tmp_path):
        pass
    stopped_uncleanly(tmp_path)
    async with office.fileset(tmp_path) as fileset:
        for message in said:
            await office.gateway.say(**message)
            if message is FOUND:
                await office.gateway.hear("run")
        ours = [n for n in await heard(fileset, office.gateway) if n.startswith("afmRecovery")]
        assert ours == ["afmRecoveryStart", name]
        assert fileset.status().state != "Recovery"
