"""Callbacks: programs that run at events, beside a fileset that they hold up in nothing."""

from __future__ import annotations

import json
import logging
import os
import shlex
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from afmfs.cache.callback import callbacks, program
from afmfs.cache.fileset import Fileset
from afmfs.cache.report.event import insert_event
from afmfs.errors import AfmError, Refused, UnknownCommand
from afmfs.model.entry import ROOT
from tests.harness.fake_gateway import Office, open_office
from tests.harness.programs import SECONDS, Fifo, script

MARK = "afmQueueDropped"
"""An event that nothing records by itself here."""


@pytest.fixture
async def office() -> AsyncIterator[Office]:
    async with open_office() as office:
        yield office


@pytest.fixture
def mail(tmp_path: Path) -> Iterator[Fifo]:
    fifo = Fifo(tmp_path / "mail", lasting=True)
    yield fifo
    fifo.close()


def post(mail: Fifo, then: str = "") -> Path:
    """A program that posts its arguments."""
    return script(mail.path.with_name("post"), f'printf "%s|" "$@" >{mail.path}.part\n'
                  f'{{ cat {mail.path}.part; echo; }} >{mail.path}\n{then}')  # fmt: skip


async def execute(fileset: Fileset, *words: str) -> str:
    return (await fileset.execute(shlex.join(words))).partition("\n")[2]


async def add(fileset: Fileset, command: Path, *words: str, event: str = MARK) -> None:
    given = ["n", "--command", str(command), "--event", event, *words]
    await execute(fileset, "addcallback", *given)


async def failed(fileset: Fileset, count: int = 1) -> list[dict[str, Any]]:
    """The events that tell of callbacks' failures, once there are so many."""
    with trio.fail_after(SECONDS):
        while True:
            found = [dict(e) for e in fileset.events() if e["name"] == "afmCallbackFailed"]
            if len(found) >= count:
                return found
            await trio.sleep(0.005)


async def test_it_fires_once_and_after_the_commit(
    office: Office, tmp_path: Path, mail: Fifo
) -> None:
    async with office.fileset(tmp_path) as fileset:
        fileset.serving()
        await add(fileset, post(mail), "--parms", "%eventName '%reason' %fsName %filesetName x")
        fileset.record_event(MARK, reason="a 'b' $(touch x)\t; rm")
        assert await mail.line() == b"afmQueueDropped|a 'b' $(touch x)\t; rm|afmfs|sw1|x|\n"
        fileset.record_event("afmGatewayEnded", reason="not its event")
        with pytest.raises(ZeroDivisionError), fileset._store as store:  # taken back
            insert_event(store.db, MARK, {"reason": "never happened"})
            raise ZeroDivisionError
        with fileset._store as store:  # in somebody's transaction
            insert_event(store.db, MARK, {"reason": "second"})
        assert (await mail.line()).split(b"|")[1] == b"second"
        fileset.record_event(MARK, reason="third")
        assert (await mail.line()).split(b"|")[1] == b"third"
        assert mail.is_quiet


async def test_all_that_a_program_is_told(office: Office, tmp_path: Path, mail: Fifo) -> None:
    names = ["eventName", "fsName", "filesetName", "homeServer", "target", "reason", "pathName",
             "cachePath", "mountPoint", "gatewayName"]  # fmt: skip
    async with office.fileset(tmp_path, "device=fs1") as fileset:
        fileset.serving()
        env = script(tmp_path / "env", f"env -0 | sort -z | tr '\\n\\0' '?\\n' >{mail.path}")
        await add(fileset, post(mail), "--parms", " ".join(f"%{name}" for name in names))
        fileset.record_event(MARK, path="dir/a file", reason="why")
        home, base = os.fsencode(tmp_path / "home"), os.fsencode(tmp_path)
        told = (await mail.line()).split(b"|")[:-1]
        assert told == [
            b"afmQueueDropped", b"fs1", b"sw1", home, home, b"why", b"dir/a file",
            base + b"/cache", base + b"/mnt", os.fsencode(os.uname().nodename),
        ]  # fmt: skip
        await execute(fileset, "delcallback", "n")
        await add(fileset, env)
        fileset.record_event(MARK, path="dir/a file", reason="why\nso")
        found = dict([(await mail.line()).rstrip().partition(b"=")[::2] for _ in range(15)])
        assert found[b"AFM_PATH_NAME"] == b"dir/a file"
        assert found[b"AFM_REASON"] == b"why?so"
        assert found[b"AFM_EVENT_TIME"].endswith(b"Z")
        assert json.loads(found[b"AFM_DETAIL"]) == {"path": "dir/a file", "reason": "why\nso"}


