"""Long reports: awaited, and read line by line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from afmfs.admin.access import Access
from afmfs.admin.find import Mount, read_status
from afmfs.admin.flush import Clock
from afmfs.admin.request import Failure
from afmfs.admin.spinner import spinner
from afmfs.admin.wait import pauses

Row = dict[str, Any]


def rows(name: str, number: int, mount: Mount, access: Access) -> Iterator[Row]:
    """The rows of report `number`, once it is made; the last one has the key "summary".

    Failure, in the name of the command, where it can't be made.
    """
    _await(name, number, mount, access)
    buffer, last = b"", Row()
    for chunk in access.chunks(mount.path("report")):
        *lines, buffer = (buffer + chunk).split(b"\n")
        for last in map(json.loads, lines):
            yield last
    # Who asks for another report meanwhile gets it in place of this one.
    if last.get("summary") is None or last.get("report") != number:
        raise Failure(f"{name}: the report was replaced by another one; try again")


def _await(name: str, number: int, mount: Mount, access: Access) -> None:
    clock = Clock()
    with spinner(f"{name}: report {number} is being made") as turn:
        for pause in pauses():
            report = read_status(mount, access).report
            if report is None or report["number"] != number:
                raise Failure(f"{name}: the report was replaced by another one; try again")
            if report["errno"]:
                raise Failure(f"{name}: {report['reason'] or report['errno']}")
            if not report["running"]:
                return
            turn()
            clock.sleep(pause)
