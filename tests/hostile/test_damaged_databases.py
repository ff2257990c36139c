"""A cache whose databases are damaged, or are no databases of ours, at its next start.

It is refused with a sentence that says what to do, or it goes on: then what it reads is right, or
an error, and home gets nothing that the cache never held.
"""

from __future__ import annotations

import errno
import gc
import os
import random
import shutil
import sqlite3
import stat
import tempfile
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import pytest
import trio
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from afmfs.admin.afmctl import main
from afmfs.errors import Refused
from afmfs.model.entry import ROOT
from mount.daemon import INTERNAL, _explain
from tests.harness.engine import Engine, ThreadGateway

EXAMPLES = int(os.environ.get("AFMFS_DAMAGE_EXAMPLES", "15"))
OPTIONS = ("block_size=4k", "async_delay=1000000", "fileset=f", "noauto_resync")

Content = dict[str, tuple[bytes, ...]]
"""Path to what the file has, or had before a change that may be lost."""


class Scene:
    """A cache with everything in it, as two stops have left it, and its home."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.before: dict[str, bytes] = {}
        self.now: dict[str, bytes] = {}
        self.markers: dict[str, dict[Path, bytes]] = {}

    def note_marker(self, stop: str) -> None:
        found = (self.base / "home/.afm").rglob("*")
        self.markers[stop] = {path: path.read_bytes() for path in found if path.is_file()}

    @property
    def versions(self) -> Content:
        paths = self.before.keys() | self.now.keys()
        return {
            path: tuple(has[path] for has in (self.before, self.now) if path in has)
            for path in paths
        }


def text(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    base = tmp_path_factory.mktemp("damaged")
    made = Scene(base)
    home = base / "home"
    (home / "d/e").mkdir(parents=True)
    for n in range(8):
        made.before[f"f{n}"] = text(n, 30 + n)
    for n, path in enumerate(("whole", "part", "d/part", "d/e/uncached", "changed", "d/gone")):
        made.before[path] = text(100 + n, 20_000 + n)
    for path, data in made.before.items():
        (home / path).write_bytes(data)
    engine = Engine(home, base / "killed", *OPTIONS, gateway=ThreadGateway)
    engine.checks = False
    (base / "killed").mkdir()
    engine.start()
    try:
        _work(engine, made)
        shutil.copytree(engine.cache, base / "left" / "cache")  # as after a kill
        made.note_marker("killed")
    finally:
        engine.stop()
    made.note_marker("stopped")
    shutil.copytree(home, base / "home then", symlinks=True)
    (base / "killed").rename(base / "stopped")
    (base / "left").rename(base / "killed")
    return made


def _work(engine: Engine, made: Scene) -> None:
    fileset, now = engine.fileset, made.now
    now.update(made.before)

    async def work() -> None:
        async def at(path: str) -> int:
            ino = ROOT
            for name in path.split("/"):
                ino = (await fileset.lookup(ino, name.encode())).ino
            return ino

        for path in ("whole", "changed", *(f"f{n}" for n in range(0, 8, 2))):
            await fileset.read(await at(path), 0, 1 << 20)
        for path in ("part", "d/part"):
            await fileset.read(await at(path), 5000, 10)
        await fileset._durable.make()
        for path, offset, size in (("changed", 3000, 9000), ("d/part", 10, 30), ("f3", 0, 100)):
            data = text(hash(path) & 0xFFFF, size)
            await fileset.write(await at(path), offset, data)
            old = now[path]
            now[path] = old[:offset] + data + old[offset + size :]
        for n in range(20):
            path = f"d/new{n}"
            inode = await fileset.make(
                await at("d"), b"new%d" % n, mode=stat.S_IFREG | 0o644, uid=0, gid=0
            )
            now[path] = text(n + 500, 700 * n)
            await fileset.write(inode.ino, 0, now[path])
        await fileset.rename(ROOT, b"f4", await at("d"), b"moved", 0)
        now["d/moved"] = now.pop("f4")
        await fileset.remove(await at("d"), b"gone", directory=False)
        del now["d/gone"]

    engine.call(work)


# -- a start, and what is seen then ----------------------------------------------------------------


class Opened:
    """The cache, damaged by `harm`, started beside a copy of its home."""

    def __init__(
        self, scene: Scene, base: Path, which: str, harm: Callable[[Path], object]
    ) -> None:
        self.scene, self.base = scene, base
        shutil.copytree(scene.base / which, base / "copy", symlinks=True)
        home = scene.base / "home"
        shutil.rmtree(home)
        shutil.copytree(scene.base / "home then", home, symlinks=True)
        for path, data in scene.markers[which].items():
            path.write_bytes(data)  # home has not seen the mounts of other tests
        self._home = home
        self.engine = Engine(home, base / "copy", *OPTIONS, gateway=ThreadGateway)
        self.engine.checks = False
        self.refused = ""
        harm(self.engine.cache)

    def run(self, *, replays: bool = False) -> None:
        try:
            try:
                self.engine.start()
                self.look()
                if replays:
                    self.replay()
            finally:
                self.engine.stop()
        except AssertionError:
            raise
        except BaseException as error:
            code, self.refused = _explain(error)
            assert code != INTERNAL, f"{self.refused}: {error!r}"
            assert self.refused and "Error" not in self.refused, self.refused
            assert "\n" not in self.refused
            del error
            gc.collect()
            _close_below(self.base)

    def replay(self) -> None:
        """What home gets is what the cache holds, or held a moment ago; nothing else is lost."""

        async def flush() -> None:
            self.engine.fileset.flush_pending()
            with trio.move_on_after(1.5):
                while self.engine.fileset.status().queue_length:  # noqa: ASYNC110  # a figure
                    await trio.sleep(0.01)

        self.engine.call(flush)
        there = set()
        for path in self._home.rglob("*"):
            name = str(path.relative_to(self._home))
            if path.is_file() and not name.startswith(".afm"):
                there.add(name)
                _want_right(f"home's {name}", path.read_bytes(), self.scene.versions, name)
        assert self.scene.before.keys() - there <= {"d/gone", "f4"}, "home has lost them"

    def look(self) -> None:
        """What is read is right, or was so a moment ago, or is an error."""
        fileset, versions = self.engine.fileset, self.scene.versions

        async def walk(ino: int, above: str) -> None:
            for name, inode, _ in await fileset.readdir(ino, 0, 1000):
                path = above + os.fsdecode(name)
                try:
                    if inode.is_dir:
                        await walk(inode.ino, path + "/")
                    elif inode.is_file:
                        data = await fileset.read(inode.ino, 0, 1 << 20)
                        _want_right(path, bytes(data), versions)
                except AssertionError:
                    raise
                except Exception as exc:
                    _want_error(path, exc)

        async def look() -> None:
            fileset.status()
            try:
                await walk(ROOT, "")
            except AssertionError:
                raise
            except Exception as exc:
                _want_error("the root", exc)

        self.engine.call(look)


def _close_below(base: Path) -> None:
    """What a start that was refused has left open: otherwise its process ends."""
    for fd in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            if os.readlink(f"/proc/self/fd/{fd}").startswith(f"{base}/"):
                os.close(int(fd))


def _want_right(path: str, data: bytes, versions: Content, name: str = "") -> None:
    assert (name or path) in versions, f"{path} never was"
    had = versions[name or path]
    if data in had or not data:
        return
    assert len(data) in {len(one) for one in had} | {4096 * n for n in range(8)}, path
    wrong = [
        n for n, byte in enumerate(data) if not any(n < len(one) and one[n] == byte for one in had)
    ]
    assert not wrong, f"{path}: {len(wrong)} bytes from {wrong[0]} on never were"


def _want_error(path: str, exc: Exception) -> None:
    """What the mount's decorator makes an errno of, and not because nobody foresaw it."""
    from mount.errnos import errno_of

    if not isinstance(exc, OSError | sqlite3.Error):
        from afmfs.errors import AfmError

        assert isinstance(exc, AfmError), f"{path}: {exc!r}"
    assert errno_of(exc, path) in {errno.EIO, errno.ENOENT, errno.ESTALE, errno.EROFS}, path


