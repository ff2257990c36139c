"""verify on a real mount: what was planted is found, a healthy mount has nothing to tell."""

from __future__ import annotations

import errno
import json
import os
import random
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import MakeMount
from tests.harness.mounting import Mount, wait_until
from tests.harness.trees import snapshot

pytestmark = pytest.mark.mounted

BLOCK = 4096
Row = dict[str, Any]


def verify(mount: Mount, *words: str) -> list[Row]:
    """The differences, by afmctl; its exit status has to fit."""
    run = mount.afmctl("verify", "--json", *words)
    rows: list[Row] = [json.loads(line) for line in run.stdout.splitlines()]
    assert rows, run.stderr
    summary = rows.pop()["summary"]
    differ = any(row["difference"] != "extra" for row in rows)
    assert run.returncode == int(differ), run.stderr
    assert sum(summary["differences"].values()) == len(rows)
    return rows


def brief(rows: list[Row]) -> set[tuple[str, str]]:
    return {(row["path"], row["difference"]) for row in rows}


def walk(point: Path) -> None:
    """Have every directory read."""
    for _ in os.walk(os.fsencode(point)):
        pass


@pytest.fixture
def mount(make_mount: MakeMount, home: Path) -> Mount:
    """Of a home with some files, one of them partly cached, and some made here, flushed."""
    (home / "old").mkdir()
    (home / "old" / "partial").write_bytes(os.urandom(10 * BLOCK))
    (home / "old" / "uncached").write_bytes(os.urandom(3 * BLOCK))
    os.symlink(b"any\xff", os.fsencode(home / "old" / "link"))
    os.link(home / "old" / "uncached", home / "old" / "twin")
    mount = make_mount(home, f"block_size={BLOCK}", "async_delay=1")
    point = mount.point
    with open(point / "old" / "partial", "rb", buffering=0) as file:
        os.pread(file.fileno(), 10, 3 * BLOCK)
    (point / "new").mkdir()
    (point / "new" / "file").write_bytes(os.urandom(3 * BLOCK + 7))
    (point / "new" / "empty").touch()
    Path(os.fsdecode(os.fsencode(point / "new") + b"/\xff\n\x01")).write_bytes(b"odd")
    os.mkfifo(point / "new" / "fifo")
    os.symlink("file", point / "new" / "link")
    with open(point / "new" / "sparse", "wb") as file:
        file.seek(1 << 24)
        file.write(b"end")
    mount.flush()
    return mount


def test_nothing_differs_and_nothing_changes(mount: Mount, home: Path) -> None:
    walk(mount.point)
    before = snapshot(home, holes=True)
    times = {path: os.lstat(os.path.join(os.fsencode(home), path)) for path in before}
    assert verify(mount) == []
    assert verify(mount, "--data") == []
    assert snapshot(home, holes=True) == before
    status = mount.status()
    assert (status["state"], status["queue_length"]) == ("Active", 0)
    if os.geteuid() == 0:
        for path, st in times.items():
            now = os.lstat(os.path.join(os.fsencode(home), path))
            assert now.st_ctime_ns == st.st_ctime_ns, path


def test_nothing_differs_while_everything_is_pending(mount: Mount, home: Path) -> None:
    point = mount.point
    walk(point)
    assert mount.afmctl("stop").returncode == 0
    before = snapshot(home)
    with open(point / "old" / "partial", "r+b") as file:
        file.seek(7 * BLOCK + 100)
        file.write(b"pending")
    os.truncate(point / "old" / "uncached", 5000)
    os.chmod(point / "new" / "file", 0o600)
    os.utime(point / "new" / "empty", ns=(5, 7))
    os.utime(point / "old", ns=(5, 9))
    os.rename(point / "new", point / "renamed")
    os.rename(point / "renamed" / "link", point / "old" / "moved")
    (point / "renamed" / "fifo").unlink()
    (point / "renamed" / "fifo").write_bytes(b"another type")
    (point / "renamed" / "sparse").write_bytes(b"truncated")
    (point / "made" / "below").mkdir(parents=True)
    os.link(point / "old" / "twin", point / "made" / "third")
    held = open(point / "old" / "link2", "wb")  # noqa: SIM115
    held.write(b"x")
    os.unlink(point / "old" / "link2")
    assert verify(mount, "--data") == []
    assert snapshot(home) == before
    held.close()
    assert mount.afmctl("start").returncode == 0
    mount.flush()
    assert snapshot(home) == snapshot(point)
    assert verify(mount, "--data") == []


