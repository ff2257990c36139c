"""Messages between the mount process and the gateway.

One message is one datagram of a SOCK_SEQPACKET socket: a msgpack map with a "type", and descriptors
beside it (SCM_RIGHTS). `encode` and `decode` are pure; `send` and `receive` are for blocking
sockets. A message that is not shaped as `SHAPES` says is a ProtocolError, never a crash: the
receiver drops it and says so.

Names and link targets are bytes. Text is UTF-8 with surrogates for bytes that are none.
"""

from __future__ import annotations

import array
import math
import os
import socket
from collections.abc import Iterable
from typing import Any

import msgpack

from afmfs.model.resync import Kind

LIMIT = 128 << 10
"""Bytes of a message. What is longer (a listing, fetched data) travels in a memfd."""

MAX_FDS = 4
"""Descriptors of a message."""

MAX_FETCH = 16 << 20
"""Bytes of one fetch."""

Message = dict[str, Any]


class ProtocolError(Exception):
    """A message that no version of this protocol sends."""


_INT, _BOOL, _STR, _DICT = (int,), (bool,), (str,), (dict,)
_OPT_STR, _OPT_DICT, _OPT_INT = (str, type(None)), (dict, type(None)), (int, type(None))
_OPT_BYTES = (bytes, type(None))

_REQUIRED: dict[str, dict[str, tuple[type, ...]]] = {
    # from the mount process
    "hello": {
        "identity": _STR,
        "target": _STR,
        "counter": _INT,
        "cache": _STR,
        "owner": _DICT,
        "tunables": _DICT,
        "block_size": _INT,
    },
    "fetch": {"rid": _INT, "ino": _INT, "start": _INT, "end": _INT},
    "list": {"rid": _INT, "ino": _INT},
    "flush": {"through": _INT},
    "resume": {},
    "run": {"stopped": _BOOL, "needs_resync": _BOOL},
    "point_done": {"rid": _INT, "ok": _BOOL},
    "forget": {"seq": _INT},
    "drop": {"rid": _INT, "id": _INT},
    "wake": {},
    "job": {"job": _DICT},
    "job_taken": {"id": _INT},
    "journal_known": {"id": _STR},
    "report": {"rid": _INT, "kind": _STR},
    "cancel_report": {"rid": _INT},
    "restore": {"rid": _INT, "job": _INT, "path": _OPT_BYTES},
    "empty": {"rid": _INT, "job": _INT},
    "bye": {},
    # from the gateway
    "journal": {"id": _STR, "reason": _STR, "begun": _INT},
    "connected": {"properties": _DICT, "statvfs": _DICT, "home_st": _DICT},
    "away": {"state": _STR, "reason": _STR},
    "refused": {"reason": _STR, "hint": _STR},
    "fetched": {"rid": _INT, "errno": _INT},
    "listed": {"rid": _INT, "errno": _INT},
    "point": {"rid": _INT},
    "outcomes": {"seq": _INT, "num_exec": _INT},
    "inconsistent": {"reason": _STR, "path": _STR},
    "status": {"num_exec": _INT, "executing": _INT, "requeued": _INT, "settled": _BOOL},
    "event": {"name": _STR, "detail": _DICT},
    "harm": {"reason": _STR, "database": _BOOL},
    "alive": {},
    "dropped": {"rid": _INT, "ok": _BOOL},
    "progress": {"id": _INT, "phase": _STR, "left": _INT},
    "reported": {"rid": _INT, "errno": _INT},
    "restored": {"rid": _INT, "errno": _INT},
    "emptied": {"rid": _INT, "errno": _INT},
}

_OPTIONAL: dict[str, tuple[type, ...]] = {
    "takeover": _BOOL,
    "first": _BOOL,
    "stopped": _BOOL,
    "needs_resync": _BOOL,
    "reason": _OPT_STR,
    "stamp": _OPT_DICT,
    "length": _OPT_INT,
    "count": _OPT_INT,
    "hint": _OPT_STR,
    "latency_ms": (int, float, type(None)),
    "statvfs": _OPT_DICT,
    "job": _OPT_DICT,
    "survey": _BOOL,
    "mount_point": _OPT_STR,
    "summary": _OPT_DICT,
    "journal": _OPT_DICT,
    "turn": _OPT_INT,
    "begun": _OPT_INT,
}

SHAPES = frozenset(_REQUIRED)
"""The types of message that exist."""


def encode(message: Message) -> bytes:
    """The datagram of a message; ProtocolError if it would be too long."""
    data: bytes = msgpack.packb(message, use_bin_type=True, unicode_errors="surrogateescape")
    if len(data) > LIMIT:
        raise ProtocolError(f"a {message.get('type')!r} message of {len(data)} bytes")
    return data


