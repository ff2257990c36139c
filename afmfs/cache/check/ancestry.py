"""Whether directories lead up to the root, or in a circle."""

from __future__ import annotations

from afmfs.cache.check.source import Source
from afmfs.model.entry import ROOT, UNLINKED

KEPT = 1_000_000
"""Directories that are remembered as leading to the root; then it begins anew."""


class Ancestry:
    def __init__(self, source: Source) -> None:
        self._source = source
        self._sound = {ROOT, UNLINKED}
        self._loops: set[int] = set()  # directories in a circle that was told of

    def is_in_loop(self, ino: int, parent: int) -> bool:
        """Whether the directory is the first one seen of a circle. What is below a circle, or below
        a directory without a name, is not: it comes right with that."""
        way, above = [ino], parent
        while above not in self._sound and above not in self._loops:
            if above in way:
                circle = way[way.index(above) :]
                self._loops.update(circle)
                return ino in circle
            way.append(above)
            row = self._source.execute(
                "SELECT parent FROM dentry WHERE ino=? ORDER BY parent, cookie LIMIT 1", (above,)
            ).fetchone()
            if row is None:
                break
            above = row[0]
        if len(self._sound) > KEPT:
            self._sound = {ROOT, UNLINKED}
        if above in self._sound:
            self._sound.update(way)
        return False
