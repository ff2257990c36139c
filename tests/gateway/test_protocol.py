"""Messages: what is sent arrives, and nonsense is an error and no more."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from afmfs.gateway import protocol
from afmfs.gateway.protocol import ProtocolError

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    one, two = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    yield one, two
    one.close()
    two.close()


def test_a_message_with_descriptors(pair: Pair) -> None:
    memory = os.memfd_create("m")
    os.write(memory, b"bytes")
    message = {"type": "fetched", "rid": 7, "errno": 0, "length": 5, "reason": "\udcff"}
    protocol.send(pair[0], message, (memory,))
    found = protocol.receive(pair[1])
    assert found is not None
    got, (fd,) = found
    assert got == message
    assert os.pread(fd, 10, 0) == b"bytes"
    os.close(fd)
    os.close(memory)


def test_the_end(pair: Pair) -> None:
    protocol.send(pair[0], {"type": "wake"})
    pair[0].close()
    assert protocol.receive(pair[1]) == ({"type": "wake"}, [])
    assert protocol.receive(pair[1]) is None


@pytest.mark.parametrize(
    "message",
    [
        [],
        {},
        {"type": 5},
        {"type": "no such"},
        {"type": "fetch", "rid": 1},
        {"type": "fetch", "rid": 1, "ino": "x", "start": 0, "end": 1},
        {"type": "fetch", "rid": 1, "ino": 1, "start": -1, "end": 1},
        {"type": "run", "stopped": 1, "needs_resync": False},
        {"type": "forget", "seq": True},
        {"type": "fetched", "rid": 1, "errno": 0, "stamp": 3},
    ],
)
def test_nonsense(pair: Pair, message: Any) -> None:
    pair[0].send(msgpack.packb(message))
    protocol.send(pair[0], {"type": "wake"})
    with pytest.raises(ProtocolError):
        protocol.receive(pair[1])
    assert protocol.receive(pair[1]) == ({"type": "wake"}, [])


def test_too_long(pair: Pair) -> None:
    with pytest.raises(ProtocolError):
        protocol.encode({"type": "away", "state": "x", "reason": "y" * protocol.LIMIT})
    memory = os.memfd_create("m")
    fds = socket.send_fds(pair[0], [b"\x80" * (protocol.LIMIT + 1)], [memory] * 2)
    assert fds
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(ProtocolError):
        protocol.receive(pair[1])
    assert len(os.listdir("/proc/self/fd")) == before, "its descriptors are closed"
    os.close(memory)


@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    try:
        message = protocol.decode(data)
    except ProtocolError:
        return
    assert message["type"] in protocol.SHAPES
