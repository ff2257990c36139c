"""Home as a place of work: what all that is done there shares, and how it is made durable."""

from __future__ import annotations

import errno
from collections.abc import Set
from typing import Any

from afmfs.gateway.home.connection import Connection, Judge
from afmfs.gateway.home.contact import Contact
from afmfs.gateway.home.home import Home
from afmfs.gateway.home.trouble import gone
from afmfs.gateway.replay.work import FORGIVING, Work
from afmfs.gateway.state.journal import Journal
from afmfs.gateway.state.locate import Locator
from afmfs.gateway.state.progress import Progress
from afmfs.gateway.state.view import View

_OF_FILES = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO})
"""What home may say of one file only when that is synced."""


class Site:
    def __init__(
        self,
        view: View,
        journal: Journal,
        progress: Progress,
        contact: Contact,
        tunables: dict[str, Any],
    ) -> None:
        self._view, self._journal, self._progress = view, journal, progress
        self._contact = contact
        self._sync = str(tunables.get("home_sync", "batch"))
        self._xattrs = bool(tunables.get("xattrs", False))
        self.wary = False  # home could not keep what it had taken: files are synced one by one

    def work(self, home: Home, connection: Connection | None = None) -> Work:
        """What all actions of a batch at an open home share. With its `connection`, what fails with
        an input/output error is put off where home as a whole answers."""
        work = Work(
            home=home,
            view=self._view,
            journal=self._journal,
            progress=self._progress,
            locator=Locator(self._view, self._progress.executed, self._progress.forgotten),
            doubt=False,
            forgiving=self._journal.get(FORGIVING) or 0,
            sync_files=self._syncs_files(home),
            xattrs=self._xattrs,
            pulse=self._contact.pulse,
        )
        if connection is not None:
            work.judge = Judge(connection, home)
        return work

    def _syncs_files(self, home: Home) -> bool:
        by_file = self._sync == "file" or self.wary
        return by_file or (self._sync == "batch" and home.properties.is_fuse)

    def sync(self, home: Home, told: Set[int] = frozenset()) -> None:
        """All that was done is on home's stable storage. HomeAway: all of it is in doubt.

        `told`: the errors of what is put off."""
        try:
            if self._sync == "none":
                home.move_on()
            else:
                self._sync_all(home, told)
        except OSError as exc:
            # What was written since the last sync may be lost. By file, home says what it can't
            # keep, and only that waits.
            self.wary = exc.errno in _OF_FILES
            raise gone("home can't be synced", exc.errno) from exc
        self._contact.era.reached = home.reached

    def _sync_all(self, home: Home, told: Set[int]) -> None:
        try:
            home.sync()
        except OSError as exc:
            # A file that was synced by itself has said so; the whole repeats it, once.
            if not (self._syncs_files(home) and exc.errno in told & _OF_FILES):
                raise
            home.sync()
