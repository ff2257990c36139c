"""The desk that reports are asked for at: what is kept of the last one, and who may read it."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import aclosing
from typing import Any, cast

import pytest

from afmfs.cache.home.home_view import HomeView
from afmfs.cache.home.link import GatewayLink
from afmfs.cache.report.reports import ReportDesk
from afmfs.errors import Refused
from afmfs.gateway.protocol import Message
from afmfs.model.states import Link


class FakeLink:
    def __init__(self) -> None:
        self.home = HomeView(link=Link.UP)
        self.takers: dict[str, Any] = {}
        self.posted: list[Message] = []

    def post(self, message: Message) -> None:
        self.posted.append(message)

    def report(self, number: int, data: bytes = b"", code: int = 0, reason: str = "") -> list[int]:
        """The gateway's answer; the descriptors that came with it."""
        fds = []
        if not code:
            fds.append(os.memfd_create("report"))
            os.write(fds[0], data)
        message = {"type": "reported", "rid": number, "errno": code, "reason": reason}
        self.takers["reported"](message, list(fds))
        return fds


@pytest.fixture
def link() -> FakeLink:
    return FakeLink()


@pytest.fixture
def desk(link: FakeLink) -> Iterator[ReportDesk]:
    one = ReportDesk(cast(GatewayLink, link))
    yield one
    one.close()


async def read(desk: ReportDesk) -> bytes:
    return b"".join([piece async for piece in desk.pieces()])


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


async def test_from_the_question_to_the_answer(desk: ReportDesk, link: FakeLink) -> None:
    assert desk.shown() is None
    assert await read(desk) == b""
    assert desk.start("verify", data=True) == 1
    assert link.posted == [{"type": "report", "rid": 1, "kind": "verify", "data": True}]
    shown = desk.shown()
    assert shown is not None
    assert (shown["number"], shown["kind"], shown["running"]) == (1, "verify", True)
    assert await read(desk) == b""
    link.report(1, b"lines\n" * 1_000_000)
    assert desk.shown() == shown | {"running": False}
    assert await read(desk) == await read(desk) == b"lines\n" * 1_000_000


async def test_one_at_a_time(desk: ReportDesk, link: FakeLink) -> None:
    desk.start("verify")
    with pytest.raises(Refused, match=r"report 1 \(verify\) is being made"):
        desk.start("dry-run")
    link.report(1, b"1\n")
    assert desk.start("dry-run") == 2
    assert await read(desk) == b"", "what was asked for before is no answer to this"
    link.report(1, b"1\n")
    assert await read(desk) == b""
    link.report(2, b"2\n")
    assert await read(desk) == b"2\n"


async def test_a_reader_keeps_what_it_began_with(desk: ReportDesk, link: FakeLink) -> None:
    desk.start("verify")
    link.report(1, b"1" * (3 << 20))
    async with aclosing(desk.pieces()) as pieces:
        found = await anext(pieces)
        desk.start("verify")
        link.report(2, b"2")
        found += b"".join([piece async for piece in pieces])
    assert found == b"1" * (3 << 20)
    assert await read(desk) == b"2"


async def test_no_report_without_home_or_gateway(desk: ReportDesk, link: FakeLink) -> None:
    link.home = HomeView(link=Link.UNMOUNTED, reason="no marker")
    with pytest.raises(Refused, match=r"\(no marker\)") as refused:
        desk.start("verify")
    assert refused.value.errno == errno.EHOSTDOWN
    assert desk.shown() is None


async def test_a_gateway_that_ends(desk: ReportDesk, link: FakeLink) -> None:
    desk.ended()
    desk.start("verify")
    desk.ended()
    shown = desk.shown()
    assert shown is not None
    assert (shown["running"], shown["errno"]) == (False, errno.EIO)
    assert shown["reason"] == "the gateway ended"
    assert await read(desk) == b""
    assert desk.start("verify") == 2


async def test_a_failed_report(desk: ReportDesk, link: FakeLink) -> None:
    desk.start("verify")
    link.report(1, code=errno.EHOSTDOWN, reason="gone")
    shown = desk.shown()
    assert shown is not None
    assert (shown["running"], shown["errno"], shown["reason"]) == (False, errno.EHOSTDOWN, "gone")


async def test_cancelling(desk: ReportDesk, link: FakeLink) -> None:
    with pytest.raises(Refused):
        desk.cancel()
    desk.start("verify")
    assert desk.cancel() == 1
    assert link.posted[-1] == {"type": "cancel_report", "rid": 1}
    link.report(1, code=errno.ECANCELED)
    with pytest.raises(Refused):
        desk.cancel()


async def test_no_descriptor_is_left_open(desk: ReportDesk, link: FakeLink) -> None:
    (nobody_asked,) = link.report(1)
    assert not is_open(nobody_asked)
    desk.start("verify")
    (kept,) = link.report(1)
    assert is_open(kept)
    desk.start("verify")
    assert not is_open(kept)
