"""What home has seen, as all threads of the gateway share it.

The journal knows what is recorded; this adds the batch that is being executed, or waits for the
durable point after which its outcomes may be recorded. All of it is lost with the process: then the
batch is in doubt.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from afmfs.gateway.home.home import Home
from afmfs.gateway.home.stamp import Stamp
from afmfs.gateway.state.journal import Journal
from afmfs.model.entry import CONTENT_OPS, Entry


class Progress:
    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.names = Rooms(self._doubt)
        self._turns = Rooms()
        self.settle: Callable[[Home], None] = lambda home: None
        """What has to be done at home before anything is replayed to it."""
        self._running: frozenset[int] = frozenset()
        self._doubting = False  # whether what runs may have been executed before
        self._done: set[int] = set()  # executed, not recorded
        self._stamps: dict[int, Stamp] = {}  # of what is executed and not recorded
        self._running_stamps: dict[int, Stamp] = {}
        self._marks: dict[int, int] = {}  # content entries in flight: their inodes
        self._pushing: dict[int, int] = {}  # inodes in `_marks` or restored: how often
        self._lock = threading.Lock()
        self.doubt_through: float = 0
        """Entries up to this one may have been executed, and the journal does not know."""

    # -- questions, from any thread --------------------------------------------------------------

    def executed(self, entry: int) -> bool:
        return entry in self._done or self.journal.executed(entry)

    def forgotten(self) -> int:
        return self.journal.forgotten

    def in_doubt(self, entry: int) -> bool:
        """Whether home may or may not have seen the entry. One that is being settled may have been
        executed before: it is in doubt until that is done."""
        if entry in self._done:
            return False
        if entry in self._running:
            return self._doubting
        if self.journal.in_flight(entry):
            return True
        return entry <= self.doubt_through and not self.journal.executed(entry)

    def stamp(self, ino: int) -> Stamp | None:
        """The version that we made last, as long as cache.db may not know of it."""
        made = self._running_stamps.get(ino) or self._stamps.get(ino)
        return made or self.journal.stamp(ino)

    def is_pushing(self, ino: int) -> bool:
        """Whether the inode's version at home is anybody's guess: its own push is under way, or
        was interrupted, or it is being restored."""
        return ino in self._pushing

    # -- turns -----------------------------------------------------------------------------------

    @contextmanager
    def replaying(self, home: Home) -> Iterator[None]:
        """Held for one batch, or one step of a job: no file is restored meanwhile."""
        with self._turns.looking():
            self.settle(home)
            yield

    @contextmanager
    def restoring(self) -> Iterator[None]:
        """Held while one file is restored: nothing is replayed meanwhile, which would find it
        changed."""
        with self._turns.moving():
            yield

    def mark_restored(self, ino: int, change: int) -> None:
        """An inode's content is being restored (1), or is not any more (-1): its version at home is
        anybody's guess."""
        with self._lock:
            count = self._pushing.get(ino, 0) + change
            if count:
                self._pushing[ino] = count
            else:
                self._pushing.pop(ino, None)

    # -- changes, by the replay ------------------------------------------------------------------

    def begin(self, entries: Iterable[int], *, doubt: bool) -> None:
        self._doubting = doubt  # first: who asks must not hear that they are certain
        self._running = frozenset(entries)

    def _doubt(self) -> None:
        """A move has failed: home may have done it, and nobody heard of it. The rest of the batch
        may take long yet, and it is only then that all of it is in doubt."""
        self._doubting = True

    def mark(self, entries: Iterable[Entry]) -> None:
        """These are in flight: the files whose bytes they change are being pushed from now on."""
        with self._lock:
            for entry in entries:
                if entry.op in CONTENT_OPS and entry.id not in self._marks:
                    self._marks[entry.id] = entry.ino
                    self._pushing[entry.ino] = self._pushing.get(entry.ino, 0) + 1

    def unmark(self, entries: Iterable[int]) -> None:
        """These are not in flight any more."""
        with self._lock:
            for entry in entries:
                ino = self._marks.pop(entry, None)
                if ino is not None:
                    self._pushing[ino] -= 1
                    if not self._pushing[ino]:
                        del self._pushing[ino]

    def finish(self, entries: Iterable[int], ino: int, stamp: Stamp | None) -> None:
        """An action is executed. The stamp first: who sees it executed must see its version."""
        if stamp is not None:
            self._running_stamps[ino] = stamp
        self._done.update(entries)

    @property
    def running(self) -> frozenset[int]:
        return self._running

    def end(self) -> None:
        """The running batch is done and synced; it waits for its outcomes to be recorded."""
        self._stamps.update(self._running_stamps)
        self._running_stamps = {}
        self._running = frozenset()

    def break_off(self) -> None:
        """Home went away: what the running batch did is in doubt again."""
        self._running_stamps = {}
        self._done -= self._running
        self._running = frozenset()

    def recorded(self, entries: Iterable[int]) -> None:
        """The outcomes are in the journal, which answers for them from now on."""
        self._done.difference_update(entries)
        self._stamps.clear()


class Rooms:
    """Many may look for names, or many may move names, but not both at once.

    Who looks must not be overtaken between asking what home's name is and opening it; movers don't
    exclude each other, as what is executed side by side does not depend on each other. Both sides
    are fair: who waits keeps new ones of the other side out.
    """

    LOOKING, MOVING = 0, 1

    def __init__(self, failed: Callable[[], None] = lambda: None) -> None:
        """`failed` is called when a move has, before anybody may look."""
        self._failed = failed
        self._changed = threading.Condition()
        self._inside = [0, 0]
        self._waiting = [0, 0]
        self._turn = self.LOOKING  # whose turn it is when both sides wait

    def looking(self) -> _Room:
        return _Room(self, self.LOOKING)

    def moving(self) -> _Room:
        return _Room(self, self.MOVING)

    def enter(self, side: int) -> None:
        other = 1 - side
        with self._changed:
            self._waiting[side] += 1
            try:
                while self._inside[other] or (self._waiting[other] and self._turn == other):
                    self._changed.wait()
            finally:
                self._waiting[side] -= 1
            self._inside[side] += 1
            self._turn = other if self._waiting[other] else self._turn

    def leave(self, side: int, *, failed: bool = False) -> None:
        if failed and side == self.MOVING:
            self._failed()
        with self._changed:
            self._inside[side] -= 1
            if not self._inside[side]:
                self._turn = 1 - side
                if self._waiting[0] or self._waiting[1]:
                    self._changed.notify_all()


class _Room:
    __slots__ = ("_rooms", "_side")

    def __init__(self, rooms: Rooms, side: int) -> None:
        self._rooms, self._side = rooms, side

    def __enter__(self) -> None:
        self._rooms.enter(self._side)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._rooms.leave(self._side, failed=kind is not None)