def test_what_is_kept_for_who_has_it_open(mount: Mount, home: Path) -> None:
    """Removed here while open and not whole: home keeps it, and what is written is not queued."""
    with open(mount.point / "old" / "partial", "r+b") as file:
        os.unlink(mount.point / "old" / "partial")
        mount.flush()
        file.write(b"not queued")
        file.truncate(5)
        assert list((home / ".afm" / "unlinked").iterdir())
        assert verify(mount, "--data") == []
    mount.flush()
    assert verify(mount, "--data") == []


Damage = Callable[[bytes], object]


def quietly(path: bytes, change: Damage) -> None:
    """Change something at home so that its directory's time does not tell."""
    st = os.stat(os.path.dirname(path))
    change(path)
    os.utime(os.path.dirname(path), ns=(st.st_atime_ns, st.st_mtime_ns))


def rot(path: bytes, offset: int) -> None:
    """A byte changes, and nothing tells."""
    st = os.stat(path)
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ 1]))
    os.utime(path, ns=(st.st_atime_ns, st.st_mtime_ns))


def swap(path: bytes) -> None:
    """For a file that looks the same."""
    st = os.stat(path)
    with open(path, "rb") as old, open(path + b"~", "wb") as new:
        new.write(old.read())
    os.chmod(path + b"~", stat.S_IMODE(st.st_mode))
    os.utime(path + b"~", ns=(st.st_atime_ns, st.st_mtime_ns))
    os.rename(path + b"~", path)


PLANTED: dict[bytes, tuple[Damage, str]] = {
    b"new/\xff\n\x01": (os.unlink, "missing"),
    b"new/fifo": (lambda p: (os.unlink(p), os.mkdir(p)), "type"),
    b"new/link": (lambda p: (os.unlink(p), os.symlink(b"x", p)), "target"),
    b"old/twin": (lambda p: os.truncate(p, 1), "size mtime"),
    b"new/mtime": (lambda p: os.utime(p, ns=(1, 1)), "mtime"),
    b"new/nanosecond": (
        lambda p: os.utime(p, ns=(1, os.stat(p).st_mtime_ns + 1)), "mtime"
    ),
    b"new/version": (swap, "version"),
    b"new/mode": (lambda p: os.chmod(p, 0o640), "mode"),
    b"new/dir": (lambda p: os.utime(p, ns=(1, 1)), "mtime"),
    b"old/stray\xfe": (lambda p: open(p, "x").close(), "extra"),
    b"old/partial": (lambda p: rot(p, 3 * BLOCK + 5), "data"),
    b"new/sparse": (lambda p: rot(p, 1 << 23), "data"),
    b"new/gone": (lambda p: subprocess.run([b"rm", b"-r", p], check=True), "missing"),
    b"new/elsewhere": (
        lambda p: (os.rename(p, p + b"/../../../elsewhere"), os.symlink(b"../../elsewhere", p)),
        "type",
    ),
}  # fmt: skip
BELOW = {("new/gone/below", "missing"), ("new/elsewhere/file", "missing")}
"""What goes with its directory."""


def test_what_is_planted_is_found(mount: Mount, home: Path) -> None:
    new = mount.point / "new"
    for name in ("mtime", "nanosecond", "version", "mode"):
        (new / name).write_bytes(name.encode())
    for name in ("dir", "gone", "elsewhere"):
        (new / name).mkdir()
    (new / "gone" / "below").touch()
    (new / "elsewhere" / "file").write_bytes(b"file")
    walk(mount.point)
    mount.flush()
    assert verify(mount, "--data") == []
    for path, (damage, _) in PLANTED.items():
        quietly(os.path.join(os.fsencode(home), path), damage)
    before = snapshot(home)
    wanted = BELOW | {
        (os.fsdecode(path), kind) for path, (_, kinds) in PLANTED.items() for kind in kinds.split()
    }
    assert brief(verify(mount, "--data")) == wanted
    assert brief(verify(mount)) == {(path, kind) for path, kind in wanted if kind != "data"}
    assert snapshot(home) == before
    assert (home / ".." / "elsewhere" / "file").read_bytes() == b"file"
    assert mount.status()["state"] == "Active", "to look is not to meet it"


