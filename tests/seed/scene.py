"""The stage of the seed's rows: one mounted fileset, and a room of its home for each row.

A room is a directory of home that the mount has not read yet. So a row may fill it first, and what
it does there disturbs no other row; only the resync that it ends with sees to all of them.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from tests.harness.mounting import Mount, wait_until

BLOCK = 4096
ROOMS = 64
SECONDS = 30.0
"""What takes longer than this hangs."""

OPTIONS = ("fileset=sw1", f"block_size={BLOCK}", "async_delay=3600", "flush_threads=8")
"""Nothing is replayed before a row says so."""

Event = dict[str, Any]


def noise(size: int, seed: int = 0) -> bytes:
    """Bytes that are no other's, none of them null."""
    return random.Random(seed * 1_000_003 + size).randbytes(size).replace(b"\0", b"\1")


class Look(NamedTuple):
    """All that a change leaves a trace in."""

    ino: int
    mode: int
    size: int
    mtime: int
    ctime: int
    content: bytes


def look(path: Path) -> Look:
    st = path.lstat()
    content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
    return Look(st.st_ino, st.st_mode, st.st_size, st.st_mtime_ns, st.st_ctime_ns, content)


class Scene:
    """One fileset."""

    def __init__(self, mount: Mount) -> None:
        self.mount, self.home, self.point = mount, mount.home, mount.point

    # -- commands --------------------------------------------------------------------------------

    def control(self, line: str) -> str:
        """Have a command executed; its reply. OSError with its errno if it is refused."""
        descriptor = os.open(self.point / ".afm/control", os.O_RDWR)
        try:
            os.write(descriptor, f"{line}\n".encode())
            reply = b""
            while piece := os.read(descriptor, 1 << 16):
                reply += piece
        finally:
            os.close(descriptor)
        return reply.decode().partition("\n")[2]

    def afmctl(self, *words: str) -> str:
        """What afmctl prints; it must end well."""
        run = self.mount.afmctl(*words)
        assert run.returncode == 0, run.stderr
        return run.stdout

    def refused(self, *words: str) -> str:
        """What afmctl says when it refuses."""
        run = self.mount.afmctl(*words)
        assert (run.returncode, run.stdout) == (1, ""), run
        return run.stderr

    def refusal(self, line: str) -> int | None:
        """The errno with which a command is refused; None if it isn't."""
        try:
            self.control(line)
        except OSError as error:
            return error.errno
        return None

    # -- what is said ----------------------------------------------------------------------------

    @property
    def status(self) -> dict[str, Any]:
        return self.mount.status()

    @property
    def state(self) -> str:
        return str(self.status["state"])

    def events(self, name: str = "", after: int = 0) -> list[Event]:
        lines = (self.point / ".afm/events").read_text().splitlines()
        every = map(json.loads, lines)
        return [e for e in every if name in ("", e["name"]) and e["number"] > after]

    @property
    def last_event(self) -> int:
        every = self.events()
        return int(every[-1]["number"]) if every else 0

    def await_event(self, name: str, after: int) -> Event:
        wait_until(lambda: self.events(name, after), SECONDS, f"event {name}\n{self.why}")
        return self.events(name, after)[0]

    def await_state(self, *states: str) -> None:
        self.mount.await_state(*states, seconds=SECONDS)

    @property
    def why(self) -> str:
        status = self.status
        shown = {key: status[key] for key in ("state", "reason", "job", "queue_length", "requeued")}
        return f"{shown}\n{self.mount.events(20)}"

    # -- what is done ----------------------------------------------------------------------------

    def resync(self, *options: str) -> Event:
        """A manual resync, as `afmctl resync --yes` has it; the event of its end."""
        before = self.last_event
        self.control(" ".join(["resync", *options]))
        return self.await_end(before)

    def await_end(self, after: int) -> Event:
        """The event with which the next job ends; the fileset is at rest then."""
        event = self.await_event("afmManualResyncComplete", after)
        self.await_state("Active", "NeedsResync", "Dirty")
        return event

    def flush(self) -> None:
        """All that is pending is at home on return."""
        self.control("flushPending")
        self.await_state("Active", "Inactive")

    def flush_into_conflict(self) -> None:
        """What is pending meets what was done at home."""
        self.control("flushPending")
        self.await_state("NeedsResync")

    def rest(self) -> None:
        """Home agrees, and nothing is pending, whatever the row before has left."""
        self.control("auto_resync on")
        wait_until(lambda: not self.status["job"], SECONDS, "no job is left")
        if self.state == "NeedsResync":
            self.resync()
        self.flush()

    def room(self, number: int) -> Room:
        name = f"room {number}"
        return Room(self, self.home / name, self.point / name)

    @contextmanager
    def frozen_gateway(self) -> Iterator[None]:
        """Nothing is done at home inside the block."""
        (gateway,) = self.mount.gateways()
        gateway.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            gateway.send_signal(signal.SIGCONT)


