"""The virtual directory `.afm` in the root of a mount.

Its inode numbers and file handles begin where the fileset's (SQLite's signed integers) end, so
one comparison tells the two apart; `Operations` hands every request on such a number to this
class. What the class does not define is refused. All files are direct-I/O files of size 0: cat, cp
and tail read them whole, and the kernel keeps nothing of them.
"""

from __future__ import annotations

import errno
import functools
import json
import os
import stat
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import NoReturn, Protocol

import trio
from pyfuse3 import (
    EntryAttributes,
    FileHandleT,
    FileInfo,
    FileNameT,
    FlagT,
    FUSEError,
    InodeT,
    ReaddirToken,
    RequestContext,
    SetattrFields,
    readdir_reply,
)

from afmfs.cache.command import commands
from afmfs.cache.report.status import Status, render_json, render_state
from afmfs.cache.store.inode import Inode
from afmfs.errors import AfmError
from mount import attrs

NAME = b".afm"
RESERVED = 2**63
DIRECTORY, CONTROL, STATE, STATUS, QUEUE, EVENTS, METRICS, REPORT = range(RESERVED, RESERVED + 8)
FIRST_HANDLE = RESERVED + 16

FILES = {
    b"control": CONTROL,
    b"state": STATE,
    b"status.json": STATUS,
    b"queue": QUEUE,
    b"events": EVENTS,
    b"metrics": METRICS,
    b"report": REPORT,
}

LONGEST_COMMAND = 32 << 10  # bytes; a path, quoted, fits several times


class Steering(Protocol):
    """What the control directory asks of a fileset."""

    def status(self) -> Status: ...
    async def execute(self, line: str) -> str: ...
    def queue_lines(self) -> AsyncGenerator[bytes, None]: ...
    def report_lines(self) -> AsyncGenerator[bytes, None]: ...
    def events(self) -> Sequence[Mapping[str, object]]: ...


class Open(Protocol):
    """One open file of the control directory."""

    async def read(self, offset: int, size: int) -> bytes: ...
    async def write(self, offset: int, data: bytes) -> int: ...
    async def close(self) -> None: ...


class ControlDirectory:
    """Answers requests on the reserved numbers. Only root and the mount's owner may look in."""

    def __init__(self, fileset: Steering, owner: int) -> None:
        self._fileset = fileset
        self._owner = owner
        self._inodes = _inodes(owner)
        self._open: dict[int, Open] = {}
        self._next_handle = FIRST_HANDLE
        self.last_reply = b""

    async def refuse(self, *_request: object) -> NoReturn:
        raise FUSEError(errno.EPERM)

    # --- names and attributes

    def entry(self) -> EntryAttributes:
        """Of the directory itself, for a lookup in the root."""
        return attrs.entry_of(self._inodes[DIRECTORY])

    async def lookup(self, parent: InodeT, name: FileNameT, ctx: RequestContext) -> EntryAttributes:
        self._admit(ctx)
        if name not in FILES:
            return attrs.NO_ENTRY
        return attrs.entry_of(self._inodes[FILES[name]])

    async def getattr(self, ino: InodeT, ctx: RequestContext) -> EntryAttributes:
        return attrs.entry_of(self._inodes[ino])

    async def setattr(
        self,
        ino: InodeT,
        attr: EntryAttributes,
        fields: SetattrFields,
        fh: FileHandleT | None,
        ctx: RequestContext,
    ) -> EntryAttributes:
        # Truncating control or touching it is what shells do, and means nothing.
        if ino != CONTROL or attrs.changes_of(attr, fields).keys() & {"mode", "uid", "gid"}:
            raise FUSEError(errno.EPERM)
        return attrs.entry_of(self._inodes[ino])

    async def opendir(self, ino: InodeT, ctx: RequestContext) -> FileHandleT:
        self._admit(ctx)
        return FileHandleT(ino)

    async def readdir(self, fh: FileHandleT, start: int, token: ReaddirToken) -> None:
        names = [(b".", DIRECTORY), (b"..", DIRECTORY), *FILES.items()]
        for position, (name, ino) in enumerate(names[start:], start + 1):
            if not readdir_reply(token, name, attrs.entry_of(self._inodes[ino]), position):
                return

    async def releasedir(self, fh: FileHandleT) -> None:
        pass

    # --- open files

    async def open(self, ino: InodeT, flags: FlagT, ctx: RequestContext) -> FileInfo:
        self._admit(ctx)
        if ino != CONTROL and flags & os.O_ACCMODE != os.O_RDONLY:
            raise FUSEError(errno.EACCES)  # root passes the kernel's check of the mode
        handle = self._next_handle
        self._next_handle += 1
        self._open[handle] = self._opened(ino)
        return FileInfo(fh=FileHandleT(handle), direct_io=True, keep_cache=False)

    def _opened(self, ino: int) -> Open:
        fileset = self._fileset
        if ino == CONTROL:
            return Conversation(self, fileset)
        if ino == QUEUE:
            return Stream(fileset.queue_lines)
        if ino == REPORT:
            return Stream(fileset.report_lines)
        return Document(functools.partial(_RENDERED[ino], fileset))

    async def read(self, fh: FileHandleT, offset: int, size: int) -> bytes:
        return await self._open[fh].read(offset, size)

    async def write(self, fh: FileHandleT, offset: int, data: bytes) -> int:
        return await self._open[fh].write(offset, data)

    async def flush(self, fh: FileHandleT) -> None:
        raise FUSEError(errno.ENOSYS)

    async def fsync(self, fh: FileHandleT, datasync: bool) -> None:
        pass

    async def fsyncdir(self, fh: FileHandleT, datasync: bool) -> None:
        pass

    async def release(self, fh: FileHandleT) -> None:
        await self._open.pop(fh).close()

    def _admit(self, ctx: RequestContext) -> None:
        # The kernel checks the modes too, but it lets pass whoever may override them.
        if ctx.uid not in (0, self._owner):
            raise FUSEError(errno.EACCES)


