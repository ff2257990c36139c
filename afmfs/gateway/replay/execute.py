"""Executing one batch at an open home: names, then content, then the directories' times.

What was done is kept in `Progress` action by action, for the fetches that run beside it. Nothing is
recorded here and home is not synced: a batch counts as executed only when its caller has seen that
all of it, the sync included, lay within one connection.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
import threading
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, field
from time import perf_counter
from typing import TypeVar

from afmfs.gateway.home.trouble import HomeAway, Inconsistent, MayEnd, Unclear, Unrepresentable
from afmfs.gateway.home.walk import Path
from afmfs.gateway.replay.naming import Namer
from afmfs.gateway.replay.pushing import Pusher
from afmfs.gateway.replay.work import Contradicted, Done, Failed, Work
from afmfs.gateway.state.view import Row
from afmfs.gateway.threads import Threads
from afmfs.model.action import Action, Batch, Make, NameAction, Push
from afmfs.model.entry import ROOT, UNLINKED
from afmfs.model.order import Dependence, levels, moves_trees

_A = TypeVar("_A", Push, NameAction)

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Result:
    """What became of a batch's actions. What is in none of them was not begun."""

    done: list[tuple[Action, Done]] = field(default_factory=list)
    failed: list[tuple[Action, Failed]] = field(default_factory=list)
    inconsistent: Inconsistent | None = None
    broken: Action | None = None  # the action that met the inconsistency, if it had begun


class Execution:
    def __init__(self, work: Work, threads: Threads) -> None:
        self.work, self.threads = work, threads
        self.result = Result()
        self._pusher = Pusher(work)
        self._namer = Namer(work, self._pusher)
        self._names: Sequence[NameAction] = ()
        self._dependence: Dependence | None = None  # of these; once one has failed
        self._skipped: set[int] = set()  # first ids of actions that depend on failed ones
        # Objects that home may have under other names than before a change that was cut short.
        self._unsure: set[int] = set()
        self._all_unsure = False
        self._lock = threading.Lock()
        self._away: HomeAway | None = None

    def check(self, batch: Batch) -> None:
        """Inconsistent unless home's files are the versions that are known (stamp-before-mark)."""
        for push in batch.pushes:
            if stat.S_ISREG(push.kind):
                try:
                    self._pusher.check(push)
                except Inconsistent as trouble:
                    if not trouble.missing or self.work.never_held(push) is None:
                        raise
                except (MayEnd, Unrepresentable):
                    pass  # the push itself will meet it, before it writes
                self.work.pulse()

    def run(self, batch: Batch) -> Result:
        """Execute what can be executed. HomeAway: all of it is in doubt."""
        work, self._names = self.work, batch.names
        work.rows = work.view.rows(
            [a.ino for a in batch.names if isinstance(a, Make)] + [a.ino for a in batch.pushes]
        )
        if self.threads.worthwhile:
            for level in levels(batch.names):
                self._run_all(self._namer.execute, level)
        else:
            self._run_all(self._namer.execute, batch.names)
        self._run_all(self._pusher.execute, batch.pushes)
        Directories(work).finish(self._changed())
        return self.result

    def _changed(self) -> set[int]:
        """Directories in which names were executed, and those to which objects were moved by it."""
        failed = {action.ids[0] for action, _ in self.result.failed}
        done = [action for action in self._names if action.ids[0] not in failed | self._skipped]
        return self.work.changed.union(parent for action in done for parent, _ in action.places)

    def _run_all(self, execute: Callable[[_A], Done], actions: Sequence[_A]) -> None:
        self.threads.run(lambda action: self._one(execute, action), actions)
        if self._away is not None:
            raise self._away

    def _one(self, execute: Callable[[_A], Done], action: _A) -> None:
        result = self.result
        if result.inconsistent is not None or self._away or action.ids[0] in self._skipped:
            return
        if isinstance(action, Push) and (self._all_unsure or action.ino in self._unsure):
            return
        start = perf_counter()
        try:
            try:
                done = execute(action)
            except (MayEnd, Failed) as exc:
                if not Directories(self.work).open_up(action, exc):
                    raise
                done = execute(action)
        except Failed as failed:
            self._fail(action, failed)
        except MayEnd as trouble:
            self._fail(action, self.work.refused(action, trouble))
        except Unrepresentable as trouble:
            result.done.append((action, self.work.finish(action, Done(None, trouble.errno))))
        except Inconsistent as trouble:
            self._contradict(action, Contradicted(trouble, partial=False))
        except Contradicted as contradicted:
            self._contradict(action, contradicted)
        except HomeAway as trouble:
            self._away = trouble
        except OSError as exc:
            log.exception("%s: unexpected", action)
            reason = MayEnd(exc.errno or errno.EIO, f"unexpected: {exc}")
            self._fail(action, Failed(reason, partial=True))
        else:
            result.done.append((action, done))
            self.threads.observe(perf_counter() - start)
        self.work.pulse()

    def _fail(self, action: NameAction | Push, failed: Failed) -> None:
        with self._lock:
            self.result.failed.append((action, failed))
            if isinstance(action, Push):
                return
            if failed.partial:
                self._unsure.update(action.inos)
                self._all_unsure |= moves_trees(action)
            if self._dependence is None:
                self._dependence = Dependence(self._names)
            self._skipped |= self._dependence.fail(action)

    def _contradict(self, action: NameAction | Push, contradicted: Contradicted) -> None:
        if contradicted.trouble.missing and self._never_held(action):
            return
        with self._lock:
            if self.result.inconsistent is None:
                self.result.inconsistent = contradicted.trouble
                self.result.broken = action if contradicted.partial else None

    def _never_held(self, action: NameAction | Push) -> bool:
        """Whether home could never hold what the action is about: no wonder that it isn't there.
        Any other trouble says nothing of that: a full home, say, may have room again."""
        code = self.work.never_held(action)
        if code is not None:
            self.result.done.append((action, self.work.finish(action, Done(None, code))))
        return code is not None


