"""Where home holds an inode now: its derived name, and the path that leads there.

Home's name of an inode is its present name, unless an entry of it that is not executed yet says
otherwise; likewise for each directory above it (names-executed).
"""

from __future__ import annotations

from collections.abc import Callable

from afmfs.gateway.home.home import UNLINKED as UNLINKED_PATH
from afmfs.gateway.home.walk import Path
from afmfs.gateway.state.view import View
from afmfs.model.action import Place
from afmfs.model.entry import ROOT, UNLINKED
from afmfs.model.names import home_places

MAX_DEPTH = 4096
"""Directories above one another; more is a cycle in a damaged table."""


class InDoubt(Exception):
    """A name depends on an entry that home may or may not have seen."""


class Locator:
    """Paths of one batch or one fetch. Directories found are remembered until `forget`.

    `executed` says of an entry whether home has seen it; `forgotten` changes when outcomes are
    forgotten (see `Journal.forgotten`); `in_doubt` of which entries it can't be said.
    """

    def __init__(
        self,
        view: View,
        executed: Callable[[int], bool],
        forgotten: Callable[[], int] = lambda: 0,
        in_doubt: Callable[[int], bool] = lambda entry: False,
    ) -> None:
        self._view, self._executed, self._forgotten = view, executed, forgotten
        self._in_doubt = in_doubt
        self._paths: dict[int, Path] = {ROOT: (), UNLINKED: UNLINKED_PATH}

    def forget(self) -> None:
        """A directory was moved, or is gone."""
        self._paths = {ROOT: (), UNLINKED: UNLINKED_PATH}

    def places(self, ino: int) -> list[Place]:
        """The names that home has for the inode now, in a fixed order."""
        while True:
            # A row read before its retirement and asked about after its outcome is forgotten would
            # count as not executed.
            before = self._forgotten()
            with self._view.snapshot():
                present = set(self._view.names(ino))
                entries = self._view.name_entries(ino)
            todo = [e for e in entries if not self._executed(e.id)]
            if self._forgotten() == before:
                break
        if any(self._in_doubt(e.id) for e in todo):
            raise InDoubt(ino)
        return sorted(home_places(ino, present, todo) if todo else present)

    def directory(self, ino: int) -> Path | None:
        """The path of a directory at home; None if home has no name for it."""
        below: list[tuple[int, bytes]] = []
        at = ino
        while (path := self._paths.get(at)) is None:
            places = self.places(at)
            if not places or len(below) > MAX_DEPTH:
                return None
            below.append((at, places[0][1]))
            at = places[0][0]
        for inner, name in reversed(below):
            path = (*path, name)
            self._paths[inner] = path
        return path

    def paths(self, ino: int) -> list[tuple[Path, bytes]]:
        """For each name that home has for the inode: the directory's path, and the name in it."""
        found = []
        for parent, name in self.places(ino):
            path = self.directory(parent)
            if path is not None:
                found.append((path, name))
        return found
