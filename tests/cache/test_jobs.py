"""Jobs, seen from the mount process; the gateway says what the test has it say."""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgpack
import pytest
import trio
import trio.testing

from afmfs.cache.fileset import Fileset
from afmfs.errors import AfmError, Refused
from afmfs.gateway.protocol import Message
from afmfs.model.entry import ROOT
from tests.harness.fake_gateway import HEAR_SECONDS, FakeGateway, Office, open_office

PERFORMING = "afmctl: Performing resync of fileset: sw1\n"
FOUND = {"type": "inconsistent", "path": "f", "reason": "its size is another"}


@pytest.fixture
async def office() -> AsyncIterator[Office]:
    async with open_office() as office:
        yield office


async def until(fileset: Fileset, **fields: Any) -> None:
    """Wait until status says so."""
    with trio.fail_after(HEAR_SECONDS):
        while any(  # noqa: ASYNC110  # what status says is no event
            getattr(fileset.status(), key) != value for key, value in fields.items()
        ):
            await trio.sleep(0.001)


async def make(fileset: Fileset, name: bytes) -> None:
    await fileset.make(ROOT, name, mode=0o100644, uid=0, gid=0)


async def needs_resync(fileset: Fileset, gateway: FakeGateway) -> None:
    await gateway.say(**FOUND)
    assert (await gateway.hear("run"))["needs_resync"]
    assert fileset.status().state == "NeedsResync"


async def look(fileset: Fileset) -> None:
    """What happens a few times a second by itself."""
    fileset._automatic.look()
    await trio.testing.wait_all_tasks_blocked()


async def execute(fileset: Fileset, line: str) -> str:
    return (await fileset.execute(line)).partition("\n")[2]


def done(job: Message, **summary: Any) -> Message:
    return {
        "type": "progress", "id": job["id"], "phase": "done", "left": 0, "summary": summary
    }  # fmt: skip


def progress(job: Message, phase: str, left: int, total: int, **more: Any) -> Message:
    about = {"type": "progress", "id": job["id"], "phase": phase, "left": left, "total": total}
    return about | {"bytes_left": left, "bytes_total": total, "requeued": 0} | more


def events(fileset: Fileset, name: str) -> list[dict[str, Any]]:
    return [dict(event) for event in fileset.events() if event["name"] == name]


async def test_a_resync_by_hand_from_its_start_to_its_end(office: Office, tmp_path: Path) -> None:
    async with office.fileset(tmp_path) as fileset:
        await make(fileset, b"f")
        gateway = office.gateway
        await needs_resync(fileset, gateway)
        last = fileset.status().last_entry
        assert await execute(fileset, "resync --keep-uncached") == PERFORMING
        job = (await gateway.hear("job"))["job"]
        assert job | {"started_ns": 0} == {
            "id": 1, "kind": "resync", "bound": last, "manual": True, "keep_uncached": True,
            "reason": "f: its size is another", "started_ns": 0,
        }  # fmt: skip
        run = await gateway.hear("run", 2)  # the first one stopped it
        assert run == {"type": "run", "stopped": False, "needs_resync": False}
        assert gateway.heard.index(run) > gateway.heard.index(gateway.all("job")[0])
        await gateway.say(**done(job, pushed=3))
        assert await gateway.hear("job_taken") == {"type": "job_taken", "id": 1}
        (event,) = events(fileset, "afmManualResyncComplete")
        assert (event["kind"], event["pushed"], event["job"]) == ("resync", 3, 1)
        await gateway.say(**done(job))  # it did not hear the answer
        await gateway.hear("job_taken", 2)
        assert len(events(fileset, "afmManualResyncComplete")) == 1
        assert fileset.status().state == "Dirty"  # by the entry of `f`