def decode(data: bytes) -> Message:
    """The message of a datagram, its shape checked."""
    if len(data) > LIMIT:
        raise ProtocolError(f"a message of {len(data)} bytes")
    try:
        message = msgpack.unpackb(data, raw=False, unicode_errors="surrogateescape")
    except (ValueError, msgpack.exceptions.UnpackException) as exc:
        raise ProtocolError(f"not a message: {exc}") from exc
    check(message)
    return message  # type: ignore[no-any-return]  # check() has seen that it is a dict


def check(message: object) -> None:
    """ProtocolError unless `message` has the fields that its type requires, of their types."""
    if not isinstance(message, dict) or not isinstance(kind := message.get("type"), str):
        raise ProtocolError("a message without a type")
    required = _REQUIRED.get(kind)
    if required is None:
        raise ProtocolError(f"an unknown message, {kind[:40]!r}")
    for name, types in required.items():
        if name not in message:
            raise ProtocolError(f"a {kind!r} message without {name!r}")
        _check_type(kind, name, message[name], types)
    for name, value in message.items():
        if not isinstance(name, str):
            raise ProtocolError(f"a {kind!r} message with a field that is no name")
        if name not in required and name in _OPTIONAL:
            _check_type(kind, name, value, _OPTIONAL[name])
    _check_parts(kind, message)


def _check_type(kind: str, name: str, value: object, types: tuple[type, ...]) -> None:
    fits = isinstance(value, types) and not (isinstance(value, bool) and bool not in types)
    if not fits:
        raise ProtocolError(f"a {kind!r} message whose {name!r} is a {type(value).__name__}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ProtocolError(f"a {kind!r} message whose {name!r} is {value}")
    if name in _NUMBERS and isinstance(value, int) and not 0 <= value < 1 << 63:
        raise ProtocolError(f"a {kind!r} message whose {name!r} is {value}")


def _check_parts(kind: str, message: Message) -> None:
    """Of the maps in a message, what the receivers go by."""
    for name, parts in _PARTS.items():
        inner = message.get(name)
        if not isinstance(inner, dict):
            continue
        for part, types in parts.items():
            if part in inner:
                _check_type(kind, part, inner[part], types)
            elif name != "tunables":
                raise ProtocolError(f"a {kind!r} message whose {name!r} has no {part!r}")
    if kind == "away" and message["state"] not in AWAY:
        raise ProtocolError(f"an 'away' message of state {message['state'][:40]!r}")
    job = message.get("job")
    if isinstance(job, dict) and job["kind"] not in _JOBS:
        raise ProtocolError(f"a {kind!r} message of a job {job['kind'][:40]!r}")


_PARTS: dict[str, dict[str, tuple[type, ...]]] = {
    "stamp": {"size": _INT, "mtime": _INT, "ino": _OPT_INT},
    "home_st": dict.fromkeys(
        ("mode", "uid", "gid", "nlink", "size", "atime", "mtime", "ctime"), _INT
    )
    | {"ino": _OPT_INT},
    "job": {"id": _INT, "kind": _STR, "bound": _INT},
    "journal": {"id": _STR, "turn": _INT, "seq": _INT},
    "tunables": {"async_delay_s": (int, float), "flush_threads": _INT, "home_sync": _STR},
}

AWAY = frozenset({"Disconnected", "Unmounted"})
"""States of a home that is away."""

_JOBS = frozenset(Kind)

_NUMBERS = frozenset(
    {"rid", "ino", "start", "end", "through", "seq", "id", "length", "block_size", "count"}
    | {"counter", "num_exec", "executing", "requeued", "begun", "turn", "errno", "size", "job"}
)
"""Fields that are never negative, and fit into a column of a database."""


def send(sock: socket.socket, message: Message, fds: Iterable[int] = ()) -> None:
    """Send one message; it arrives whole or not at all, so several threads may send.

    The descriptors are duplicated: the caller keeps (and closes) its own. OSError if the other side
    is gone.
    """
    data, rights = encode(message), array.array("i", fds)
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)] if rights else []
    sock.sendmsg([data], ancillary, socket.MSG_NOSIGNAL)


def receive(sock: socket.socket) -> tuple[Message, list[int]] | None:
    """The next message and its descriptors (the caller's to close); None at the end.

    A malformed message raises ProtocolError, with its descriptors closed; the next one can be
    received all the same.
    """
    room = socket.CMSG_SPACE(MAX_FDS * array.array("i").itemsize)
    try:
        data, ancillary, flags, _ = sock.recvmsg(LIMIT + 1, room, socket.MSG_CMSG_CLOEXEC)
    except ConnectionResetError:
        return None
    fds = descriptors(ancillary)
    if not data and not fds:
        return None
    try:
        if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            raise ProtocolError("a message that is too long")
        return decode(data), fds
    except ProtocolError:
        close_all(fds)
        raise


def descriptors(ancillary: Iterable[tuple[int, int, bytes]]) -> list[int]:
    """The descriptors in what `recvmsg` returned as ancillary data."""
    found = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            found.frombytes(data[: len(data) - len(data) % found.itemsize])
    return list(found)


def close_all(fds: Iterable[int]) -> None:
    for fd in fds:
        os.close(fd)
