"""Home as a place of work: what all that is done there shares, and how it is made durable."""

from __future__ import annotations

import errno
from typing import Any

from afmfs.gateway.home.contact import Contact
from afmfs.gateway.home.home import Home
from afmfs.gateway.home.trouble import gone
from afmfs.gateway.job.draining import FORGIVING
from afmfs.gateway.replay.work import Work
from afmfs.gateway.state.journal import Journal
from afmfs.gateway.state.locate import Locator
from afmfs.gateway.state.progress import Progress
from afmfs.gateway.state.view import View


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
        self.wary = False  # home had no room for what it had taken: files are synced one by one

    def work(self, home: Home) -> Work:
        """What all actions of a batch at an open home share."""
        return Work(
            home=home,
            view=self._view,
            journal=self._journal,
            progress=self._progress,
            locator=Locator(self._view, self._progress.executed, self._progress.forgotten),
            doubt=False,
            forgiving=self._journal.get(FORGIVING) or 0,
            sync_files=self._sync == "file"
            or self.wary
            or (self._sync == "batch" and home.properties.is_fuse),
            xattrs=self._xattrs,
            pulse=self._contact.pulse,
        )

    def sync(self, home: Home) -> None:
        """All that was done is on home's stable storage. HomeAway: all of it is in doubt."""
        try:
            if self._sync == "none":
                home.move_on()
            else:
                home.sync()
        except OSError as exc:
            # What was written since the last sync may be lost. By file, home says what it has no
            # room for, and only that waits.
            self.wary = exc.errno in (errno.ENOSPC, errno.EDQUOT)
            raise gone("home can't be synced", exc.errno) from exc
        self._contact.era.reached = home.reached
