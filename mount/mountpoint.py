"""The directory to mount on: is it fit, is a dead mount of ours in the way, what libfuse gets."""

from __future__ import annotations

import ctypes
import errno
import os
import queue
import subprocess
import threading
from pathlib import Path

from afmfs.errors import Refused
from afmfs.model.tunables import MountOptions
from afmfs.mountinfo import FSTYPE, Mounted, mounted

MNT_DETACH = 2

ANSWER_S = 15.0
"""A mount that takes longer to say how full it is does not answer: that waits for nothing."""


def check(point: Path) -> None:
    """Make sure that `point` can be mounted on; a dead mount of ours there is cleared away.

    Raises Refused with the way out, after ANSWER_S where a mount of ours does not answer. Opens
    nothing below a file system that is not ours.
    """
    there = mounted_at(point)
    if there is not None and there.fstype == FSTYPE:
        answers = _answers(point)
        if answers is None:
            raise Refused(
                f"{point}: {there.source} is mounted here, and does not answer. Its process may be"
                " stopped, or was killed and can't end (ps shows T, or Z): let it go on, or give it"
                f" up with umount -f {point}; what was acknowledged is in its cache"
            )
        if answers:
            raise Refused(
                f"{point}: {there.source} is mounted here already; see afmctl {point} getstate, "
                f"or unmount it: umount {point}"
            )
        detach(point)
        return check(point)
    try:
        names = os.listdir(point)
    except FileNotFoundError:
        raise Refused(f"mount point {point} does not exist; make it: mkdir -p {point}") from None
    except NotADirectoryError:
        raise Refused(f"mount point {point} is not a directory") from None
    except OSError as error:
        raise Refused(f"mount point {point} cannot be read: {error.strerror}") from error
    if set(names) - {"lost+found"}:
        raise Refused(
            f"mount point {point} is not empty: what is in it would be hidden. "
            "Use an empty directory, or move its content away"
        )
    return None


def _answers(point: Path) -> bool | None:
    """Whether a process serves the mount: of a dead one the kernel says so at once. None: it does
    not answer."""
    answers: queue.SimpleQueue[bool] = queue.SimpleQueue()

    def ask() -> None:
        try:
            os.statvfs(point)  # always asks: the attributes of a dead mount are still in the cache
        except OSError as error:
            answers.put(error.errno not in (errno.ENOTCONN, errno.ECONNABORTED))
        else:
            answers.put(True)

    threading.Thread(target=ask, name="statvfs", daemon=True).start()
    try:
        return answers.get(timeout=ANSWER_S)
    except queue.Empty:
        return None


def mounted_at(point: Path) -> Mounted | None:
    """The uppermost mount on exactly this path."""
    here = [one for one in mounted() if one.point == os.fspath(point)]
    return here[-1] if here else None


def detach(point: Path) -> None:
    """Take the mount off the tree, whoever may still have files open in it."""
    if os.geteuid() != 0:
        command = ["fusermount3", "-u", "-z", "--", os.fspath(point)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise Refused(f"the dead mount at {point} cannot be cleared: {done.stderr.strip()}")
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.umount2(os.fsencode(point), MNT_DETACH) != 0:
        reason = os.strerror(ctypes.get_errno())
        raise Refused(f"the dead mount at {point} cannot be cleared: {reason}")


def write_back(point: Path) -> None:
    """Have the kernel hand over the dirty pages of the mount at `point`. For a thread: the event
    loop answers the writes."""
    try:
        root = os.open(point, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return  # it is gone, and its pages with it
    try:
        ctypes.CDLL(None).syncfs(root)
    finally:
        os.close(root)


def fuse_options(device: str, options: MountOptions) -> set[str]:
    """For libfuse. Never auto_unmount: a crash leaves the mount point dead, so that nothing can be
    written below it unseen."""
    words = {f"fsname={device}", "subtype=afmfs", "default_permissions", *options.kernel}
    if options.allow_other:
        words.add("allow_other")
    if options.ro:
        words.add("ro")
    return words
