"""What the mount process asks of home's trash: restore, and empty.

One request at a time, in a thread beside the replay. A restore is answered in steps: the next
request says up to which entry the mount process has durably taken in what it was told.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from afmfs.gateway.home.contact import Contact
from afmfs.gateway.home.trouble import HomeAway, Verb, classify
from afmfs.gateway.job.priority import Priority
from afmfs.gateway.protocol import LIMIT, Message, encode
from afmfs.gateway.state.journal import Journal
from afmfs.gateway.trash.book import MOVED, RESTORED, RESTORING, TrashBook, Trashed
from afmfs.gateway.trash.emptying import Emptied, empty, jobs_in_trash
from afmfs.gateway.trash.refill import Refused, Row
from afmfs.gateway.trash.restore import Restorer

log = logging.getLogger(__name__)

ROWS = 32
ROOM = LIMIT // 2
"""Entries, and their bytes, from which on a message is full."""

ALL = 0
"""In the place of a job's number."""


class TrashRequests:
    def __init__(
        self,
        journal: Journal,
        book: TrashBook,
        contact: Contact,
        priority: Priority,
        restorer: Restorer,
        send: Callable[[Message], None],
    ) -> None:
        self._journal, self._book, self._contact = journal, book, contact
        self._priority, self._restorer, self._send = priority, restorer, send
        self._pool = ThreadPoolExecutor(1, "trash")
        self._busy = False

    def submit(self, message: Message) -> None:
        """Serve a "restore" or "empty" request in the thread."""
        self._pool.submit(self._serve, message)

    def stop(self) -> bool:
        """Whether nothing is under way."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        return not self._busy

    def _serve(self, message: Message) -> None:
        answer = "restored" if message["type"] == "restore" else "emptied"
        reply: Message = {"type": answer, "rid": message["rid"], "errno": 0}
        self._busy = True
        try:
            reply |= self._restore(message) if answer == "restored" else self._empty(message["job"])
        except HomeAway as trouble:
            reply |= {"errno": errno.EHOSTDOWN, "reason": str(trouble)}
        except Refused as exc:
            reply |= {"errno": errno.EBUSY, "reason": str(exc)}
        except Exception as exc:
            log.exception("%s: unexpected", message["type"])
            reply |= {"errno": errno.EIO, "reason": f"unexpected: {exc}"}
        finally:
            self._busy = False
        self._send(reply)

    # -- restoring -------------------------------------------------------------------------------

    def _restore(self, message: Message) -> Message:
        """The next entries after the number `after`; `next` is None when there are no more."""
        job, path, after = message["job"], message["path"], int(message.get("after") or 0)
        for row in self._book.untaken(after):
            if row.job == job and _below(row.path, path):
                self._restorer.taken(row)
        told: list[Row] = []
        last, room = None, ROOM
        for row in self._book.rows(job, after):
            if not (_below(row.path, path) and self._wanted(row, path)):
                continue
            told.append(self._one(row))
            last = row.number
            room -= len(encode({"type": "", "entry": told[-1]}))
            if room < 0 or len(told) == ROWS:
                break
        return {"entries": told, "next": last}

    def _wanted(self, row: Trashed, path: bytes | None) -> bool:
        """What was restored before is told of only where it was asked for by its name."""
        if row.state == RESTORED:
            return row.path == path or self._book.destination(row.number) is not None
        return row.state in (MOVED, RESTORING)

    def _one(self, row: Trashed) -> Row:
        said: Row = {"number": row.number, "path": row.path, "why": row.why}
        try:
            return said | self._restorer.restore(row)
        except Refused as exc:
            return said | {"reason": str(exc)}

    # -- emptying --------------------------------------------------------------------------------

    def _empty(self, job: int) -> Message:
        done = Emptied()
        with self._contact.opened() as (connection, home):
            try:
                wanted = [job]
                known = {row.job for row in self._book.rows()} | {*jobs_in_trash(home)}
                if job == ALL:
                    wanted = sorted(known)
                elif job not in known:
                    return {"errno": errno.ENOENT, "reason": f"there is nothing of ID {job}"}
                running = self._priority.job
                if running is not None and running.id in wanted:
                    if job != ALL:
                        raise Refused(f"{running.kind} {job} is running")
                    wanted.remove(running.id)
                for one in wanted:
                    done.left = set()
                    empty(home, one, done, self._contact.pulse)
                    self._book.thrown_away(one, {int(n) for n in done.left if n.isdigit()})
            except OSError as exc:
                trouble = classify(exc, b"", Verb.REMOVE, properties=home.properties)
                trouble = connection.judge(home, trouble)
                if isinstance(trouble, HomeAway):
                    raise trouble from exc
                done.meet(exc)
            connection.check(home)
        reply: Message = {"count": done.count, "bytes": done.size}
        if done.problem is not None:
            reply |= {"errno": done.problem.errno or errno.EIO, "reason": done.problem.strerror}
        return reply


def _below(path: bytes, wanted: bytes | None) -> bool:
    return wanted is None or path == wanted or path.startswith(wanted + b"/")