def test_uncached_bytes_are_nobodys_business(mount: Mount, home: Path) -> None:
    rot(os.fsencode(home / "old" / "partial"), 9 * BLOCK)
    assert verify(mount, "--data") == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_owners(mount: Mount, home: Path) -> None:
    os.chown(home / "new" / "file", 1234, 1235)
    assert brief(verify(mount)) == {("new/file", "owner")}


def test_a_part_of_the_tree(mount: Mount, home: Path) -> None:
    walk(mount.point)
    os.chmod(home / "new" / "file", 0o600)
    os.chmod(home / "old" / "partial", 0o600)
    assert brief(verify(mount, "new")) == {("new/file", "mode")}
    assert brief(verify(mount, str(mount.point / "old" / "partial"))) == {("old/partial", "mode")}
    assert verify(mount, os.fsdecode(b"new/\xff\n\x01")) == []


def test_through_the_control_directory(mount: Mount, home: Path) -> None:
    afm = mount.point / ".afm"
    assert (afm / "report").read_bytes() == b""
    os.chmod(home / "new" / "file", 0o600)
    (afm / "control").write_text("verify --data\n")
    reply = "report 1 is being made; read .afm/report when status.json says that it is not running"
    assert (afm / "control").read_text() == f"verify --data\nverify: {reply}\n"
    wait_until(lambda: not mount.status()["report"]["running"], 30, "the report is made")
    report = mount.status()["report"]
    assert (report["number"], report["kind"], report["errno"]) == (1, "verify", 0)
    rows = [json.loads(line) for line in (afm / "report").read_text().splitlines()]
    assert brief(rows[:-1]) == {("new/file", "mode")}
    assert rows[-1]["summary"]["differences"] == {"mode": 1}


def test_a_stray_write_is_seen_and_resynced(mount: Mount, home: Path) -> None:
    walk(mount.point)
    (home / "new" / "file").write_bytes(b"stray")
    os.unlink(home / "new" / "empty")
    (home / "new" / "extra").touch()
    assert {kind for _, kind in brief(verify(mount, "--data"))} == {
        "size", "mtime", "missing", "extra", "data",
    }  # fmt: skip
    run = mount.afmctl("resync", "--wait", "--yes")
    assert run.returncode == 0, run.stderr
    # What was not cached of the partly cached file is null by now.
    assert {kind for _, kind in brief(verify(mount, "--data"))} == {"extra", "nulled"}


# -- under way -----------------------------------------------------------------------------------


class Worker(threading.Thread):
    """Changes a tree without end, as a user would, and now and then has it flushed."""

    def __init__(self, mount: Mount, seed: int) -> None:
        super().__init__(name="worker")
        self.mount, self.random = mount, random.Random(seed)
        self.top = os.fsencode(mount.point / "work")
        self.done = threading.Event()
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            os.mkdir(self.top)
            while not self.done.is_set():
                self.step()
        except BaseException as error:
            self.error = error

    def place(self) -> bytes:
        return b"%b/%d/%d" % (self.top, self.random.randrange(4), self.random.randrange(6))

    def step(self) -> None:
        choice, one, two = self.random.randrange(9), self.place(), self.place()
        try:
            if choice == 0:
                os.mkdir(os.path.dirname(one))
            elif choice == 1:
                os.rename(one, two)
            elif choice == 2:
                os.rename(os.path.dirname(one), os.path.dirname(two))
            elif choice == 3:
                os.unlink(one)
            elif choice == 4:
                os.chmod(one, self.random.choice((0o600, 0o640, 0o644)))
            elif choice == 5:
                os.link(one, two)
            elif choice == 6:
                os.truncate(one, self.random.randrange(3 * BLOCK))
            else:
                with open(one, self.random.choice(("wb", "ab", "r+b"))) as file:
                    file.write(self.random.randbytes(self.random.randrange(1, 3 * BLOCK)))
        except OSError as error:
            usual = (errno.ENOENT, errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR, errno.EISDIR)
            if error.errno not in usual:
                raise

    def end(self) -> None:
        self.done.set()
        self.join(30)
        assert not self.is_alive()
        if self.error is not None:
            raise self.error


