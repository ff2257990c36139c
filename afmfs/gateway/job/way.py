"""The directories that lead to what a job has to do with at home."""

from __future__ import annotations

from afmfs.gateway.home.trouble import HomeAway, Verb
from afmfs.gateway.replay.work import Work
from afmfs.gateway.state.locate import MAX_DEPTH
from afmfs.model.action import Place
from afmfs.model.entry import ROOT, UNLINKED


def way_to(work: Work, ino: int) -> list[tuple[int, Place]]:
    """A directory and those above it, from the top: inode, and place at home. Empty if home has no
    name for one of them."""
    way = list[tuple[int, Place]]()
    while ino not in (ROOT, UNLINKED):
        places = work.locator.places(ino)
        if not places or len(way) > MAX_DEPTH:
            return []
        way.append((ino, places[0]))
        ino = places[0][0]
    return way[::-1]


def make_way(work: Work, ino: int) -> None:
    """Make the directories above an object that home lacks, and that have no row of their own any
    more: they were new, and are removed here since. Entries that follow move the object out of
    them, and remove them. HomeAway."""
    for parent, _ in work.locator.places(ino):
        for directory, place in way_to(work, parent):
            if work.view.row(directory) is not None:
                continue
            try:
                work.home.make_dir(work.directory(place[0]), place[1])
                work.touched.add(place[0])
            except FileExistsError:
                continue
            except OSError as exc:  # whoever looks at the object meets it again
                trouble = work.trouble(exc, place, Verb.MAKE)
                if isinstance(trouble, HomeAway):
                    raise trouble from exc
                return
