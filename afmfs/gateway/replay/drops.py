"""Entries that an administrator wants to be rid of: home will never have their changes."""

from __future__ import annotations

from collections import deque

from afmfs.gateway.protocol import Message
from afmfs.gateway.replay.exchange import half_done, where
from afmfs.gateway.replay.landing import Landing
from afmfs.gateway.replay.steps import Steps
from afmfs.gateway.state.journal import DROPPED, Outcome

_HALF_DONE = (
    "home has done half of the exchange, and has one of the two in {}:"
    " let it be finished (`queue` says what home refuses), with `resumeRequeued`"
)
"""Dropped, both would count as being where they were, and what home alone has of one as lost."""


class Drops:
    """Asked for by any thread, served by the replay's."""

    def __init__(self, steps: Steps) -> None:
        self._steps = steps
        self._wanted: deque[tuple[int, int]] = deque()

    def ask(self, rid: int, entry: int) -> None:
        self._wanted.append((rid, entry))

    def serve(self, landing: Landing | None, *, strange: bool) -> bool:
        """Drop what can be, and answer; whether anything was. Not what is executed and `landing`,
        nor anything as long as the cache has not taken note of a `strange` journal."""
        dropped = False
        while self._wanted:
            rid, entry = self._wanted.popleft()
            reply = self._drop(entry, landing, strange)
            dropped |= reply["ok"]
            self._steps.send({"type": "dropped", "rid": rid} | reply)
        return dropped

    def _drop(self, entry: int, landing: Landing | None, strange: bool) -> Message:
        journal, rows = self._steps.journal, self._steps.view.entries([entry])
        busy = journal.in_flight(entry) and entry not in journal.requeued()
        if busy or strange or (landing is not None and entry in landing.executed):
            return {"ok": False, "reason": "the entry is being executed, or may have been"}
        if not rows:
            return {"ok": False, "reason": "there is no such entry"}
        if entry in half_done(journal):
            return {"ok": False, "reason": _HALF_DONE.format(where(entry))}
        journal.land([Outcome(entry, rows[0].ino, None, DROPPED)])
        self._steps.progress.unmark([entry])
        self._steps.say_outcomes()
        return {"ok": True}
