"""Which mounts, or which unmounted cache, DEVICE means.

DEVICE is a device's name, a mount point, or a cache directory, and is tried as these in turn.
Mounts are found in the kernel's table, without a touch of any of them: one that hangs must not keep
the others from being steered.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from afmfs import mountinfo
from afmfs.admin.access import READ_SECONDS, Access, Hung
from afmfs.cache.report.status import Status, from_json
from afmfs.mountinfo import FSTYPE, Mounted

LOCKS = "/proc/locks"


class NotFound(Exception):
    """DEVICE, or the fileset, means nothing here; the text says what there is."""


@dataclass(frozen=True, slots=True)
class Mount:
    device: str
    point: str
    number: str  # major:minor
    owner: int = 0  # the user who has mounted it

    @property
    def is_trusted(self) -> bool:
        """Whether what it says may be believed unasked: anybody may mount something of our type,
        and name it as they like."""
        return self.owner in (0, os.geteuid())

    def path(self, name: str) -> str:
        """A file of its control directory."""
        return f"{self.point.rstrip('/')}/.afm/{name}"


@dataclass(frozen=True, slots=True)
class Fileset:
    """A mounted fileset that answered."""

    mount: Mount
    status: Status


@dataclass(slots=True)
class Found:
    """Filesets that answered; mounts that did not, with the reason; or an unmounted cache."""

    filesets: list[Fileset] = field(default_factory=list)
    silent: dict[str, str] = field(default_factory=dict)
    cache: str | None = None


def find(device: str, fileset: str | None, access: Access) -> Found:
    """What DEVICE and `-j` mean. NotFound if nothing."""
    every = mounts()
    chosen = _select(device, every) or _select(access.realpath(device), every)
    if not chosen:
        cache = access.realpath(device)
        if not any(access.exists(f"{cache}/{name}") for name in ("cache.db", "blobs")):
            raise NotFound(
                f"{device!r} is no device, mount point or cache directory; {_list(every)}"
            )
        return _cache(cache, every, access)
    found = Found()
    for mount in chosen:
        _look(mount, found, access)
    return found if fileset is None else _only(fileset, found)


def _select(device: str, every: list[Mount]) -> list[Mount]:
    """By name, else by mount point; as it is written, since looking at a path could hang. What
    another user has mounted, by its mount point alone."""
    named = [m for m in every if m.device == device and m.is_trusted]
    return named or [m for m in every if m.point == os.path.abspath(device)]


def _list(every: list[Mount]) -> str:
    if not every:
        return "no afmfs is mounted here"
    return "mounted: " + ", ".join(f"{m.device} at {m.point}" for m in every)


def _only(fileset: str, found: Found) -> Found:
    kept = [f for f in found.filesets if f.status.fileset == fileset]
    if kept:
        return Found(kept)
    names = ", ".join(f.status.fileset for f in found.filesets) or "none that answers"
    silent = "".join(f"; {text}" for text in found.silent.values())
    raise NotFound(f"no fileset {fileset!r} there, but: {names}{silent}")


def _look(mount: Mount, found: Found, access: Access) -> None:
    try:
        found.filesets.append(Fileset(mount, read_status(mount, access)))
    except (OSError, ValueError, TypeError) as error:
        found.silent[mount.point] = explain(error, mount)


def _cache(cache: str, every: list[Mount], access: Access) -> Found:
    """The mount of a cache directory, or the directory itself."""
    found = Found()
    for mount in every:
        if mount.is_trusted:
            _look(mount, found, access)
    kept = [f for f in found.filesets if os.path.normpath(f.status.cache) == cache]
    if kept:
        return Found(kept)
    owner = lock_owner(f"{cache}/lock")
    if owner is not None:
        silent = "".join(f"; {text}" for text in found.silent.values())
        raise NotFound(f"{cache} is in use by process {owner}, but its mount is not seen{silent}")
    return Found(cache=cache)


def read_status(mount: Mount, access: Access, timeout: float = READ_SECONDS) -> Status:
    """The status of a mount. OSError, Hung; ValueError or TypeError if it says something else."""
    return from_json(access.read(mount.path("status.json"), timeout=timeout))


def explain(error: Exception, mount: Mount) -> str:
    """Why a mount can't be steered, and what to do."""
    point = mount.point
    if isinstance(error, Hung):
        return f"{point} does not answer; its process may be stuck"
    code = error.errno if isinstance(error, OSError) else None
    if code in (errno.ENOTCONN, errno.ECONNABORTED):
        return f"{point} is dead, its process has ended; mount it again, or `umount {point}`"
    if code in (errno.EACCES, errno.EPERM):
        return f"{point}: permission denied; only root and the mount's owner may steer it"
    if code == errno.ENOENT:
        return f"{point} has no control directory: unmounted meanwhile, or covered by another mount"
    return f"{point}: {error}"


# -- the kernel's tables -------------------------------------------------------------------------


def mounts() -> list[Mount]:
    """The afmfs mounts of this mount namespace, each once."""
    return uncovered(mountinfo.mounted())


def uncovered(table: Iterable[Mounted]) -> list[Mount]:
    """The afmfs mounts of all, without bind mounts of them, and without what another covers."""
    on_top = {one.point: one for one in table}
    found: dict[str, Mount] = {}
    for one in on_top.values():
        if one.fstype == FSTYPE and one.root == "/":
            owner = re.search(r"(?:^|,)user_id=([0-9]+)(?:,|$)", one.options)
            user = int(owner[1]) if owner else 0
            found.setdefault(one.device, Mount(one.source, one.point, one.device, user))
    return [*found.values()]


def lock_owner(path: str) -> int | None:
    """The process that holds the flock of a file, None if none.

    Takes no lock itself, not even for a moment: a mount that starts meanwhile would be refused.
    """
    try:
        file = os.stat(path)
        with open(LOCKS, encoding="ascii") as locks:
            lines = [line.split() for line in locks]
    except OSError:
        return None
    where = f"{os.major(file.st_dev):02x}:{os.minor(file.st_dev):02x}:{file.st_ino}"
    owners = [int(words[4]) for words in lines if words[1] == "FLOCK" and words[5] == where]
    return owners[0] if owners else None
