"""The lock of a cache: one mount at a time, and a message that names the one that has it."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from afmfs.cache.content.recovery import boot_id, mount_id
from afmfs.errors import Refused


def machine_id() -> str:
    try:
        return Path("/etc/machine-id").read_text().strip()
    except OSError:
        return socket.gethostname()


END_S = 12.0
"""So long a mount that has been unmounted may take to end, at most."""

NOTICE_S = 1.0
"""And so long to notice it: the kernel tells of it when umount(2) has returned."""


def _was_killed(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


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
        self._mounts = mounts
        self._fd = os.open(cache / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        begun = time.monotonic()
        while not self._taken():
            limit = END_S if self._owner().get("ending") else NOTICE_S
            if time.monotonic() - begun > limit:
                reason = self._reason()
                os.close(self._fd)
                raise Refused(reason)
            time.sleep(0.05)
        self.last = last_place(cache)  # before this one
        self._write()

    def _taken(self) -> bool:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def ending(self) -> None:
        """The mount is gone, and its process ends within a time: who wants the cache next, as
        after `umount` in a script, waits for that. OSError if it can't be said."""
        self._write(ending=True)

    def _write(self, *, ending: bool = False) -> None:
        me = psutil.Process()
        place = Place(boot_id(), mount_id(self._cache)) if self._mounts else self.last
        record = {
            "machine_id": machine_id(),
            "boot_id": boot_id(),
            "pid": me.pid,
            "started": me.create_time(),
            "host": socket.gethostname(),
            "place": place,
            "ending": ending,
        }
        # On a full disk what is not given up can be written over.
        data = json.dumps(record).encode()
        os.pwrite(self._fd, data, 0)
        os.ftruncate(self._fd, len(data))

    def _owner(self) -> dict[str, Any]:
        """What the process that has the lock says of itself; {} if that can't be read."""
        try:
            record = json.loads(os.pread(self._fd, 4096, 0))
        except ValueError:
            return {}
        return record if isinstance(record, dict) else {}

    def _reason(self) -> str:
        owner = self._owner()
        try:
            pid, by = int(owner["pid"]), f" by process {int(owner['pid'])} on {owner['host']}"
        except (ValueError, KeyError, TypeError):
            pid, by = 0, ""
        if owner.get("host") == socket.gethostname() and _was_killed(pid):
            # A thread of it waits in the kernel for an answer that it was to give itself.
            return (
                f"the cache {self._cache} is in use{by}, which was killed and can't end: give it up"
                " with umount -f of its mount point; what was acknowledged is in the cache"
            )
        return (
            f"the cache {self._cache} is in use{by}: unmount it there, or give this mount a cache"
            " of its own with -o cache=DIR"
        )

    def close(self) -> None:
        os.close(self._fd)