@pytest.fixture
def busy(make_mount: MakeMount, home: Path) -> Iterator[Mount]:
    """A mount whose queue is replayed while a worker goes on."""
    mount = make_mount(home, f"block_size={BLOCK}", "async_delay=1", "durable_interval=1")
    workers = [Worker(mount, 1)]
    for worker in workers:
        worker.start()
    yield mount
    for worker in workers:
        worker.end()


def test_nothing_differs_while_all_is_in_motion(busy: Mount) -> None:
    end = time.monotonic() + 8
    while time.monotonic() < end:
        busy.afmctl("flushPending")
        # What never rests can't be compared, but is no difference.
        assert [row for row in verify(busy, "--data") if row["difference"] != "in doubt"] == []


def test_nothing_differs_after_a_kill(make_mount: MakeMount, home: Path) -> None:
    """What may have been in flight is in doubt, and settled: then cache and home are the same."""
    mount = make_mount(home, f"block_size={BLOCK}", "async_delay=1", "durable_interval=1")
    worker = Worker(mount, 3)
    worker.start()
    wait_until(lambda: mount.status()["num_exec"] > 50, 30, "something was replayed")
    mount.kill9("both")
    worker.done.set()
    worker.join(30)  # with ENOTCONN, as a rule
    mount.mount("none")
    mount.flush()
    assert verify(mount, "--data") == []
    assert snapshot(home) == snapshot(mount.point)


# -- many ----------------------------------------------------------------------------------------


def hundreds(mount: Mount, count: int) -> Mount:
    """Directories of a hundred small files each, all cached and at home."""
    for d in range(count):
        (mount.point / f"d{d}").mkdir()
        for f in range(100):
            (mount.point / f"d{d}" / f"f{f}").write_bytes(b"%d" % f * 100)
    mount.flush()
    return mount


@pytest.fixture
def many(make_mount: MakeMount, home: Path) -> Mount:
    """A report on it takes a while."""
    return hundreds(make_mount(home), 15)


@pytest.mark.long
def test_ten_thousand_files(make_mount: MakeMount, home: Path) -> None:
    many = hundreds(make_mount(home, watch=300), 100)
    (gateway,) = many.gateways()
    before = gateway.memory_info().rss
    began = time.monotonic()
    assert verify(many, "--data") == []
    assert time.monotonic() - began < 60
    assert gateway.memory_info().rss - before < 16 << 20
    for d in range(100):
        os.unlink(home / f"d{d}" / "f50")
    rows = verify(many)
    assert len([row for row in rows if row["difference"] == "missing"]) == 100
    assert {row["path"] for row in rows if row["difference"] != "missing"} == {
        f"d{d}" for d in range(100)
    }, "whose times have changed with it"


def test_one_at_a_time_and_gone_with_its_gateway(many: Mount) -> None:
    control = many.point / ".afm" / "control"
    control.write_text("verify --data\n")
    with pytest.raises(OSError) as busy:
        control.write_text("verify\n")
    assert busy.value.errno == errno.EBUSY
    assert many.status()["report"]["running"]
    many.kill9("gateway")
    wait_until(lambda: not many.status()["report"]["running"], 10, "its end is seen")
    report = many.status()["report"]
    assert (report["errno"], report["reason"]) == (errno.EIO, "the gateway ended")
    assert (many.point / ".afm" / "report").read_bytes() == b""
    many.await_state("Active")
    control.write_text("verify --data\n")
    control.write_text("verify --cancel\n")
    wait_until(lambda: not many.status()["report"]["running"], 10, "it is ended")
    assert many.status()["report"]["errno"] == errno.ECANCELED
    assert verify(many) == []


def test_a_stop_waits_for_no_report(many: Mount) -> None:
    (many.point / ".afm" / "control").write_text("verify --data\n")
    began = time.monotonic()
    many.unmount()
    assert time.monotonic() - began < 5
    many.mount("none")
    assert many.status()["report"] is None
