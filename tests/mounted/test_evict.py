"""Evicting at a real mount: what is read afterwards is what home has, whatever came in between."""

from __future__ import annotations

import json
import mmap
import os
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import MakeMount
from tests.harness.mounting import Mount, wait_until

pytestmark = pytest.mark.mounted

BLOCK = 65536
OPTIONS = ("fileset=sw1", "block_size=64K", "durable_interval=1", "async_delay=1")


@pytest.fixture
def mount(make_mount: MakeMount, home: Path) -> Mount:
    for number in range(4):
        (home / f"{number}.bin").write_bytes(content(number, (number + 1) * 2 * BLOCK + 100))
    return make_mount(home, *OPTIONS)


def content(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


def evict(mount: Mount, *words: str) -> str:
    run = mount.afmctl("evict", *words)
    assert run.returncode == 0, run.stderr
    return run.stdout


def refused(mount: Mount, *words: str) -> str:
    run = mount.afmctl("evict", *words)
    assert run.returncode == 1, run.stdout
    return run.stderr


def cached(mount: Mount, path: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(mount.afmctl("cached", "--json", path).stdout)
    return found


def blobs(mount: Mount) -> int:
    """Bytes that all blobs occupy."""
    found = [path.lstat() for path in (mount.cache / "blobs").rglob("*") if path.is_file()]
    return sum(info.st_blocks * 512 for info in found)


def test_whole_and_partial(mount: Mount, home: Path) -> None:
    whole, partial = mount.point / "0.bin", mount.point / "1.bin"
    assert whole.read_bytes() == (home / "0.bin").read_bytes()
    with partial.open("rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        os.pread(file.fileno(), 1, BLOCK)
    assert cached(mount, "1.bin")["state"] == "partial"
    before = whole.stat()
    assert evict(mount, "--file", "0.bin") == f"evict: 1 file, {2 * BLOCK + 100} bytes freed\n"
    assert evict(mount, "--file", str(partial)).startswith("evict: 1 file,")
    assert [cached(mount, name)["state"] for name in ("0.bin", "1.bin")] == ["uncached"] * 2
    assert mount.status()["cached_bytes"] == 0
    assert whole.stat() == before
    wait_until(lambda: blobs(mount) == 0, 10, "a durable point frees the disk")
    for name in ("0.bin", "1.bin"):
        assert (mount.point / name).read_bytes() == (home / name).read_bytes()
    assert "1 file, 131172 bytes" in evict(mount, "--file", "0.bin")  # as it was fetched again


def test_what_is_read_again_comes_from_home(mount: Mount, home: Path) -> None:
    """The kernel keeps no page of it: a version that passes for the known one is seen."""
    path = mount.point / "0.bin"
    path.read_bytes()
    evict(mount, "--file", "0.bin")
    there = (home / "0.bin").stat()
    (home / "0.bin").write_bytes(content(9, there.st_size))
    os.utime(home / "0.bin", ns=(there.st_atime_ns, there.st_mtime_ns))
    assert path.read_bytes() == content(9, there.st_size)


def test_dirty(mount: Mount, home: Path) -> None:
    mount.afmctl("stop")
    (mount.point / "new").write_bytes(b"only here")
    with (mount.point / "0.bin").open("r+b") as file:
        file.write(b"new")
    for name in ("new", "0.bin"):
        assert "pending changes; `flushPending --wait`" in refused(mount, "--file", name)
    mount.afmctl("start")
    mount.flush()
    assert evict(mount, "--file", "new", "--file", "0.bin").startswith("evict: 2 files")
    assert (mount.point / "new").read_bytes() == b"only here"
    assert (mount.point / "0.bin").read_bytes() == b"new" + content(0, 2 * BLOCK + 100)[3:]


def test_holes_and_truncations(mount: Mount, home: Path) -> None:
    """What was cut off, and made longer again, is no more after it than before."""
    path = mount.point / "0.bin"
    path.read_bytes()
    os.truncate(path, 1000)
    os.truncate(path, 3 * BLOCK)
    with path.open("r+b") as file:
        file.seek(2 * BLOCK + 5)
        file.write(b"end")
    expected = path.read_bytes()
    mount.flush()
    evict(mount, "--file", "0.bin")
    assert path.read_bytes() == expected == (home / "0.bin").read_bytes()


def test_open_and_mapped(mount: Mount, home: Path) -> None:
    """Handles and mappings go on; what is stored through them gets home."""
    path, size = mount.point / "3.bin", 8 * BLOCK + 100
    with path.open("r+b", buffering=0) as file, mmap.mmap(file.fileno(), 0) as view:
        assert view[:] == content(3, size)
        evict(mount, "--file", "3.bin")
        assert os.pread(file.fileno(), 100, 50) == content(3, size)[50:150]
        assert view[BLOCK:] == content(3, size)[BLOCK:]
        (mount.point / ".afm/control").write_text("stop")  # or it is at home before it is asked
        view[7] = ord("m")
        view.flush()
        assert "pending changes" in refused(mount, "--file", "3.bin")
        (mount.point / ".afm/control").write_text("start")
        mount.flush()
        evict(mount, "--file", "3.bin")
        view[8] = ord("n")
        view.flush()
        expected = content(3, size)[:7] + b"mn" + content(3, size)[9:]
        assert view[:] == expected
    mount.flush()
    assert (home / "3.bin").read_bytes() == expected


def test_mapped_and_not_yet_written_back(mount: Mount, home: Path) -> None:
    """To forget such pages the kernel has to write them first: to the mount, which is not to wait
    for the kernel then."""
    path, expected = mount.point / "3.bin", bytearray(content(3, 8 * BLOCK + 100))
    with path.open("r+b", buffering=0) as file, mmap.mmap(file.fileno(), 0) as view:

        def evicted() -> bool:
            mount.flush()
            assert view[:] == expected
            for at in (7, BLOCK + 7):
                view[at] = expected[at] = (view[at] + 1) % 256
            try:
                (mount.point / ".afm/control").write_text("evict --file 3.bin")
            except OSError:  # the kernel has written them by itself: pending changes
                return False
            return True

        wait_until(evicted, 60, "it is evicted")
        assert view[:] == expected
        view.flush()
    mount.flush()
    assert (home / "3.bin").read_bytes() == expected == path.read_bytes()


def test_a_list_of_files(mount: Mount, tmp_path: Path) -> None:
    names = [f"many/{n} '\"\\\udcff" for n in range(120)]
    (mount.point / "many").mkdir()
    for name in names:
        (mount.point / name).write_bytes(b"x" * 10)
    mount.flush()
    listed = tmp_path / "list"
    listed.write_bytes(b"".join(os.fsencode(f"{mount.point}/{name}\n") for name in names))
    assert evict(mount, "--list-file", str(listed)) == "evict: 120 files, 1.2 kB freed\n"
    assert (mount.point / names[0]).read_bytes() == b"x" * 10
    listed.write_bytes(os.fsencode(f"{names[0]}\0missing\0"))
    run = mount.afmctl("evict", "--list-file", str(listed))
    assert (run.returncode, run.stdout) == (1, "evict: 1 file, 10 bytes freed\n")
    assert "missing: No such file" in run.stderr
    assert "is for afmctl" in control(mount, f"evict --list-file {listed}")


def control(mount: Mount, line: str) -> str:
    """What the control file says, whether it takes the command or not."""
    with open(mount.point / ".afm/control", "r+b", buffering=0) as file:
        try:
            file.write(line.encode())
        except OSError as error:
            assert error.errno  # the reply says why
    return (mount.point / ".afm/control").read_text()


def test_the_control_file(mount: Mount) -> None:
    for name in ("0.bin", "1.bin"):
        (mount.point / name).read_bytes()
    assert "2 files" in control(mount, "evict --file 0.bin 1.bin")
    assert "takes one of" in control(mount, "evict 0.bin")


@pytest.mark.parametrize("kill", ["mount", "both"])
def test_killed_right_after(mount: Mount, home: Path, kill: str) -> None:
    for name in ("0.bin", "1.bin"):
        (mount.point / name).read_bytes()
    with (mount.point / "new").open("wb") as file:
        file.write(b"n" * 3 * BLOCK)
    mount.flush()
    evict(mount, "--file", "0.bin", "--file", "new")
    mount.kill9(kill)
    mount.mount()
    for name in ("0.bin", "1.bin", "new"):
        assert (mount.point / name).read_bytes() == (home / name).read_bytes()
    assert mount.status()["state"] == "Active"


def test_nothing_while_home_may_not_have_it(mount: Mount, home: Path) -> None:
    (mount.point / "0.bin").read_bytes()
    (home / "0.bin").write_bytes(b"inadvertent")
    mount.afmctl("auto_resync", "off")
    with (mount.point / "0.bin").open("r+b") as file:
        file.write(b"new")
    mount.await_state("NeedsResync")
    (mount.point / "1.bin").read_bytes()
    assert "`resync` first" in refused(mount, "--file", "1.bin")
    assert "`resync` first" in refused(mount, "--safe-limit", "0")


def test_nothing_while_home_is_away(mount: Mount, home: Path) -> None:
    (mount.point / "0.bin").read_bytes()
    home.rename(home.parent / "elsewhere")
    mount.await_state("Unmounted", "Disconnected")
    assert "home" in refused(mount, "--file", "0.bin")
    assert (mount.point / "0.bin").read_bytes() == content(0, 2 * BLOCK + 100)
    (home.parent / "elsewhere").rename(home)


# -- down to a limit -----------------------------------------------------------------------------


def uncached(mount: Mount) -> list[str]:
    return [n for n in sorted(os.listdir(mount.point)) if cached(mount, n)["state"] == "uncached"]


def read_in_order(mount: Mount, *names: str) -> None:
    for name in names:
        (mount.point / name).read_bytes()
        time.sleep(0.01)  # a use is told from the next one by the clock


def test_least_recently_used(mount: Mount) -> None:
    read_in_order(mount, "2.bin", "0.bin", "3.bin", "1.bin", "0.bin")
    mount.remount()  # what was used when lasts
    read_in_order(mount, "3.bin")
    told = evict(mount, "--safe-limit", str(13 * BLOCK))
    assert uncached(mount) == ["1.bin", "2.bin"]
    assert told.startswith("evict: 2 files, ")
    assert mount.status()["cached_bytes"] <= 13 * BLOCK
    assert blobs(mount) < 13 * BLOCK
    (event,) = [json.loads(line) for line in mount.events().splitlines() if "afmEvictEnd" in line]
    assert (event["files"], event["reason"]) == (2, "")


def test_biggest_first(mount: Mount) -> None:
    read_in_order(mount, "3.bin", "2.bin", "1.bin", "0.bin")
    evict(mount, "--safe-limit", "800K", "--order", "SIZE")
    assert uncached(mount) == ["3.bin"]


def test_filters(mount: Mount) -> None:
    read_in_order(mount, "0.bin", "1.bin", "2.bin", "3.bin")
    said = refused(
        mount, "--safe-limit", "0", "--filter", "FILENAME=[012].bin",
        "--filter", "MINFILESIZE=150K", "--filter", "MAXFILESIZE=300K",
    )  # fmt: skip
    assert "the limit is not reached: nothing else" in said
    assert uncached(mount) == ["1.bin"]
    run = mount.afmctl("evict", "--safe-limit", "0", "--filter", "COLOUR=red")
    assert run.returncode == 2
    assert "a filter is FILENAME" in run.stderr


def test_many_files(make_mount: MakeMount, home: Path) -> None:
    """In the background: others are answered meanwhile."""
    mount = make_mount(home, *OPTIONS)
    for number in range(3000):
        (mount.point / f"{number}").write_bytes(b"x")
    mount.flush()
    slowest, answered = 0.0, 0
    with Busy() as busy:
        busy.start(evict, mount, "--safe-limit", "0")
        while busy.alive():
            began = time.monotonic()
            os.statvfs(mount.point)
            slowest = max(slowest, time.monotonic() - began)
            answered += 1
    assert mount.status()["cached_bytes"] == 0
    assert answered > 20
    assert slowest < 1


class Busy:
    """Threads whose errors are the test's."""

    def __init__(self) -> None:
        self._threads: list[threading.Thread] = []
        self._errors: list[BaseException] = []
        self.ended = threading.Event()

    def __enter__(self) -> Busy:
        return self

    def start(self, call: Any, *args: Any) -> None:
        def run() -> None:
            try:
                call(*args)
            except BaseException as error:
                self._errors.append(error)
                self.ended.set()

        self._threads.append(threading.Thread(target=run))
        self._threads[-1].start()

    def alive(self) -> bool:
        return any(thread.is_alive() for thread in self._threads)

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        for thread in self._threads:
            thread.join()
        for error in self._errors:
            raise error


# -- races ---------------------------------------------------------------------------------------

DIRECT = os.O_DIRECT
"""Past the kernel's pages: a page that a read fills while a write of it is on its way may be older
than the write, and that is the kernel's to say."""

PIECE = 4096
PIECES = 48


def piece(number: int, version: int) -> bytes:
    return (b"%06d %06d|" % (number, version)) * (PIECE // 14) + b"." * (PIECE % 14)


@contextmanager
def opened(path: Path, flags: int) -> Iterator[int]:
    fd = os.open(path, flags)
    try:
        yield fd
    finally:
        os.close(fd)


def test_racing_reads_and_writes(make_mount: MakeMount, home: Path) -> None:
    """Each piece reads as what was last written to it, or is being written, while the file is
    pushed, evicted and fetched again all the time."""
    mount = make_mount(home, "fileset=sw1", "block_size=16K", "durable_interval=1", "async_delay=1")
    path = mount.point / "f"
    path.write_bytes(b"".join(piece(n, 0) for n in range(PIECES)))
    versions = [0] * PIECES  # begun
    done = [0] * PIECES
    with Busy() as busy:

        def write(seed: int) -> None:
            dice = random.Random(seed)
            with opened(path, os.O_WRONLY | DIRECT) as fd:
                while not busy.ended.is_set():
                    number = dice.randrange(PIECES)
                    versions[number] += 1
                    os.pwrite(fd, piece(number, versions[number]), number * PIECE)
                    done[number] = versions[number]
                    busy.ended.wait(dice.choice([0, 0, 0, 1]))  # until it is clean, now and then

        def read(seed: int) -> None:
            dice = random.Random(seed)
            with opened(path, os.O_RDONLY | DIRECT) as fd:
                while not busy.ended.is_set():
                    number = dice.randrange(PIECES)
                    least = done[number]
                    data = os.pread(fd, PIECE, number * PIECE)
                    found = int(data[7:13])
                    assert data == piece(number, found), (number, data[:40])
                    assert least <= found <= versions[number], (number, least, found)

        busy.start(write, 0)
        for seed in (1, 2):
            busy.start(read, seed)
        freed = 0
        end = time.monotonic() + 15
        while time.monotonic() < end and not busy.ended.is_set():
            control(mount, "flushPending")
            freed += " bytes freed" in control(mount, "evict --file f")
    mount.flush()
    evict(mount, "--file", "f")
    assert freed > 3
    assert path.read_bytes() == (home / "f").read_bytes()
    assert path.read_bytes() == b"".join(piece(n, done[n]) for n in range(PIECES))
    assert mount.status()["state"] == "Active"