def _inodes(owner: int) -> dict[int, Inode]:
    now = time.time_ns()
    group = os.getgid()

    def inode(ino: int, mode: int, nlink: int) -> Inode:
        return Inode(ino, mode, owner, group, 0, nlink, 0, now, now, now)

    files = {ino: inode(ino, stat.S_IFREG | 0o400, 1) for ino in FILES.values()}
    files[CONTROL].mode = stat.S_IFREG | 0o600
    return files | {DIRECTORY: inode(DIRECTORY, stat.S_IFDIR | 0o500, 2)}


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")  # names of any bytes pass through text


def _metrics(fileset: Steering) -> bytes:
    from afmfs.cache.report.metrics import render_metrics  # takes longer to load than a mount has

    return render_metrics(fileset.status())


_RENDERED: dict[int, Callable[[Steering], bytes]] = {
    STATE: lambda fileset: _encoded(render_state([fileset.status()])),
    STATUS: lambda fileset: _encoded(render_json(fileset.status())),
    METRICS: _metrics,
    EVENTS: lambda fileset: b"".join(
        _encoded(json.dumps(one, ensure_ascii=False) + "\n") for one in fileset.events()
    ),
}


class Document:
    """A text made anew whenever it is read from its beginning."""

    def __init__(self, render: Callable[[], bytes]) -> None:
        self._render = render
        self._text = b""

    async def read(self, offset: int, size: int) -> bytes:
        if offset == 0:
            self._text = self._render()
        return self._text[offset : offset + size]

    async def write(self, offset: int, data: bytes) -> int:
        raise FUSEError(errno.EBADF)

    async def close(self) -> None:
        pass


class Conversation:
    """`control`: a write is a command, what is read then is its reply.

    After a write the reply can be read on from where the write ended (a shell's `<>`), or from 0.
    Who has written nothing reads the last reply of all.
    """

    def __init__(self, directory: ControlDirectory, fileset: Steering) -> None:
        self._directory = directory
        self._fileset = fileset
        self._reply: bytes | None = None
        self._text = b""
        self._after_write: int | None = None
        self._base = 0

    async def read(self, offset: int, size: int) -> bytes:
        if offset in (0, self._after_write):
            self._text = self._directory.last_reply if self._reply is None else self._reply
            self._base, self._after_write = offset, None
        start = max(offset - self._base, 0)
        return self._text[start : start + size]

    async def write(self, offset: int, data: bytes) -> int:
        if len(data) > LONGEST_COMMAND:
            raise FUSEError(errno.EINVAL)
        line = data.decode("utf-8", "surrogateescape").strip()
        try:
            self._keep(await self._fileset.execute(line))
        except AfmError as error:
            self._keep(commands.refusal(line, error))
            raise
        self._after_write = offset + len(data)
        return len(data)

    async def close(self) -> None:
        pass

    def _keep(self, reply: str) -> None:
        self._reply = self._directory.last_reply = _encoded(reply)


class Stream:
    """`queue`, `report`: made while it is read, so millions of lines cost no memory. Read it in
    sequence."""

    def __init__(self, lines: Callable[[], AsyncGenerator[bytes, None]]) -> None:
        self._lines = lines
        self._source: AsyncGenerator[bytes, None] | None = None
        self._buffer = b""
        self._start = 0  # offset of the buffer
        self._lock = trio.Lock()

    async def read(self, offset: int, size: int) -> bytes:
        async with self._lock:
            if offset == 0:
                await self.close()
                self._source, self._buffer, self._start = self._lines(), b"", 0
            if offset < self._start or self._source is None:
                raise FUSEError(errno.ESPIPE)
            await self._fill(self._source, offset + size)
            # What is read now stays until the next read: a reader may get less than it asked for.
            self._buffer, self._start = self._buffer[offset - self._start :], offset
            return self._buffer[:size]

    async def _fill(self, source: AsyncGenerator[bytes, None], end: int) -> None:
        parts = [self._buffer]
        have = self._start + len(self._buffer)
        while have < end:
            line = await anext(source, None)
            if line is None:
                break
            parts.append(line)
            have += len(line)
        self._buffer = b"".join(parts)

    async def write(self, offset: int, data: bytes) -> int:
        raise FUSEError(errno.EBADF)

    async def close(self) -> None:
        if self._source is not None:
            await self._source.aclose()
            self._source = None