async def test_a_second_job_is_refused_and_numbers_go_on(office: Office, tmp_path: Path) -> None:
    async with office.fileset(tmp_path) as fileset:
        fileset.touch()
        await fileset.resync(keep_uncached=False)
        with pytest.raises(Refused, match="a resync is under way"):
            await fileset.resync(keep_uncached=False)
        job = (await office.gateway.hear("job"))["job"]
        await office.gateway.say(**done(job))
        await until(fileset, state="Active")
        await fileset.resync(keep_uncached=False)
        assert (await office.gateway.hear("job", 2))["job"]["id"] == job["id"] + 1


async def test_a_job_goes_on_after_any_restart(office: Office, tmp_path: Path) -> None:
    async with office.fileset(tmp_path) as fileset:
        assert (await office.gateway.hear("hello"))["job"] is None
        await fileset.resync(keep_uncached=False)
        job = (await office.gateway.hear("job"))["job"]
        office.gateway.kill()
        await office.another(1)
        assert (await office.gateway.hear("hello"))["job"] == job
        assert fileset.status().state == "Dirty"
    async with office.fileset(tmp_path) as fileset:
        assert (await office.gateway.hear("hello"))["job"] == job
        await office.gateway.say(**done(job))
        await office.gateway.hear("job_taken")
    async with office.fileset(tmp_path) as fileset:
        assert (await office.gateway.hear("hello"))["job"] is None
        assert len(events(fileset, "afmManualResyncComplete")) == 1


