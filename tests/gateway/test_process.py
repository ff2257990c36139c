"""The gateway as a process of its own, and as a user who is not root."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from afmfs.gateway import process as gateway_process
from afmfs.gateway import protocol
from afmfs.gateway.protocol import Message
from tests.gateway.fake_mount import FakeMount

NOBODY = 65534


class Process:
    """A gateway process, talked to by hand."""

    def __init__(self, mount: FakeMount) -> None:
        self.sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        words = [str(mount.cache), "--home", "1", "--fd", str(theirs.fileno())]
        self.popen = subprocess.Popen(
            [sys.executable, "-P", "-m", "afmfs.gateway.process", *words],
            pass_fds=[theirs.fileno()],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )
        theirs.close()
        self.sock.settimeout(20)

    def send(self, message: Message) -> None:
        protocol.send(self.sock, message)

    def next(self, kind: str) -> tuple[Message, list[int]]:
        while True:
            found = protocol.receive(self.sock)
            assert found is not None, "the gateway ended"
            message, fds = found
            if message["type"] == "point":
                self.send({"type": "point_done", "rid": message["rid"], "ok": True})
            if message["type"] == kind:
                return message, fds
            protocol.close_all(fds)

    def hello(self, mount: FakeMount) -> None:
        self.send(
            {
                "type": "hello", "identity": "i", "target": str(mount.home), "counter": 1,
                "token": "t", "tokens": ["t"], "first": True, "owner": {}, "block_size": 4096,
                "cache": str(mount.cache), "tunables": mount.tunables,
            }
        )  # fmt: skip


@pytest.fixture
def process(mount: FakeMount) -> Iterator[Process]:
    process = Process(mount)
    yield process
    process.sock.close()
    if process.popen.poll() is None:
        process.popen.kill()
    process.popen.wait()


def test_a_life(mount: FakeMount, process: Process) -> None:
    (mount.home / "old").write_bytes(b"at home")
    old = mount.adopt(b"old")
    mount.make(b"f", b"bytes")
    process.hello(mount)
    process.next("connected")
    process.next("outcomes")
    assert (mount.home / "f").read_bytes() == b"bytes"
    process.send({"type": "fetch", "rid": 1, "ino": old, "start": 0, "end": 7})
    reply, (fd,) = process.next("fetched")
    assert reply["errno"] == 0 and os.pread(fd, 100, 0) == b"at home"
    os.close(fd)
    process.sock.send(b"nonsense")  # is logged, and no more
    process.send({"type": "list", "rid": 2, "ino": 1})
    process.next("listed")
    process.send({"type": "bye"})
    assert process.popen.wait(5) == 0


def test_it_ends_with_its_mount(mount: FakeMount, process: Process) -> None:
    process.hello(mount)
    process.next("connected")
    process.sock.close()
    assert process.popen.wait(5) == 0


def test_it_ends_where_a_message_can_not_be_dealt_with(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter's own end would wait for threads that are stuck at home."""

    class Full:
        crashed = staticmethod(lambda: None)

        def start(self) -> None:
            pass

        def receive(self, message: Message, fds: list[int]) -> None:
            raise sqlite3.OperationalError("database or disk is full")

    def exit_now(code: int) -> None:
        raise SystemExit(code)

    monkeypatch.setattr(gateway_process, "exit_now", exit_now)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        protocol.send(ours, {"type": "resume"})
        with pytest.raises(SystemExit, match="70"):
            gateway_process.serve(Full(), theirs)  # type: ignore[arg-type]


def test_a_second_one_is_refused(mount: FakeMount, process: Process) -> None:
    process.hello(mount)
    process.next("connected")
    second = Process(mount)
    try:
        second.hello(mount)
        message, _ = second.next("away")
        assert "another gateway" in message["reason"]
        assert second.popen.wait(5) == 70
    finally:
        second.sock.close()
        second.popen.wait()


def test_killed_and_started_again(mount: FakeMount, process: Process) -> None:
    for n in range(300):
        mount.make(b"f%d" % n, b"bytes")
    process.hello(mount)
    process.next("point")
    time.sleep(0.01)
    process.popen.send_signal(signal.SIGKILL)
    process.popen.wait()
    second = Process(mount)
    try:
        second.hello(mount)
        while mount.pending():
            second.next("outcomes")
            mount.gateway = _Deaf()  # type: ignore[assignment]
            mount.retire()
        assert len(os.listdir(mount.home)) == 301
    finally:
        mount.gateway = None
        second.sock.close()
        second.popen.wait()


class _Deaf:
    def receive(self, message: Message) -> None:
        pass


AS_NOBODY = """
import os, stat, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from tests.gateway.fake_mount import FakeMount
os.setgroups([]); os.setgid(65534); os.setuid(65534)  # after all modules are found
base = Path(sys.argv[1])
home = base / "home"
home.mkdir()
(home / "closed").mkdir()
(home / "closed" / "old").write_bytes(b"old")
(home / "read only").write_bytes(b"0123456789")
os.chmod(home / "read only", 0o444)
mount = FakeMount(base / "cache", home)
os.chmod(home / "closed", 0o555)
f = mount.adopt(b"read only", cached=True)
closed = mount.adopt(b"closed")
old = mount.adopt(b"old", closed, "closed")
mount.write(f, 0, b"new")
mount.make(b"in it", b"x", parent=closed)
mount.remove(b"old", closed)
hidden = mount.mkdir(b"sealed", mode=0o500)
mount.make(b"inside", b"y", parent=hidden, mode=stat.S_IFREG | 0o400)
mount.make(b"set", b"z", mode=stat.S_IFREG | 0o4755)
mount.make(b"theirs", b"z", uid=0, gid=0)
mount.start()
mount.settle()
assert mount.pending() == [], mount.log
assert (home / "read only").read_bytes() == b"new3456789"
assert stat.S_IMODE((home / "read only").stat().st_mode) == 0o444
assert (home / "closed" / "in it").read_bytes() == b"x"
assert not (home / "closed" / "old").exists()
assert stat.S_IMODE((home / "closed").stat().st_mode) == 0o555
assert stat.S_IMODE((home / "sealed").stat().st_mode) == 0o500
assert (home / "sealed" / "inside").read_bytes() == b"y"
assert stat.S_IMODE((home / "set").stat().st_mode) == 0o4755
assert (home / "theirs").stat().st_uid == 65534
assert (home / "closed").stat().st_mtime_ns == mount.get(closed, "mtime")
mount.close()
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="changes its user")
def test_without_privileges() -> None:
    """Modes that shut out their owner don't shut out the gateway; owners are as permitted."""
    base = tempfile.mkdtemp()  # pytest's own directories are closed to others
    try:
        os.chown(base, NOBODY, NOBODY)
        root = str(Path(__file__).parents[2])
        subprocess.run([sys.executable, "-c", AS_NOBODY, base, root], check=True, timeout=60)
    finally:
        shutil.rmtree(base)
