"""What is looked at after the power came back: the cache as its users see it, and home."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import trio

from afmfs.cache.fileset import Fileset
from afmfs.model.entry import ROOT
from tests.harness.engine import Engine, ThreadGateway
from tests.harness.mounting import wait_until
from tests.power.cuts import Log
from tests.power.history import Found
from tests.power.recording import Cut, Recording, tree

PAGE = 256
ONE_READ = 1 << 20
FLUSH_SECONDS = 30.0
MOUNTED_SECONDS = 120.0

LOST = "the last stop may have lost writes"
"""What the log says where the cache has noticed."""


def examine(recording: Recording, log: Log, cut: Cut) -> int:
    """Bring the power back after a cut, and look; how many steps are lost."""
    with recording.after(log, cut):
        try:
            return _examine(recording, cut)
        except Exception as error:
            error.add_note(str(cut))
            raise


def _examine(recording: Recording, cut: Cut) -> int:
    engine = engine_on(recording.home, recording.cache_disk)
    try:
        engine.start()
        found = seen(engine)
        lost = recording.history.check(found, cut.told or cut.position)
        check_home(engine, found)
    except Exception as error:
        error.add_note(_said(engine))
        raise
    finally:
        engine.stop()
    return lost


def examine_mounted(recording: Recording, log: Log, cut: Cut) -> None:
    """As `examine`, through the kernel, with both processes."""
    with recording.after(log, cut):
        mount = recording.mount("async_delay=0", watch=MOUNTED_SECONDS)
        try:
            mount.checks = True
            found = tree(mount.point)
            recording.history.check(found, cut.position)
            mount.flush()
            assert tree(recording.home) == tree(mount.point) == found
            mount.unmount()
        except Exception as error:
            error.add_note(f"{cut}\n{mount.log_tail()}")
            raise
        finally:
            mount.terminate()


def engine_on(home: Path, cache_disk: Path) -> Engine:
    """The cache on a disk, as the next mount serves it, without FUSE and the second process."""
    options = ("async_delay=0", "auto_resync=off")
    return Engine(home, cache_disk, *options, gateway=ThreadGateway)


def seen(engine: Engine) -> Found:
    """The whole tree, every byte, through the fileset."""
    found: Found = {}

    async def walk(fileset: Fileset, ino: int, above: str) -> None:
        for name, child, mode in await _names(fileset, ino):
            path = os.path.join(above, os.fsdecode(name))
            if path == "lost+found":
                continue
            if stat.S_ISDIR(mode):
                found[path] = None
                await walk(fileset, child, path)
            else:
                try:
                    found[path] = await _bytes(fileset, child)
                except OSError as error:
                    raise AssertionError(f"{path} can't be read: {error}") from error

    engine.call(lambda: walk(engine.fileset, ROOT, ""))
    return found


async def _names(fileset: Fileset, ino: int) -> list[tuple[bytes, int, int]]:
    names: list[tuple[bytes, int, int]] = []
    cookie = 0
    while page := await fileset.readdir(ino, cookie, PAGE):
        names += [(name, inode.ino, inode.mode) for name, inode, _ in page]
        cookie = page[-1][2]
    return names


async def _bytes(fileset: Fileset, ino: int) -> bytes:
    await fileset.open(ino, os.O_RDONLY)
    try:
        pieces: list[bytes] = []
        while piece := await fileset.read(ino, sum(map(len, pieces)), ONE_READ):
            pieces.append(bytes(piece))
        return b"".join(pieces)
    finally:
        fileset.release(ino)


def _attributes(engine: Engine) -> dict[str, tuple[int, int]]:
    """Mode and mtime of everything but the root."""
    found: dict[str, tuple[int, int]] = {}

    async def walk(fileset: Fileset, ino: int, above: str) -> None:
        for name, child, mode in await _names(fileset, ino):
            path = os.path.join(above, os.fsdecode(name))
            if path != "lost+found":
                found[path] = mode, (await fileset.getattr(child)).mtime
                if stat.S_ISDIR(mode):
                    await walk(fileset, child, path)

    engine.call(lambda: walk(engine.fileset, ROOT, ""))
    return found


def check_home(engine: Engine, ours: Found) -> None:
    """After a flush home has what the cache has, and nothing was found to be wrong there."""
    _flush(engine)
    theirs = tree(engine.home)
    attributes = _attributes(engine)
    for path in sorted(attributes.keys() & theirs.keys()):
        st = os.lstat(engine.home / path)
        assert (st.st_mode, st.st_mtime_ns) == attributes[path], f"{path}: {attributes[path]}, {st}"
    unlike = [path for path in {*ours, *theirs} if ours.get(path, b"-") != theirs.get(path, b"-")]
    shown = {path: (_brief(ours, path), _brief(theirs, path)) for path in sorted(unlike)[:8]}
    assert not unlike, f"here and at home: {shown}"
    assert not list(engine.home.glob(".afm/.afmtrash/*/*"))
    assert not list(engine.home.glob(".afm/unlinked/*"))


def _flush(engine: Engine) -> None:
    """Everything is at home on return; nothing was found to be wrong there."""

    async def flush() -> int:
        return engine.fileset.flush_pending()

    async def done() -> bool:
        status = engine.fileset.status()
        assert status.state != "NeedsResync", status.reason
        return status.state == "Active" and not status.queue_length

    engine.call(flush)
    wait_until(lambda: engine.call(done), FLUSH_SECONDS, "home has everything")


def _said(engine: Engine) -> str:
    """For whoever reads of a failure."""

    async def asked() -> str:
        events = [f"{event['name']} {event.get('detail', '')}" for event in engine.fileset.events()]
        status = engine.fileset.status()
        return "\n".join([f"{status.state}: {status.reason}", *events[-8:]])

    try:
        return engine.call(asked)
    except (AttributeError, trio.RunFinishedError):
        return "it does not run"


def _brief(found: Found, path: str) -> str:
    if path not in found:
        return "not there"
    data = found[path]
    return "directory" if data is None else f"{len(data)} bytes, {data.count(0)} zeros"
