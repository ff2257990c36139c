"""The lock of a cache: one mount at a time, and a message that names the one that has it."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from pathlib import Path
from typing import NamedTuple

import psutil

from afmfs.cache.content.recovery import boot_id, mount_id
from afmfs.errors import Refused


def machine_id() -> str:
    try:
        return Path("/etc/machine-id").read_text().strip()
    except OSError:
        return socket.gethostname()


class Place(NamedTuple):
    """Where a cache was mounted last: what was written there is there, unless either changes."""

    boot_id: str
    mount_id: int  # of the cache's file system


def last_place(cache: Path) -> Place | None:
    """None where it is not known."""
    try:
        record = json.loads((cache / "lock").read_bytes())
        return Place(*record["place"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


class CacheLock:
    """flock on CACHE/lock, whose content says who holds it. It ends with the process. `mounts`:
    for a mount, which will write to the cache."""

    def __init__(self, cache: Path, *, mounts: bool = True) -> None:
        self._cache = cache
        self.last = last_place(cache)  # before this one
        self._mounts = mounts
        self._fd = os.open(cache / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = self._owner()
            os.close(self._fd)
            raise Refused(
                f"the cache {cache} is in use{owner}: unmount it there, or give this mount a cache"
                " of its own with -o cache=DIR"
            ) from None
        self._write()

    def _write(self) -> None:
        me = psutil.Process()
        place = Place(boot_id(), mount_id(self._cache)) if self._mounts else self.last
        record = {
            "machine_id": machine_id(),
            "boot_id": boot_id(),
            "pid": me.pid,
            "started": me.create_time(),
            "host": socket.gethostname(),
            "place": place,
        }
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, json.dumps(record).encode(), 0)

    def _owner(self) -> str:
        try:
            record = json.loads(os.pread(self._fd, 4096, 0))
            return f" by process {int(record['pid'])} on {record['host']}"
        except (ValueError, KeyError, TypeError):
            return ""

    def close(self) -> None:
        os.close(self._fd)
