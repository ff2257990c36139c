"""How the states of filesets are shown."""

from __future__ import annotations

import sys

from afmfs.admin.request import Request, emit
from afmfs.cache.command.commands import STATS
from afmfs.cache.report.status import Status, render_json, render_state
from afmfs.cache.report.write_stats import render_write_stats


def show_state(request: Request, statuses: list[Status]) -> None:
    """One fileset as JSON is the object of its status.json, several are a list of them."""
    if not request.as_json:
        render = render_write_stats if STATS in request.flags else render_state
        emit(render(statuses))
    elif len(statuses) == 1:
        emit(render_json(statuses[0]))
    else:
        emit("[" + ",\n".join(render_json(s).rstrip() for s in statuses) + "]\n")
    for one in statuses:
        if one.trouble:  # the table is AFM's, and read by programs
            emit(f"{one.fileset}: {one.state}: {one.reason}\n", sys.stderr)