# -- what is done to them --------------------------------------------------------------------------


def database(cache: Path, which: str) -> Path:
    return cache / ("cache.db" if which == "cache" else "gateway/1/gateway.db")


def other_program(path: Path) -> None:
    Path(f"{path}-wal").unlink(missing_ok=True)
    path.unlink()
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("CREATE TABLE moz_places (id INTEGER PRIMARY KEY, url TEXT)")
        db.execute("INSERT INTO moz_places VALUES (1, 'https://example.org')")


def same_tables_of_another(path: Path) -> None:
    Path(f"{path}-wal").unlink(missing_ok=True)
    path.unlink()
    with closing(sqlite3.connect(path)) as db, db:
        for table in ("inode", "queue", "fileset", "outcome", "flight", "state"):
            db.execute(f"CREATE TABLE {table} (a, b)")
            db.execute(f"INSERT INTO {table} VALUES ('x', 'y')")


def set_version(path: Path, version: int) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute(f"PRAGMA user_version={version}")


def replace(path: Path, data: bytes) -> None:
    Path(f"{path}-wal").unlink(missing_ok=True)
    Path(f"{path}-shm").unlink(missing_ok=True)
    path.write_bytes(data)


def lose(path: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)


def a_directory(path: Path) -> None:
    lose(path)
    path.mkdir()


