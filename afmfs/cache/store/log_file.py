"""Whether the log of cache.db has lost transactions that a kill had left in it.

SQLite takes what is readable of a log, from its beginning on, and has no word for the rest: after a
loss of power that is as it should be. After a kill on the same boot it is damage. The index of the
log (cache.db-shm) outlives the processes, and says how many frames there were; the first to open
the database makes it anew. So it is read before and after.
"""

from __future__ import annotations

import sqlite3
import struct
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import NamedTuple

from afmfs.cache.content.harm import Note, read_note, write_note
from afmfs.cache.content.recovery import boot_id, mount_id
from afmfs.cache.store.lock import Place
from afmfs.cache.store.store import connect_read_only

CUT = "cache.db-wal was cut off, or was deleted"

_HEADER = struct.Struct("=III BBH I")  # version, -, changes, is valid, -, size of pages, frames
_MOVED = 96
"""Where the index says how many frames have been moved into the database."""


class LogIndex(NamedTuple):
    frames: int = 0
    moved: int = 0


def read_index(cache: Path) -> LogIndex:
    """What the index says now; of one that is missing, or not valid, nothing."""
    try:
        with (cache / "cache.db-shm").open("rb") as file:
            data = file.read(_MOVED + 4)
    except FileNotFoundError:
        return LogIndex()
    if len(data) < _MOVED + 4 or data[:48] != data[48:96]:
        return LogIndex()
    *_, valid, _, _, frames = _HEADER.unpack_from(data)
    (moved,) = struct.unpack_from("=I", data, _MOVED)
    return LogIndex(frames, moved) if valid else LogIndex()


def note_loss(cache: Path, last: Place | None) -> None:
    """Take note of a log that was cut off. Nobody has the database open, or did since the kill;
    `last` is where it was mounted then."""
    before, path = read_index(cache), cache / "cache.db"
    if before.moved >= before.frames or last != Place(boot_id(), mount_id(cache)):
        return
    if not path.exists() or read_note(cache) is not None:
        return
    with suppress(sqlite3.DatabaseError), closing(connect_read_only(path)) as db:
        db.execute("SELECT count(*) FROM fileset").fetchone()
        if read_index(cache).frames < before.frames:
            write_note(cache, Note(CUT, True, time.time_ns()))