@dataclass(frozen=True, slots=True)
class Room:
    """A directory: at home, and in the mount."""

    scene: Scene
    home: Path
    point: Path

    def fill(self, **files: int) -> None:
        """Files at home, each with so many bytes of its own."""
        for seed, (name, size) in enumerate(files.items()):
            (self.home / name).write_bytes(noise(size, seed))

    def read(self, *names: str) -> None:
        """Have them cached."""
        for name in names:
            assert (self.point / name).read_bytes() == (self.home / name).read_bytes()

    def read_blocks(self, name: str, *blocks: int) -> None:
        """Have just these blocks cached: no read-ahead."""
        with (self.point / name).open("rb", buffering=0) as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
            for block in blocks:
                os.pread(file.fileno(), BLOCK, block * BLOCK)
        assert self.cached(name)["cached_blocks"] == len(blocks)

    def cached(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(
            self.scene.control(f"cached --json -- '{self.home.name}/{name}'")
        )
        return found

    def evict(self, name: str) -> None:
        self.scene.control(f"evict --file='{self.home.name}/{name}'")
        assert self.cached(name)["state"] == "uncached"

    def stray(self, name: str, data: bytes) -> None:
        """The inadvertent write."""
        (self.home / name).write_bytes(data)

    def write(self, name: str, offset: int, data: bytes) -> None:
        """Change a file in the mount, in place."""
        with (self.point / name).open("r+b", buffering=0) as file:
            os.pwrite(file.fileno(), data, offset)

    def conflict(self, name: str = "met") -> None:
        """A stray write to a new file of this room, met by a flush."""
        (self.point / name).write_bytes(noise(100))
        self.scene.flush()
        self.stray(name, b"stray")
        self.write(name, 0, b"ours")
        self.scene.flush_into_conflict()

    def same(self, *names: str) -> bool:
        """Whether cache and home have the same bytes and times of these files."""
        pairs = [(self.point / name, self.home / name) for name in names]
        return all(
            one.read_bytes() == two.read_bytes()
            and one.stat().st_mtime_ns == two.stat().st_mtime_ns
            for one, two in pairs
        )

    def trash(self) -> list[bytes]:
        """The content of every file that any resync has moved aside."""
        top = self.scene.home / ".afm/.afmtrash"
        files = [path for path in top.rglob("*") if path.is_file() and path.name != "index"]
        return [path.read_bytes() for path in files]


@contextmanager
def running(path: Path) -> Iterator[None]:
    """A program that runs from `path` at home: for as long as it does, nobody can write to it."""
    process = subprocess.Popen([path, "1000"], executable=path)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def put_program(path: Path) -> None:
    """Something for `running`."""
    found = shutil.which("sleep")
    assert found is not None
    shutil.copyfile(os.path.realpath(found), path)
    path.chmod(0o755)


def build(home: Path, base: Path, *options: str) -> Scene:
    """Mounted, with empty rooms at home."""
    for number in range(ROOMS):
        (home / f"room {number}").mkdir(parents=True)
    mount = Mount(home, base, *OPTIONS, f"device=seed{os.getpid()}", *options, watch=300)
    mount.mount()
    return Scene(mount)