KINDS: dict[str, Callable[[Path], object]] = {
    "another program's": other_program,
    "another program's with our names": same_tables_of_another,
    "of a later version": lambda path: set_version(path, 99),
    "of no version": lambda path: set_version(path, 0),
    "of a negative version": lambda path: set_version(path, -1),
    "text": lambda path: replace(path, b"#!/bin/sh\necho hello\n" * 100),
    "empty": lambda path: replace(path, b""),
    "one byte": lambda path: replace(path, b"S"),
    "zeros": lambda path: replace(path, bytes(8192)),
    "missing": lose,
    "a directory": a_directory,
    "a dangling link": lambda path: [lose(path), path.symlink_to("/nowhere/at/all")],
    "without its log": lambda path: Path(f"{path}-wal").unlink(missing_ok=True),
    "with a log of noise": lambda path: Path(f"{path}-wal").write_bytes(text(1, 50_000)),
    "cut in half": lambda path: os.truncate(path, path.stat().st_size // 2),
    "without its last byte": lambda path: os.truncate(path, path.stat().st_size - 1),
}


@pytest.mark.parametrize("stop", ["killed", "stopped"])
@pytest.mark.parametrize("which", ["cache", "gateway"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_database_of_ours(
    scene: Scene, tmp_path: Path, kind: str, which: str, stop: str
) -> None:
    def harm(cache: Path) -> None:
        KINDS[kind](database(cache, which))

    opened = Opened(scene, tmp_path, stop, harm)
    path = database(opened.engine.cache, which)
    was = path.read_bytes() if path.is_file() else b""
    opened.run()
    if kind.startswith("another") and which == "cache":
        assert opened.refused and path.read_bytes() == was
    if which == "cache" and kind not in ("without its log", "with a log of noise", "cut in half",
                                         "without its last byte"):  # fmt: skip
        assert opened.refused, "a cache with data in it is never taken for a new one"


@pytest.mark.parametrize("kind", KINDS)
def test_afmctl_asks_a_cache_that_is_none(scene: Scene, tmp_path: Path, kind: str) -> None:
    """Unmounted, as its administrator would, to see what is wrong."""
    cache = tmp_path / "cache"
    shutil.copytree(scene.base / "killed/cache", cache, symlinks=True)
    for which in ("gateway", "cache"):
        KINDS[kind](database(cache, which))
        for words in (["getstate"], ["queue"], ["events"], ["cached", "d/part"], ["check"]):
            run = CliRunner().invoke(main, [str(cache), *words])
            assert run.exception is None or isinstance(run.exception, SystemExit), (
                f"{which}, {words}: {run.exception!r}"
            )
            assert "Traceback" not in run.output and "Error(" not in run.output, run.output


pages = st.tuples(st.integers(0, 300), st.sampled_from(["noise", "zeros", "another page", "a bit"]))


def spoil(path: Path, number: int, how: str, chance: random.Random) -> None:
    """A page of a database, or of its log, is not what was written."""
    size = path.stat().st_size
    count = max(1, size // 1024)
    with path.open("r+b") as file:
        at = number % count * 1024
        old = os.pread(file.fileno(), 1024, at)
        if not path.name.endswith("-wal") and old[:1] == b"\0":
            return  # of long values, or free: SQLite can't tell it from what was written
        other = os.pread(file.fileno(), 1024, chance.randrange(count) * 1024)
        bit = bytearray(old)
        bit[chance.randrange(len(bit))] ^= 1 << chance.randrange(8)
        new = {"noise": chance.randbytes(1024), "zeros": bytes(1024), "another page": other}
        os.pwrite(file.fileno(), new.get(how, bytes(bit))[: len(old)], at)


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    stop=st.sampled_from(["killed", "stopped"]),
    which=st.sampled_from(["cache", "cache", "gateway"]),
    harm=st.lists(pages, min_size=1, max_size=3),
    log=st.booleans(),
    cut=st.one_of(st.none(), st.floats(0, 1)),
    seed=st.integers(0, 2**32),
)
def test_pages_that_are_not_what_was_written(
    scene: Scene,
    stop: str,
    which: str,
    harm: list[tuple[int, str]],
    log: bool,
    cut: float | None,
    seed: int,
) -> None:
    """A flipped bit in a row, a page in the place of another of its kind, and what is in a long
    value (a block map, say) cannot be told from what was written: only the log has checksums. A
    check compares them with the blobs."""

    def damage(cache: Path) -> None:
        path = database(cache, which)
        wal = Path(f"{path}-wal")
        if wal.exists() and wal.stat().st_size and cut is not None:
            os.truncate(wal, int(cut * wal.stat().st_size))
        in_log = log and wal.exists() and wal.stat().st_size
        for number, how in harm:
            if in_log or how in ("noise", "zeros"):
                spoil(wal if in_log else path, number, how, random.Random(seed))

    with tempfile.TemporaryDirectory(dir=scene.base) as base:
        Opened(scene, Path(base), stop, damage).run(replays=True)


def test_what_several_tasks_fail_of_is_told_in_a_sentence() -> None:
    malformed = sqlite3.DatabaseError("database disk image is malformed")
    several = ExceptionGroup("", [OSError(5, "no"), ExceptionGroup("", [malformed])])
    assert _explain(several) == (
        2, "the cache's databases can't be used: database disk image is malformed"
    )  # fmt: skip
    assert _explain(ExceptionGroup("", [several, Refused("no")])) == (32, "no")
    assert _explain(ExceptionGroup("", [several, KeyError("a bug")]))[0] == INTERNAL