class Directories:
    """What is done to directories after what is in them."""

    def __init__(self, work: Work) -> None:
        self.work = work

    def finish(self, changed: Set[int] | None = None) -> None:
        """Times (and modes that were lifted) of the directories in which names changed.

        Nothing depends on it: a directory that isn't there any more, or that home does not let us
        give its times, is left. HomeAway alone is raised; also where names that were executed, in
        one of `changed` (None: in any), can't be made durable.
        """
        touched = self.work.touched - {UNLINKED}
        rows = self.work.view.rows(touched)
        left = self._finish([rows[ino] for ino in sorted(touched) if ino in rows], changed)
        self._finish(left, changed)  # no single error costs them their times

    def _finish(self, rows: Sequence[Row], changed: Set[int] | None) -> list[Row]:
        """Those that met an error of theirs alone."""
        work, left = self.work, []
        for row in rows:
            path, syncing = work.locator.directory(row.ino), False
            if path is None:
                continue
            try:
                self._dress(row, path)
                if work.sync_files:
                    syncing = changed is None or row.ino in changed
                    work.home.sync_directory(path)
            except OSError as exc:
                trouble = work.trouble_of_directory(exc, path)
                trouble = trouble if syncing else work.judge(trouble)
                if isinstance(trouble, HomeAway):
                    raise trouble from exc
                if isinstance(trouble, Unclear):
                    left.append(row)
        return left

    def _dress(self, row: Row, path: Path) -> None:
        home = self.work.home
        if row.ino == ROOT:
            home.set_times(home.readable, row.atime, row.mtime)
            return
        dirfd = home.directory(path[:-1])
        if row.ino in self.work.opened_up:
            home.set_attributes_at(dirfd, path[-1], row.mode, row.uid, row.gid)
        home.set_times_at(dirfd, path[-1], row.atime, row.mtime)

    def open_up(self, action: NameAction | Push, failure: MayEnd | Failed) -> bool:
        """Make directories of ours writable for us, until their times are set; False if that does
        not help. root needs no permission."""
        trouble = failure.trouble if isinstance(failure, Failed) else failure
        if trouble.errno != errno.EACCES or os.geteuid() == 0 or isinstance(action, Push):
            return False
        opened = False
        for parent in {place[0] for place in action.places}:
            path = self.work.locator.directory(parent)
            if path is None or not path or parent in self.work.opened_up:
                continue
            try:
                dirfd = self.work.home.directory(path[:-1])
                st = self.work.home.lstat(dirfd, path[-1])
                if st.st_uid == os.geteuid() and stat.S_ISDIR(st.st_mode):
                    mode = st.st_mode | stat.S_IRWXU
                    self.work.home.set_attributes_at(dirfd, path[-1], mode, st.st_uid, st.st_gid)
                    self.work.opened_up.add(parent)
                    self.work.touched.add(parent)
                    opened = True
            except OSError:
                continue  # the failure stands
        return opened
