"""File-system calls that may never return, made by a process that may be left behind.

Whoever waits for an answer of a FUSE mount can't be killed, and a thread that waits there keeps its
process from ending. So a child makes the calls, one at a time, and its parent waits only as long as
it wants to. The child holds none of our descriptors: left behind, it keeps no script's pipe open.
"""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, NoReturn, Self

READ_SECONDS = 10.0
"""For a file of `.afm/`, which needs neither home nor a disk."""

COMMAND_SECONDS = 45.0
"""For a command: its path may lead through a directory that has to be read at home (30 s)."""

_CHUNK = 128 << 10
_LEAVE_SECONDS = 1.0


class Hung(OSError):
    """The mount does not answer."""

    def __init__(self, path: str) -> None:
        super().__init__(errno.ETIMEDOUT, "no answer", path)


@dataclass(frozen=True, slots=True)
class Reply:
    """What `.afm/control` said. `errno` is 0 for a command that was taken."""

    errno: int
    text: str  # without the line that repeats the command


class Access:
    """The child process, started when first needed, and anew after one was left behind.

    Every method raises the OSError of the call, or Hung. For a process without threads: it forks.
    """

    def __init__(self) -> None:
        self._child: tuple[int, Connection] | None = None
        self._left: set[int] = set()  # killed and not yet gone

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """See the children off, or leave behind what can't be ended."""
        self._leave()
        deadline = time.monotonic() + _LEAVE_SECONDS
        while self._left and time.monotonic() < deadline:
            self._left = {pid for pid in self._left if os.waitpid(pid, os.WNOHANG) == (0, 0)}
            time.sleep(0.005 if self._left else 0)

    def read(self, path: str, *, timeout: float = READ_SECONDS) -> bytes:
        """The whole of a file."""
        return b"".join(self.chunks(path, timeout=timeout))

    def chunks(self, path: str, *, timeout: float = READ_SECONDS) -> Iterator[bytes]:
        """A file piece by piece; `timeout` is for each of them."""
        yield from self._ask(_read, path, timeout=timeout)

    def command(self, path: str, line: str, *, timeout: float = COMMAND_SECONDS) -> Reply:
        """Write a command to the control file at `path` and read its reply."""
        code, *pieces = self._ask(_command, path, os.fsencode(line), timeout=timeout)
        _, _, text = os.fsdecode(b"".join(pieces)).partition("\n")
        return Reply(code, text)

    def realpath(self, path: str, *, timeout: float = READ_SECONDS) -> str:
        """`path` without symbolic links. What does not exist stays as it is written."""
        (found,) = self._ask(_realpath, path, timeout=timeout)
        return str(found)

    def exists(self, path: str, *, timeout: float = READ_SECONDS) -> bool:
        (found,) = self._ask(_exists, path, timeout=timeout)
        return bool(found)

    def _ask(
        self, call: Callable[..., Iterator[Any]], path: str, *args: Any, timeout: float
    ) -> Iterator[Any]:
        pipe, ended = self._pipe(), False
        try:
            pipe.send((call.__name__, path, *args))
            while pipe.poll(timeout):
                kind, value = pipe.recv()
                ended = kind != "value"
                if kind == "error":
                    raise OSError(value, os.strerror(value), path)
                if ended:
                    return
                yield value
            raise Hung(path)
        except EOFError:
            raise Hung(path) from None
        finally:
            if not ended:  # it hangs, or nobody wants the rest of its answer
                self._leave()

    def _pipe(self) -> Connection:
        if self._child is None:
            ours, theirs = Pipe()
            pid = os.fork()
            if not pid:
                _serve(theirs)
            theirs.close()
            self._child = pid, ours
        return self._child[1]

    def _leave(self) -> None:
        """Kill the child and wait for nothing: in the middle of a request it can't die."""
        if self._child is None:
            return
        (pid, pipe), self._child = self._child, None
        pipe.close()
        os.kill(pid, signal.SIGKILL)
        self._left.add(pid)


# -- in the child --------------------------------------------------------------------------------


def _serve(pipe: Connection) -> NoReturn:
    try:
        _let_go(pipe.fileno())
        while True:
            name, *args = pipe.recv()
            try:
                for value in _CALLS[name](*args):
                    pipe.send(("value", value))
                pipe.send(("end", None))
            except OSError as error:
                pipe.send(("error", error.errno or errno.EIO))
    except BaseException:  # the parent went away; there is nobody to tell
        pass
    finally:
        os._exit(0)


def _let_go(keep: int) -> None:
    """Hold no descriptor but the pipe: whoever waits for the end of our output must see it."""
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    os.closerange(3, keep)
    os.closerange(keep + 1, os.sysconf("SC_OPEN_MAX"))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends us


def _read(path: str) -> Iterator[bytes]:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    while chunk := os.read(fd, _CHUNK):
        yield chunk
    os.close(fd)


def _command(path: str, line: bytes) -> Iterator[int | bytes]:
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    code = 0
    try:
        os.write(fd, line)
    except OSError as error:
        code = error.errno or errno.EIO
    yield code
    while chunk := os.read(fd, _CHUNK):
        yield chunk
    os.close(fd)


def _realpath(path: str) -> Iterator[str]:
    yield os.path.realpath(path)


def _exists(path: str) -> Iterator[bool]:
    yield os.path.exists(path)


_CALLS: dict[str, Callable[..., Iterator[Any]]] = {
    call.__name__: call for call in (_read, _command, _realpath, _exists)
}
