"""Failover, seen from the mount process; the gateways say what the test has them say."""

from __future__ import annotations

import errno
import json
import os
import sqlite3
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from afmfs.cache.fileset import Fileset
from afmfs.cache.job import moving
from afmfs.errors import AfmError, Refused
from afmfs.gateway.protocol import Message
from afmfs.gateway.state.journal import Journal, Outcome
from tests.cache.test_jobs import done, events, make, needs_resync, progress, uncached, until
from tests.harness.fake_gateway import CONNECTED, FakeGateway, Office, open_office

NEW = "/somewhere/else"
PERFORMING = "afmctl: Performing failover of fileset: sw1\n"


@pytest.fixture
async def office() -> AsyncIterator[Office]:
    async with open_office() as office:
        yield office


def scouts(office: Office) -> list[FakeGateway]:
    return [gateway for gateway in office.started if gateway.home == 0]


def looks(office: Office, answer: Callable[[Message], Message]) -> None:
    """What a gateway finds that looks at a new home."""
    office.answers["hello"] = lambda hello: answer(hello) if hello.get("survey") else CONNECTED


async def command(fileset: Fileset, words: str = "") -> str:
    reply = await fileset.execute(f"failover --new-target {NEW} {words}")
    return reply.partition("\n")[2]


async def test_from_its_start_to_its_end(office: Office, tmp_path: Path) -> None:
    old = str(tmp_path / "home")
    async with office.fileset(tmp_path) as fileset:
        await make(fileset, b"f")
        before, bound = office.gateway, fileset.status().last_entry
        assert await command(fileset) == PERFORMING
        (scout,) = scouts(office)
        asked = scout.all("hello")[0]
        assert (asked["target"], asked["survey"], asked["first"]) == (NEW, True, True)
        assert scout.ended and before.ended
        hello = await office.gateway.hear("hello")
        assert office.gateway.home == 2
        assert (hello["target"], hello.get("survey"), hello["first"]) == (NEW, None, False)
        job = hello["job"]
        assert (job["kind"], job["bound"], job["manual"]) == ("failover", bound, True)
        assert job["reason"] == f"from {old} to {NEW}"
        status = fileset.status()
        assert (status.state, status.target, status.queue_length) == ("Dirty", NEW, 1)
        await office.gateway.say(**done(job))
        await office.gateway.hear("job_taken")
        assert events(fileset, "afmManualResyncComplete")[0]["kind"] == "failover"
    async with office.fileset(tmp_path, target="none") as fileset:
        assert (office.gateway.home, fileset.settings.target) == (2, NEW)


async def test_the_transaction_is_durable_before_the_new_gateway_starts(
    office: Office, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with office.fileset(tmp_path) as fileset:
        old, synced = office.gateway, list[int]()
        sync = fileset.jobs._sync_wal

        async def sync_wal() -> None:
            assert old.ended, "the old gateway could go on at the old home"
            assert len(office.started) == 2, "none but the one that looked"
            assert fileset._store.get("home") == 2 and json.loads(fileset._store.get("job"))
            synced.append(1)
            await sync()

        monkeypatch.setattr(fileset.jobs, "_sync_wal", sync_wal)
        await command(fileset)
        assert synced == [1]


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ({"type": "away", "state": "Unmounted", "reason": "no such file"}, "no such file"),
        ({"type": "away", "state": "Disconnected", "reason": "no route"}, "no route"),
        (
            {"type": "refused", "reason": "this home belongs to x", "hint": "choose another"},
            "this home belongs to x; choose another",
        ),
    ],
)
@pytest.mark.parametrize("words", ["", "--target-only"])
async def test_a_home_that_can_not_be_had_changes_nothing(
    office: Office, tmp_path: Path, answer: Message, text: str, words: str
) -> None:
    async with office.fileset(tmp_path) as fileset:
        await make(fileset, b"f")
        gateway, settings = office.gateway, fileset.settings
        looks(office, lambda hello: answer)
        with pytest.raises(Refused, match=text) as caught:
            await command(fileset, words)
        assert caught.value.errno == errno.EBUSY
        assert ("--target-only is for" in str(caught.value)) is bool(words)
        assert (fileset.settings, fileset.jobs.current) == (settings, None)
        assert not gateway.ended
        assert not (settings.cache / "gateway/2").exists()


async def test_a_home_that_does_not_answer_is_refused(
    office: Office, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moving, "LOOK_S", 0.1)
    async with office.fileset(tmp_path) as fileset:
        del office.answers["hello"]
        with pytest.raises(Refused, match="no answer within"):
            await command(fileset)
        assert scouts(office)[0].ended