async def test_the_gateway_hears_of_a_job_only_once_it_is_durable(
    office: Office, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Power loss would take it back, and its number would be given to another."""
    async with office.fileset(tmp_path) as fileset:
        gateway, seen = office.gateway, list[Message]()
        await needs_resync(fileset, gateway)

        async def sync_wal() -> None:
            assert not gateway.all("job")
            seen.append(fileset.hello())
            fileset.post_run()  # as who reported the inconsistency may do only now

        monkeypatch.setattr(fileset.jobs, "_sync_wal", sync_wal)
        await fileset.resync(keep_uncached=False)
        assert [(m["job"], m["needs_resync"]) for m in seen] == [(None, True)]
        await gateway.hear("run", 3)
        assert [m["needs_resync"] for m in gateway.all("run")] == [True, True, False]
        job = (await gateway.hear("job"))["job"]

        async def sync_end() -> None:
            assert not gateway.all("job_taken")
            seen.append(fileset.hello())

        monkeypatch.setattr(fileset.jobs, "_sync_wal", sync_end)
        await gateway.say(**done(job))
        await gateway.hear("job_taken")
        assert len(seen) == 2


async def test_what_is_found_during_a_job_is_shown_after_it(office: Office, tmp_path: Path) -> None:
    async with office.fileset(tmp_path) as fileset:
        gateway = office.gateway
        fileset.touch()
        await fileset.resync(keep_uncached=False)
        job = (await gateway.hear("job"))["job"]
        await gateway.hear("run")
        await gateway.say(**FOUND)
        assert (await gateway.hear("run", 2))["needs_resync"]
        assert fileset.status().state == "Dirty"
        await gateway.say(**done(job))
        await until(fileset, state="NeedsResync")


async def test_what_is_shown_of_a_job(office: Office, tmp_path: Path) -> None:
    async with office.fileset(tmp_path) as fileset:
        await make(fileset, b"f")
        await needs_resync(fileset, office.gateway)
        await fileset.resync(keep_uncached=False)
        job = (await office.gateway.hear("job"))["job"]
        status = fileset.status()
        assert status.job
        assert (status.state, status.job.phase, status.queue_length) == ("Dirty", "due", 1)
        await office.gateway.say(**progress(job, "planning", 3, 3))
        await until(fileset, state="QueueOnly", queue_length=4)
        await office.gateway.say(**progress(job, "pushing", 2, 10, requeued=1, num_exec=8))
        await until(fileset, state="Dirty", queue_length=3, requeued=1, num_exec=8)
        status = fileset.status()
        assert status.reason.startswith("a resync is running: 2 of 10 objects are left; 1 entry")
        assert status.job
        assert (status.job.id, status.job.left, status.job.total) == (job["id"], 2, 10)
        await office.gateway.say(**progress(job | {"id": 99}, "pushing", 77, 77))  # of no job
        await until(fileset, queue_length=1)


async def test_a_recovery_is_shown_as_one(office: Office, tmp_path: Path) -> None:
    async with office.fileset(tmp_path) as fileset:
        await fileset.jobs.start("recovery")
        assert fileset.status().state == "Recovery"
        job = (await office.gateway.hear("job"))["job"]
        await office.gateway.say(**done(job))
        await until(fileset, state="Inactive")
        names = [event["name"] for event in fileset.events() if "Recovery" in event["name"]]
        assert names == ["afmRecoveryStart", "afmRecoveryEnd"]


# -- the automatic resync ------------------------------------------------------------------------


async def test_an_idle_fileset_stays_inconsistent(office: Office, tmp_path: Path) -> None:
    async with office.fileset(tmp_path) as fileset:
        await make(fileset, b"f")  # queued before it was found
        await needs_resync(fileset, office.gateway)
        for line in ("getstate", "queue", "events", "cached f"):
            await fileset.execute(line)
        await fileset.lookup(ROOT, b"f")
        await look(fileset)
        assert fileset.jobs.current is None
        assert fileset.status().state == "NeedsResync"
    async with office.fileset(tmp_path) as fileset:  # a mount is no request either
        await look(fileset)
        assert fileset.status().state == "NeedsResync"


async def test_the_next_operation_starts_it(office: Office, tmp_path: Path) -> None:
    async with office.fileset(tmp_path) as fileset:
        await needs_resync(fileset, office.gateway)
        await make(fileset, b"f")
        job = (await office.gateway.hear("job"))["job"]
        assert (job["kind"], job["manual"], job["keep_uncached"]) == ("resync", False, False)
        assert job["reason"] == "f: its size is another"


async def test_what_is_found_again_before_its_resync_begins_is_no_news(
    office: Office, tmp_path: Path
) -> None:
    async with office.fileset(tmp_path) as fileset:
        gateway = office.gateway
        await needs_resync(fileset, gateway)
        await execute(fileset, "resync")
        job = (await gateway.hear("job"))["job"]
        await gateway.say(**FOUND)
        assert not (await gateway.hear("run", 3))["needs_resync"]
        assert fileset.needs_resync == ""
        await gateway.say(**progress(job, "pushing", 1, 2))
        await gateway.say(**FOUND)  # of what it has been over
        assert (await gateway.hear("run", 4))["needs_resync"]
        assert fileset.needs_resync == "f: its size is another"


async def test_an_operation_queued_before_the_mount_counts(office: Office, tmp_path: Path) -> None:
    async with office.fileset(tmp_path, "auto_resync=off") as fileset:
        await needs_resync(fileset, office.gateway)
        await make(fileset, b"f")
    async with office.fileset(tmp_path, "auto_resync=on"):
        await office.gateway.hear("job")


async def test_the_next_directory_read_starts_it(office: Office, tmp_path: Path) -> None:
    async with office.fileset(tmp_path) as fileset:
        await needs_resync(fileset, office.gateway)
        await fileset.readdir(ROOT, 0, 10)
        await office.gateway.hear("job")


async def test_the_read_that_meets_the_change_fails_and_the_next_one_starts_it(
    office: Office, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with office.fileset(tmp_path) as fileset:
        ino = await uncached(fileset, office)
        gateway = office.gateway

        async def met() -> None:
            message = await gateway.hear("fetch", len(gateway.all("fetch")) + 1)
            await gateway.say(**FOUND)
            await gateway.say(type="fetched", rid=message["rid"], errno=errno.ESTALE)

        for _ in range(2):  # the kernel asks for the page again
            async with trio.open_nursery() as nursery:
                nursery.start_soon(met)
                with pytest.raises(OSError) as caught:
                    await fileset.read(ino, 0, 10)
            assert caught.value.errno == errno.EIO
        await until(fileset, state="NeedsResync")
        assert fileset.jobs.current is None
        monkeypatch.setattr("afmfs.cache.content.fetch.SAME_READ_S", 0.0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(met)
            with pytest.raises(OSError):
                await fileset.read(ino, 0, 10)
        await gateway.hear("job")


async def uncached(fileset: Fileset, office: Office) -> int:
    """A file that only home holds."""
    row = (b"f", 0o100644, 0, 0, 100, 1, 1, 1, 7, 1, 0, None, None)
    fd = os.memfd_create("listing")
    os.write(fd, msgpack.packb(row))
    office.answers["list"] = lambda message: {
        "type": "listed", "rid": message["rid"], "errno": 0, "count": 1, "fds": [fd]
    }  # fmt: skip
    ino = (await fileset.lookup(ROOT, b"f")).ino
    os.close(fd)
    return ino


@pytest.mark.parametrize("line", ["flushPending", "resumeRequeued"])
async def test_a_flush_is_a_request(line: str, office: Office, tmp_path: Path) -> None:
    async with office.fileset(tmp_path) as fileset:
        await needs_resync(fileset, office.gateway)
        await fileset.execute(line)
        await office.gateway.hear("job")


async def test_off_stopped_and_away_start_nothing(office: Office, tmp_path: Path) -> None:
    async with office.fileset(tmp_path) as fileset:
        gateway = office.gateway
        assert "off" in await execute(fileset, "auto_resync off")
        await needs_resync(fileset, gateway)
        await make(fileset, b"f")
        await look(fileset)
        with pytest.raises(Refused, match="`resync` first"):
            await fileset.execute("flushPending")
        assert fileset.jobs.current is None
    async with office.fileset(tmp_path) as fileset:
        gateway = office.gateway
        assert not fileset.status().auto_resync  # remembered
        fileset.stop()
        await fileset.execute("auto_resync on")
        await look(fileset)
        assert fileset.jobs.current is None
        await gateway.say(type="away", state="Disconnected", reason="no route")
        await until(fileset, reason="stopped by the administrator; `start` lets the queue go on")
        fileset.start()
        await until(fileset, state="Disconnected")
        await look(fileset)
        assert fileset.jobs.current is None
        await gateway.say(**office.answers["hello"]({}))
        await gateway.hear("job")  # `f` was queued since


# -- refusals ------------------------------------------------------------------------------------


async def test_another_mode_is_refused(office: Office, tmp_path: Path) -> None:
    async with office.fileset(tmp_path) as fileset:
        with fileset._store as store:
            store.put("mode", "iw")
    async with office.fileset(tmp_path) as fileset:
        assert fileset.status().mode == "iw"
        with pytest.raises(AfmError, match="for filesets of mode sw, sw1 is iw") as caught:
            await fileset.execute("resync")
        assert caught.value.errno == errno.EPERM
        assert fileset.jobs.current is None


async def test_dirty_is_refused_with_the_way_on(office: Office, tmp_path: Path) -> None:
    async with office.fileset(tmp_path) as fileset:
        await make(fileset, b"f")
        with pytest.raises(Refused, match="Dirty.*`flushPending --wait` first") as caught:
            await fileset.execute("resync")
        assert caught.value.errno == errno.EBUSY


async def test_an_inactive_fileset_becomes_active_by_it(office: Office, tmp_path: Path) -> None:
    async with office.fileset(tmp_path) as fileset:
        await until(fileset, state="Inactive")
        await fileset.execute("resync")
        job = (await office.gateway.hear("job"))["job"]
        await office.gateway.say(**done(job))
        await until(fileset, state="Active")


# -- one that waits gives way --------------------------------------------------------------------


async def waiting(fileset: Fileset, office: Office, kind: str = "resync", **more: Any) -> Message:
    """A job of which home refuses the last object, and home is found changed."""
    gateway = office.gateway
    await make(fileset, b"f")
    await fileset.jobs.start(kind, **more)
    job: Message = (await gateway.hear("job"))["job"]
    await gateway.hear("run")
    await gateway.say(**progress(job, "waiting", 1, 3, requeued=1))
    await gateway.say(**FOUND)
    assert (await gateway.hear("run", 2))["needs_resync"]
    return job


@pytest.mark.parametrize("kind", ["resync", "failover"])
async def test_the_next_operation_starts_one_in_its_place(
    office: Office, tmp_path: Path, kind: str
) -> None:
    """It does what was asked for by hand of the one before."""
    async with office.fileset(tmp_path) as fileset:
        before = await waiting(fileset, office, kind, manual=True, keep_uncached=True)
        await look(fileset)
        assert fileset.jobs.current is not None and fileset.jobs.current.id == before["id"]
        await make(fileset, b"g")
        job = (await office.gateway.hear("job", 2))["job"]
        assert job | {"started_ns": 0} == {
            "id": before["id"] + 1, "kind": kind, "bound": fileset.status().last_entry,
            "manual": True, "keep_uncached": True, "reason": "f: its size is another",
            "started_ns": 0,
        }  # fmt: skip
        assert not (await office.gateway.hear("run", 3))["needs_resync"]
        await office.gateway.say(**done(before))  # it ended meanwhile
        await office.gateway.say(**done(job))
        await office.gateway.hear("job_taken", 2)
        assert [e["job"] for e in events(fileset, "afmManualResyncComplete")] == [job["id"]]
        assert fileset.jobs.current is None


async def test_a_resync_by_hand_takes_its_place(office: Office, tmp_path: Path) -> None:
    async with office.fileset(tmp_path, "auto_resync=off") as fileset:
        await waiting(fileset, office, "failover", manual=True)
        assert fileset.status().state == "NeedsResync"
        assert await execute(fileset, "resync --keep-uncached") == PERFORMING
        job = (await office.gateway.hear("job", 2))["job"]
        assert (job["id"], job["kind"], job["keep_uncached"]) == (2, "failover", True)
        with pytest.raises(Refused, match="wait for its end"):
            await fileset.execute("resync")


async def test_what_is_shown_while_it_may_be_replaced(office: Office, tmp_path: Path) -> None:
    async with office.fileset(tmp_path) as fileset:
        job = await waiting(fileset, office)
        status = fileset.status()
        assert status.state == "NeedsResync"
        assert status.reason == (
            "f: its size is another; the next request that reaches the gateway starts a resync, as"
            " does `resync`, in place of the resync that waits for what home refuses"
        )
        assert status.job and status.job.id == job["id"]


@pytest.mark.parametrize("phase", ["pushing", "waiting"])
async def test_no_other_job_gives_way(office: Office, tmp_path: Path, phase: str) -> None:
    """One that has more to do than to wait, or nothing in whose way there is."""
    async with office.fileset(tmp_path) as fileset:
        gateway = office.gateway
        fileset.touch()
        await fileset.resync(keep_uncached=False)
        job = (await gateway.hear("job"))["job"]
        await gateway.say(**progress(job, phase, 1, 3, requeued=1))
        await until(fileset, requeued=1)
        if phase == "pushing":
            await gateway.say(**FOUND)
            assert (await gateway.hear("run", 2))["needs_resync"]
        await make(fileset, b"g")
        await look(fileset)
        assert fileset.status().state == "Dirty"
        with pytest.raises(Refused, match="wait for its end"):
            await fileset.execute("resync")
        with pytest.raises(Refused, match="under way"):
            await fileset.resync(keep_uncached=False)


@pytest.mark.parametrize("more", [{"kind": "recovery"}, {"missing": 1}, {"doubt": 1}])
async def test_none_gives_way_that_makes_up_for_a_loss(
    office: Office, tmp_path: Path, more: dict[str, Any]
) -> None:
    async with office.fileset(tmp_path) as fileset:
        await waiting(fileset, office)
        assert fileset.jobs.gives_way
        assert fileset.jobs.current is not None
        fileset.jobs.current = replace(fileset.jobs.current, **more)
        assert not fileset.jobs.gives_way
        with pytest.raises(Refused, match="under way"):
            await fileset.resync(keep_uncached=False)