async def test_nothing_runs_before_the_mount_serves(
    office: Office, tmp_path: Path, mail: Fifo, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with office.fileset(tmp_path) as fileset:
        await add(fileset, post(mail), "--parms", "%eventName %reason")
        fileset.record_event(MARK, reason="early")
        await trio.testing.wait_all_tasks_blocked()
        assert "runs at" not in caplog.text
        fileset.serving()
        assert await mail.line() == b"afmQueueDropped|early|\n"


async def test_they_last_and_are_listed(office: Office, tmp_path: Path, mail: Fifo) -> None:
    command = post(mail)
    async with office.fileset(tmp_path) as fileset:
        assert await execute(fileset, "lscallback") == ""
        await add(fileset, command, "--parms", "%eventName 'a\nb'", "--timeout", "2.5")
        shown = await execute(fileset, "lscallback")
        assert shown.splitlines() == [
            "n",
            f"       command       = {command}",
            "       event         = afmQueueDropped",
            "       parms         = %eventName 'a\\nb'",
            "       timeout       = 2.5",
        ]
    async with office.fileset(tmp_path) as fileset:
        fileset.serving()
        assert await execute(fileset, "lscallback") == shown
        (line,) = (await execute(fileset, "lscallback", "--json")).splitlines()
        assert json.loads(line) == {
            "id": "n", "command": str(command), "events": [MARK],
            "parms": "%eventName 'a\nb'", "timeout": 2.5,
        }  # fmt: skip
        fileset.record_event(MARK)
        assert (await mail.line(), await mail.line()) == (b"afmQueueDropped|a\n", b"b|\n")
        with pytest.raises(AfmError, match="no callback m"):
            await execute(fileset, "delcallback", "n", "m")
        assert await execute(fileset, "delcallback", "n") == "delcallback: n is gone\n"
        fileset.record_event(MARK)
    async with office.fileset(tmp_path) as fileset:
        assert await execute(fileset, "lscallback") == ""
        assert mail.is_quiet


async def test_what_is_refused(office: Office, tmp_path: Path, mail: Fifo) -> None:
    command = str(post(mail))
    async with office.fileset(tmp_path) as fileset:
        await execute(fileset, "addcallback", "n", "--command", command, "--event", MARK)
        for error, words in [
            (Refused, ["n", "--command", command, "--event", MARK]),
            (UnknownCommand, ["afmx", "--command", command, "--event", MARK]),
            (UnknownCommand, ["m", "--command", command, "--event", "afmQueueDroped"]),
            (UnknownCommand, ["m", "--command", command]),
            (UnknownCommand, ["m", "--event", MARK]),
            (UnknownCommand, ["m", "--command", command, "--event", MARK, "--timeout", "0"]),
            (UnknownCommand, ["m", "--command", command, "--event", MARK, "--parms", "%x"]),
            (AfmError, ["m", "--command", f"{command}.missing", "--event", MARK]),
        ]:
            with pytest.raises(error):
                await execute(fileset, "addcallback", *words)
        assert [one.id for one in fileset.callbacks.listing()] == ["n"]


async def test_one_that_takes_too_long_is_ended(office: Office, tmp_path: Path, mail: Fifo) -> None:
    life = Fifo(tmp_path / "life")
    then = f"[ $1 = long ] && exec 3>{life.path} && sleep 1000"
    async with office.fileset(tmp_path) as fileset:
        fileset.serving()
        await add(fileset, post(mail, then), "--parms", "%reason", "--timeout", "2")
        fileset.record_event(MARK, reason="long")
        (told,) = await failed(fileset)
        assert await mail.line() == b"long|\n"
        assert await life.line() == b""  # nobody holds it any more
        assert (told["callback"], told["event"]) == ("n", MARK)
        assert "took more than 2 s and was ended" in told["reason"]
        fileset.record_event(MARK, reason="short")
        assert await mail.line() == b"short|\n"
    life.close()


async def test_one_runs_after_the_other_and_the_fileset_goes_on(
    office: Office, tmp_path: Path, mail: Fifo
) -> None:
    os.mkfifo(tmp_path / "go")
    async with office.fileset(tmp_path) as fileset:
        fileset.serving()
        await add(fileset, post(mail, f"read line <{tmp_path / 'go'}"), "--parms", "%reason")
        fileset.record_event(MARK, reason="1")
        assert await mail.line() == b"1|\n"
        fileset.record_event(MARK, reason="2")
        with trio.fail_after(SECONDS):
            one = await fileset.make(ROOT, b"f", mode=0o100644, uid=0, gid=0)
            await fileset.write(one.ino, 0, b"data")
            await fileset.fsync(one.ino)
            await execute(fileset, "addcallback", "m", "--command", "/bin/true", "--event", MARK)
        assert mail.is_quiet
        for number in (b"2|\n", None):
            await trio.to_thread.run_sync((tmp_path / "go").write_text, "\n")
            assert number is None or await mail.line() == number
        assert not [e for e in fileset.events() if e["name"] == "afmCallbackFailed"]


async def test_what_waits_is_bounded(
    office: Office,
    tmp_path: Path,
    mail: Fifo,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(callbacks, "WAITING", 2)
    os.mkfifo(tmp_path / "go")
    async with office.fileset(tmp_path) as fileset:
        fileset.serving()
        await add(fileset, post(mail, f"read line <{tmp_path / 'go'}"), "--parms", "%reason")
        fileset.record_event(MARK, reason="1")
        assert await mail.line() == b"1|\n"
        for number in range(2, 7):
            fileset.record_event(MARK, reason=str(number))
        await trio.testing.wait_all_tasks_blocked()
        assert "2 events wait for it; what comes now is dropped" in caplog.text
        for number in (b"2|\n", b"3|\n"):
            await trio.to_thread.run_sync((tmp_path / "go").write_text, "\n")
            assert await mail.line() == number
        assert "3 events were dropped" in caplog.text
        fileset.record_event(MARK, reason="7")
        await trio.testing.wait_all_tasks_blocked()
        await execute(fileset, "delcallback", "n")  # and with it what waits
        await trio.to_thread.run_sync((tmp_path / "go").write_text, "\n")
        with trio.fail_after(SECONDS):
            while fileset.callbacks._lines:  # noqa: ASYNC110  # nothing tells of it
                await trio.sleep(0.001)
        assert caplog.text.count("runs at") == 3


async def test_failures_are_told_and_start_no_circle(
    office: Office, tmp_path: Path, mail: Fifo, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with office.fileset(tmp_path) as fileset:
        fileset.serving()
        bad = post(mail, "echo no luck; exit 3")
        await add(fileset, bad, "--parms", "%eventName", event=f"{MARK},afmCallbackFailed")
        fileset.record_event(MARK)
        first, second = await failed(fileset, 2)
        assert (first["event"], first["reason"]) == (MARK, "exit status 3")
        assert second["event"] == "afmCallbackFailed"
        assert await mail.line() == b"afmQueueDropped|\n"
        assert await mail.line() == b"afmCallbackFailed|\n"
        fileset.record_event(MARK)  # had there been a circle, this would come after more of it
        await failed(fileset, 4)
        assert [await mail.line() for _ in range(2)] == [
            b"afmQueueDropped|\n",
            b"afmCallbackFailed|\n",
        ]
        assert "callback n: no luck" in caplog.text


async def test_what_has_become_unsafe_does_not_run(
    office: Office, tmp_path: Path, mail: Fifo
) -> None:
    async with office.fileset(tmp_path) as fileset:
        fileset.serving()
        command = post(mail)
        await add(fileset, command)
        command.chmod(0o777)
        fileset.record_event(MARK)
        (told,) = await failed(fileset)
        assert "can be written by its group or by others" in told["reason"]
    assert mail.is_quiet


async def test_the_end_of_the_mount_ends_what_runs(
    office: Office, tmp_path: Path, mail: Fifo
) -> None:
    life = Fifo(tmp_path / "life")
    then = f"exec 3>{life.path}; trap '' TERM; echo up >&3; sleep 1000; sleep 1000"
    async with trio.open_nursery() as nursery:
        closing = trio.Event()

        async def serve(task_status: trio.TaskStatus[Fileset]) -> None:
            async with office.fileset(tmp_path) as fileset:
                task_status.started(fileset)
                await closing.wait()

        fileset = await nursery.start(serve)
        fileset.serving()
        await add(fileset, post(mail, then), "--parms", "%reason")
        fileset.record_event(MARK, reason="1")
        fileset.record_event(MARK, reason="2")
        assert await life.line() == b"up\n"
        began = trio.current_time()
        closing.set()
        assert await life.line() == b""
        assert trio.current_time() - began < 2
    assert (await mail.line(), mail.is_quiet) == (b"1|\n", True)
    life.close()


async def test_one_that_can_not_be_killed_keeps_the_next_from_starting(
    office: Office, tmp_path: Path, mail: Fifo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a program is that waits in a home that hangs: a signal does not reach it."""
    monkeypatch.setattr(program, "GRACE_S", 0.01)
    monkeypatch.setattr(program, "KILL_S", 0.01)
    monkeypatch.setattr(program.Program, "_signal", lambda self, number: None)
    os.mkfifo(tmp_path / "go")
    async with office.fileset(tmp_path) as fileset:
        fileset.serving()
        command = post(mail, f"read line <{tmp_path / 'go'}")
        await add(fileset, command, "--parms", "%reason", "--timeout", "0.5")
        fileset.record_event(MARK, reason="1")
        (told,) = await failed(fileset)
        assert "can't be killed: it is stuck" in told["reason"]
        fileset.record_event(MARK, reason="2")
        await trio.testing.wait_all_tasks_blocked()
        assert (await mail.line(), mail.is_quiet) == (b"1|\n", True)
        await trio.to_thread.run_sync((tmp_path / "go").write_text, "\n")
        assert await mail.line() == b"2|\n"
        await trio.to_thread.run_sync((tmp_path / "go").write_text, "\n")


async def test_a_path_that_hangs_takes_no_thread_from_others(
    office: Office, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hangs = threading.Event()
    monkeypatch.setattr(program, "CHECK_S", 0.01)
    monkeypatch.setattr(program, "_check", lambda *_: hangs.wait(3 * SECONDS))
    try:
        async with office.fileset(tmp_path) as fileset:
            for number in range(50):  # more than there are threads
                with pytest.raises(AfmError, match="does not answer"):
                    given = ["--command", "/bin/true", "--event", MARK]
                    await execute(fileset, "addcallback", f"n{number}", *given)
            with trio.fail_after(SECONDS):
                await trio.to_thread.run_sync(os.getpid)
    finally:
        hangs.set()