@pytest.mark.parametrize(
    ("target", "text"),
    [
        ("nfs://server/path", "not supported yet"),
        ("relative", "absolute path"),
        ("CACHE/below", "inside the cache"),
        ("BASE", "is inside the home"),
    ],
)
async def test_a_target_that_is_none(
    office: Office, tmp_path: Path, target: str, text: str
) -> None:
    async with office.fileset(tmp_path) as fileset:
        words = target.replace("CACHE", str(tmp_path / "cache")).replace("BASE", str(tmp_path))
        with pytest.raises(AfmError, match=text):
            await fileset.execute(f"failover --new-target {words}")
        with pytest.raises(AfmError, match="--new-target TARGET") as caught:
            await fileset.execute("failover")
        assert caught.value.errno == errno.EINVAL
        assert not scouts(office)


# -- states --------------------------------------------------------------------------------------


async def test_taken_in_needs_resync(office: Office, tmp_path: Path) -> None:
    async with office.fileset(tmp_path) as fileset:
        await needs_resync(fileset, office.gateway)
        await command(fileset)
        hello = await office.gateway.hear("hello")
        assert (hello["needs_resync"], hello["job"]["kind"]) == (False, "failover")


@pytest.mark.parametrize("state", ["Unmounted", "Disconnected"])
async def test_taken_while_home_is_away(office: Office, tmp_path: Path, state: str) -> None:
    async with office.fileset(tmp_path) as fileset:
        await fileset.resync(keep_uncached=False)  # it waits for a home that may be gone for good
        await office.gateway.say(type="away", state=state, reason="gone")
        await until(fileset, state=state)
        await command(fileset)
        job = (await office.gateway.hear("hello"))["job"]
        assert (job["kind"], job["id"]) == ("failover", 2)


async def test_taken_while_stopped_and_waits_for_start(office: Office, tmp_path: Path) -> None:
    async with office.fileset(tmp_path) as fileset:
        fileset.stop()
        await command(fileset)
        assert (await office.gateway.hear("hello"))["stopped"]
        assert fileset.status().state == "Stopped"


@pytest.mark.parametrize("kind", ["resync", "failover", "recovery"])
async def test_refused_while_a_job_goes_on(office: Office, tmp_path: Path, kind: str) -> None:
    async with office.fileset(tmp_path) as fileset:
        await fileset.jobs.start(kind)
        with pytest.raises(Refused, match="wait for the end") as caught:
            await command(fileset)
        assert caught.value.errno == errno.EBUSY
        assert fileset.status().state in str(caught.value)
        job = (await office.gateway.hear("job"))["job"]
        await office.gateway.say(**progress(job, "waiting", 1, 1, requeued=1))  # home is full, say
        await until(fileset, requeued=1)
        if kind != "recovery":
            await command(fileset)
            assert (await office.gateway.hear("hello"))["job"]["id"] == 2


async def test_refused_for_other_modes(office: Office, tmp_path: Path) -> None:
    async with office.fileset(tmp_path) as fileset:
        with fileset._store as store:
            store.put("mode", "ro")
    async with office.fileset(tmp_path) as fileset:
        with pytest.raises(AfmError, match="sw1 is ro") as caught:
            await command(fileset)
        assert caught.value.errno == errno.EPERM


# -- what goes along, and what stays behind ------------------------------------------------------


