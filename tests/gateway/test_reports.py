"""Reports: one at a time, complete or not at all, and never in the way of the gateway's end."""

from __future__ import annotations

import errno
import json
import os
import queue
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from afmfs.gateway.home.trouble import HomeAway
from afmfs.gateway.protocol import Message, check
from afmfs.gateway.report import reports
from afmfs.gateway.report.reports import Reports, Row

SECONDS = 10.0


class Answer(NamedTuple):
    message: Message
    data: bytes | None


class Desk:
    """Reports in a directory of their own, and what they answer."""

    def __init__(self, directory: Path) -> None:
        self.answers: queue.Queue[Answer] = queue.Queue()
        self.go_on = threading.Event()
        self.begun = threading.Event()
        self.directory = directory
        makers = {
            "short": self.short, "waits": self.waits, "breathes": self.breathes,
            "away": self.away, "odd": self.odd,
        }  # fmt: skip
        self.reports = Reports(makers, directory, self.send)

    def send(self, message: Message, fds: Sequence[int]) -> None:
        check(message)
        data = None
        if fds:
            assert os.fstat(fds[0]).st_nlink == 0, "it has no name"
            data = os.pread(fds[0], 1 << 20, 0)
        self.answers.put(Answer(message, data))

    def ask(self, kind: str, rid: int = 7, **options: Any) -> None:
        self.reports.submit({"type": "report", "rid": rid, "kind": kind, **options})

    def answer(self) -> Answer:
        return self.answers.get(timeout=SECONDS)

    # -- kinds of reports

    def short(self, options: dict[str, Any]) -> Iterator[Row]:
        yield {"path": "a\udcff", **options}
        yield {}
        yield {"summary": {"rows": 1}}

    def waits(self, options: dict[str, Any]) -> Iterator[Row]:
        yield {"path": "a"}
        self.begun.set()
        assert self.go_on.wait(SECONDS)
        yield {"summary": {}}

    def breathes(self, options: dict[str, Any]) -> Iterator[Row]:
        while True:
            self.begun.set()
            yield {}

    def away(self, options: dict[str, Any]) -> Iterator[Row]:
        yield {"path": "a"}
        raise HomeAway("Disconnected", "home does not answer")

    def odd(self, options: dict[str, Any]) -> Iterator[Row]:
        yield {}
        raise ValueError("odd")


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    one = Desk(tmp_path)
    yield one
    one.go_on.set()
    assert one.reports.stop(SECONDS)
    assert not os.listdir(tmp_path)


def test_a_report_is_a_file_of_json_lines(desk: Desk) -> None:
    desk.ask("short", option=5)
    message, data = desk.answer()
    assert (message["type"], message["rid"], message["errno"]) == ("reported", 7, 0)
    assert data is not None
    assert [json.loads(line) for line in data.splitlines()] == [
        {"path": "a\udcff", "option": 5},
        {"summary": {"rows": 1}, "report": 7},
    ]


def test_one_at_a_time(desk: Desk) -> None:
    desk.ask("waits", 1)
    assert desk.begun.wait(SECONDS)
    desk.ask("short", 2)
    refused = desk.answer().message
    assert (refused["rid"], refused["errno"]) == (2, errno.EBUSY)
    assert "waits" in refused["reason"]
    desk.go_on.set()
    assert desk.answer().message["rid"] == 1
    desk.ask("short", 3)
    assert desk.answer().message["errno"] == 0


@pytest.mark.parametrize(
    ("kind", "code", "reason"),
    [
        ("away", errno.EHOSTDOWN, "home does not answer"),
        ("odd", errno.EIO, "unexpected: odd"),
        ("no such", errno.EINVAL, "'no such' is no kind of report"),
    ],
)
def test_what_fails_has_a_reason_and_no_file(desk: Desk, kind: str, code: int, reason: str) -> None:
    desk.ask(kind)
    message, data = desk.answer()
    assert (message["errno"], message["reason"], data) == (code, reason, None)
    desk.ask("short")
    assert desk.answer().message["errno"] == 0, "the next one is made"


def test_it_leaves_room_to_the_databases(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reports, "_STEP", 10)
    monkeypatch.setattr(reports, "RESERVE", 1 << 60)
    full = os.statvfs_result((4096, 4096, 1000, 99, 99, 10, 10, 10, 0, 255))
    monkeypatch.setattr(os, "fstatvfs", lambda fd: full)
    desk.ask("short")
    message, data = desk.answer()
    assert (message["errno"], data) == (errno.ENOSPC, None)


def test_a_gateway_that_ends_waits_for_no_report(desk: Desk) -> None:
    desk.ask("breathes")
    assert desk.begun.wait(SECONDS)
    assert desk.reports.stop(SECONDS)
    assert desk.answers.empty()


def test_one_that_nobody_wants_any_more(desk: Desk) -> None:
    desk.ask("breathes", 1)
    assert desk.begun.wait(SECONDS)
    desk.reports.cancel(1)
    assert desk.answer().message["errno"] == errno.ECANCELED
    desk.reports.cancel(1)
    desk.ask("short", 2)
    assert desk.answer().message["errno"] == 0


def test_one_that_is_stuck_is_left_behind(desk: Desk) -> None:
    desk.ask("waits")
    assert desk.begun.wait(SECONDS)
    assert not desk.reports.stop(0.05)
