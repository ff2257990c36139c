"""Running a program of the administrator's: only a safe one, plainly, and not for too long.

Safe means that nobody but root and the mount's owner can say what is run: neither the program nor
anything that leads to it may belong to others or be written by them.
"""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import trio

from afmfs.errors import AfmError

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

GRACE_S = 1.0
"""Between asking a program to end and killing it."""

KILL_S = 0.5
"""A killed program that has not ended after so long is stuck, in a home that hangs for instance."""

CHECK_S = 5.0
"""A program's path that can't be looked at in so long is refused."""

OUTPUT, LINES = 8 << 10, 100
"""Bytes and lines of a program's output that are kept."""

PAUSE_S = 0.01
"""Between two reads of a program's output."""

_LAUNCH = Path(__file__).with_name("launch.py")
_LINKS = 40
_LAST_READS = 16
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


# -- is it safe ----------------------------------------------------------------------------------


class Checker:
    """Refuses programs that another user could replace."""

    def __init__(self, trusted: Collection[int]) -> None:
        """`trusted`: the users whose files may be run."""
        self._trusted = trusted
        # Threads that look at paths may be stuck for good, and must not keep others from work.
        self._threads = trio.CapacityLimiter(4)

    async def check(self, path: str) -> None:
        """AfmError says what is wrong with it. In a thread, as the path may lead anywhere."""
        with trio.move_on_after(CHECK_S):
            await trio.to_thread.run_sync(
                _check, path, self._trusted, abandon_on_cancel=True, limiter=self._threads
            )
            return
        raise AfmError(f"{path} can't be looked at: it does not answer", errno=errno.ETIMEDOUT)


def _check(path: str, trusted: Collection[int]) -> None:
    try:
        for step, info in _steps(path):
            _check_step(step, info, trusted)
        if not stat.S_ISREG(info.st_mode):
            raise AfmError(f"{path} is not a regular file", errno=errno.EINVAL)
        if not os.access(path, os.X_OK, effective_ids=True):
            raise AfmError(f"{path} can't be executed: see chmod(1)", errno=errno.EACCES)
    except OSError as exc:
        raise AfmError(f"{path}: {exc.strerror}", errno=exc.errno or errno.EIO) from exc


def _steps(path: str) -> Iterator[tuple[str, os.stat_result]]:
    """All that leads to `path`: directories and symbolic links, at last the file itself."""
    here, links = "/", 0
    names = [name for name in reversed(path.split("/")) if name not in ("", ".")]
    yield here, os.lstat(here)
    while names:
        name = names.pop()
        if name == "..":
            here = os.path.dirname(here)
            continue
        step = os.path.join(here, name)
        info = os.lstat(step)
        yield step, info
        if not stat.S_ISLNK(info.st_mode):
            here = step
            continue
        links += 1
        if links > _LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        target = os.readlink(step)
        here = "/" if target.startswith("/") else here
        names += [name for name in reversed(target.split("/")) if name not in ("", ".")]


def _check_step(step: str, info: os.stat_result, trusted: Collection[int]) -> None:
    what = "it could be replaced: what others can change must not be run by us"
    if info.st_uid not in trusted:
        raise AfmError(f"{step} belongs to user {info.st_uid}; {what}", errno=errno.EPERM)
    if stat.S_ISLNK(info.st_mode):
        return
    # In a sticky directory, such as /tmp, nobody can rename what belongs to somebody else.
    sticky = stat.S_ISDIR(info.st_mode) and info.st_mode & stat.S_ISVTX
    if info.st_mode & _OTHERS_WRITE and not sticky:
        mode = stat.S_IMODE(info.st_mode)
        raise AfmError(
            f"{step} can be written by its group or by others (mode {mode:04o}); {what}."
            f" Take it away: chmod go-w {step}",
            errno=errno.EPERM,
        )


# -- running it ----------------------------------------------------------------------------------


@dataclass
class Output:
    """What a program wrote, its beginning kept. The descriptor is the caller's."""

    fd: int
    kept: bytes = b""
    length: int = 0  # bytes, also those that were not kept

    async def collect(self) -> None:
        """Read on until cancelled or at the end. One that writes without end is slowed down."""
        while True:
            await trio.lowlevel.wait_readable(self.fd)
            if not self._take():
                return
            await trio.sleep(PAUSE_S)

    def finish(self) -> None:
        """Take what is there, and wait for nothing."""
        for _ in range(_LAST_READS):
            try:
                if not self._take():
                    return
            except BlockingIOError:
                return

    def _take(self) -> bool:
        """False at the end."""
        data = os.read(self.fd, 64 << 10)
        self.length += len(data)
        self.kept += data[: OUTPUT - len(self.kept)]
        return bool(data)

    def lines(self) -> list[str]:
        """For a log: printable, and a bounded number of them."""
        text = self.kept.decode("utf-8", "backslashreplace")
        found = ["".join(c if c.isprintable() else ascii(c)[1:-1] for c in one)
                 for one in text.splitlines()[:LINES]]  # fmt: skip
        if len(text.splitlines()) > LINES or self.length > len(self.kept):
            found.append(f"... ({self.length} bytes in all)")
        return found


class Program:
    """A program that runs. Its number stays its own until `close`: no signal meets another one."""

    def __init__(self, words: Sequence[str], variables: Mapping[str, str]) -> None:
        """Start it: without a shell, in a session of its own, with nothing of ours but what is
        given. OSError if no process can be made; what can't be executed ends with 127."""
        reader, writer = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(reader, False)
        self.output = Output(reader)
        try:
            self._popen = subprocess.Popen(
                [sys.executable, "-I", "-S", "-X", "utf8", os.fspath(_LAUNCH), *words],
                env={**_environment(), **variables},
                cwd="/",
                umask=0o022,
                start_new_session=True,
                stdin=subprocess.DEVNULL,
                stdout=writer,
                stderr=writer,
            )
        except BaseException:
            os.close(reader)
            raise
        finally:
            os.close(writer)
        self._exited = os.pidfd_open(self._popen.pid)

    async def ended(self) -> None:
        """Return when the program itself has ended; its children may live."""
        await trio.lowlevel.wait_readable(self._exited)

    async def ends_within(self, seconds: float) -> bool:
        with trio.move_on_after(seconds):
            await self.ended()
            return True
        return False

    async def end(self) -> bool:
        """End it and its children: asked first, then killed. False: it is stuck."""
        self._signal(signal.SIGTERM)
        ended = await self.ends_within(GRACE_S)
        self._signal(signal.SIGKILL)
        return ended or await self.ends_within(KILL_S)

    def _signal(self, number: int) -> None:
        try:
            os.killpg(self._popen.pid, number)
        except ProcessLookupError:
            pass  # an ended program that nobody has asked for yet may be a group without members

    def close(self) -> int | None:
        """End what it left behind; its exit status, as `Popen.returncode`. None: it is stuck."""
        self._signal(signal.SIGKILL)
        status = self._popen.poll()
        self.output.finish()
        os.close(self._exited)
        os.close(self.output.fd)
        return status


def _environment() -> dict[str, str]:
    ours = os.environ
    return {"PATH": PATH, "LANG": ours.get("LANG", "C.UTF-8"), "HOME": ours.get("HOME", "/")}