async def test_a_stuck_gateway_is_left_behind(
    office: Office, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("afmfs.cache.home.link.ENDS_S", 0.05)
    async with office.fileset(tmp_path) as fileset:
        old = office.gateway
        old.stuck = True
        with pytest.raises(Refused, match="umount -f"):  # it holds gateway.db
            await command(fileset, "--target-only")
        assert fileset.settings.target != NEW
        office.gateway.stuck = True
        await command(fileset)
        assert not old.ended
        assert (await office.gateway.hear("hello"))["job"]["kind"] == "failover"
        old.stuck = False


async def test_outcomes_of_the_old_home_are_taken_over_and_never_forgotten_at_the_new(
    office: Office, tmp_path: Path
) -> None:
    async with office.fileset(tmp_path) as fileset:
        await make(fileset, b"f")
        (number,) = fileset._store.execute("SELECT max(id) FROM queue").fetchone()
        ino = (await fileset.lookup(1, b"f")).ino
        journal = Journal(tmp_path / "cache/gateway/1")
        journal.land([Outcome(number, ino)])
        journal.close()
        fileset._forgettable = 0
        await command(fileset)
        assert fileset.status().queue_length == 0
        assert fileset._retirement.seq == 0
        journal = Journal(tmp_path / "cache/gateway/2")  # its outcomes count from the beginning
        await make(fileset, b"g")
        (number,) = fileset._store.execute("SELECT max(id) FROM queue").fetchone()
        journal.land([Outcome(number, (await fileset.lookup(1, b"g")).ino)])
        journal.close()
        gateway = office.gateway
        await fileset._durable.make()
        assert not gateway.all("forget")
        await gateway.say(type="outcomes", seq=1, num_exec=1)
        await until(fileset, queue_length=0)


async def test_a_point_under_way_forgets_nothing_at_the_new_home(
    office: Office, tmp_path: Path
) -> None:
    async with office.fileset(tmp_path) as fileset:
        fileset._retirement.seq = 500
        fileset._before_point()
        await command(fileset)
        fileset._after_point()
        await office.gateway.hear("hello")
        await office.gateway.say(type="point", rid=1)
        await office.gateway.hear("point_done")
        assert not office.gateway.all("forget")


async def test_a_fetch_under_way_is_asked_again_at_the_new_home(
    office: Office, tmp_path: Path
) -> None:
    """Its answer could be another home's: what was asked for is looked up anew."""
    async with office.fileset(tmp_path) as fileset:
        ino = await uncached(fileset, office)
        async with trio.open_nursery() as nursery:
            read: list[bytes] = []

            async def reading() -> None:
                read.append(bytes(await fileset.read(ino, 0, 10)))

            nursery.start_soon(reading)
            await office.gateway.hear("fetch")
            await command(fileset)
            for n, data in enumerate((b"a" * 100, b"b" * 100), 1):
                message = await office.gateway.hear("fetch", n)
                fd = os.memfd_create("fetched")
                os.write(fd, data)
                await office.gateway.say(
                    type="fetched", rid=message["rid"], errno=0, length=100, fds=[fd]
                )
                os.close(fd)
        assert read == [b"b" * 10]


async def test_what_was_known_of_the_old_home_is_forgotten(office: Office, tmp_path: Path) -> None:
    async with office.fileset(tmp_path) as fileset:
        with fileset._store as store:
            store.execute("INSERT INTO homelink VALUES (77, 16)")
            store.execute("INSERT INTO lost VALUES (16, 1)")
            store.execute("INSERT INTO unrepresentable VALUES (16, 3, 1)")
        await command(fileset, "--target-only")
        assert fileset.status().unrepresentable == 1
        await command(fileset)
        for table in ("homelink", "lost", "unrepresentable"):
            assert not fileset._store.execute(f"SELECT * FROM {table}").fetchall()


async def test_a_former_home_is_still_ours(office: Office, tmp_path: Path) -> None:
    async with office.fileset(tmp_path) as fileset:
        first = await office.gateway.hear("hello")
        await command(fileset)
        await until(fileset, connected_since=fileset.connected_since)
        await office.gateway.say(**done((await office.gateway.hear("hello"))["job"]))
        await office.gateway.hear("job_taken")
    async with office.fileset(tmp_path, target="none") as fileset:
        hello = await office.gateway.hear("hello")
        await until(fileset, state="Inactive")
        assert hello["token"] != first["token"]
        await fileset.execute(f"failover --new-target {first['target']}")
        asked = scouts(office)[-1].all("hello")[0]
        assert {first["token"], hello["token"]} <= set(asked["tokens"])
        assert {first["token"], hello["token"]} <= set(
            (await office.gateway.hear("hello"))["tokens"]
        )


async def test_a_full_disk_leaves_everything_as_it_was(
    office: Office, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with office.fileset(tmp_path) as fileset:

        def full(*args: Any, **options: Any) -> None:
            raise sqlite3.OperationalError("database or disk is full")

        settings = fileset.settings
        monkeypatch.setattr(fileset.jobs, "put", full)
        with pytest.raises(AfmError, match="disk is full"):
            await command(fileset)
        gateway = await office.another(2)
        assert gateway.home == 1
        assert (await gateway.hear("hello"))["job"] is None
        assert (fileset.settings, fileset._store.get("home")) == (settings, 1)


async def test_another_address_of_the_same_home(office: Office, tmp_path: Path) -> None:
    async with office.fileset(tmp_path) as fileset:
        await make(fileset, b"f")
        tokens = json.loads(fileset._store.get("tokens"))
        assert await command(fileset, "--target-only") == PERFORMING
        asked = scouts(office)[0].all("hello")[0]
        assert (asked["first"], asked["tokens"]) == (False, tokens)
        hello = await office.gateway.hear("hello")
        assert (office.gateway.home, hello["target"], hello["job"]) == (1, NEW, None)
        assert fileset.status().queue_length == 1
        assert events(fileset, "afmTargetChanged")[0]["to"] == NEW
