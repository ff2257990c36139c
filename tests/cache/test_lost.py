"""Files that home has lost: what is cached of them is served, all else fails at once."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from afmfs.cache.report import reporting
from tests.harness.engine import Engine, ThreadGateway
from tests.harness.files import EngineFiles

BLOCK = 65536


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    (tmp_path / "home").mkdir()
    (tmp_path / "home/f").write_bytes(b"h" * 4 * BLOCK)
    made = Engine(tmp_path / "home", tmp_path, "block_size=64K", gateway=ThreadGateway)
    made.start()
    yield made
    made.stop()


@pytest.fixture
def asked(engine: Engine) -> list[str]:
    """What is asked of home from now on; "f" is lost."""
    ino = EngineFiles(engine.fileset, engine.call).walk(b"f").ino

    async def lose() -> None:
        with engine.fileset._store as store:
            store.execute("INSERT INTO lost VALUES (?, 1)", (ino,))

    engine.call(lose)
    calls: list[str] = []
    real = engine.fileset._link.request

    async def request(kind: str, **fields: Any) -> Any:
        calls.append(kind)
        return await real(kind, **fields)

    engine.fileset._link.request = request  # type: ignore[method-assign]
    return calls


def read(engine: Engine, offset: int, size: int) -> bytes:
    files = EngineFiles(engine.fileset, engine.call)
    handle = files.open(b"f", os.O_RDONLY)
    try:
        return bytes(files.read(handle, offset, size))
    finally:
        files.close(handle)


def write(engine: Engine, offset: int, data: bytes, flags: int = 0) -> None:
    files = EngineFiles(engine.fileset, engine.call)
    handle = files.open(b"f", os.O_WRONLY | flags)
    files.write(handle, offset, data)
    files.close(handle)


def test_reads_fail_at_once(engine: Engine, asked: list[str]) -> None:
    with pytest.raises(OSError, match="Input/output") as caught:
        read(engine, 0, 10)
    assert caught.value.errno == errno.EIO
    assert asked == []
    assert engine.fileset.status().lost == 1


def test_what_is_written_is_read(engine: Engine, asked: list[str]) -> None:
    write(engine, BLOCK + 5, b"mine")
    assert read(engine, BLOCK + 5, 4) == b"mine"
    with pytest.raises(OSError, match="Input/output"):
        read(engine, BLOCK, BLOCK)
    assert asked == []


@pytest.mark.parametrize("flags", [0, os.O_TRUNC])
def test_a_file_that_is_written_anew(engine: Engine, asked: list[str], flags: int) -> None:
    """It needs nothing from home."""
    write(engine, 0, b"n" * 4 * BLOCK, flags)
    assert read(engine, 0, 5 * BLOCK) == b"n" * 4 * BLOCK
    assert asked == []


def test_a_costly_count_is_not_made_for_each_status(
    engine: Engine, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[str] = []
    fileset, real = engine.fileset, engine.fileset._count

    def count(sql: str) -> int:
        counts.append(sql)
        return real(sql)

    monkeypatch.setattr(fileset, "_count", count)

    async def lost() -> list[int]:
        return [fileset.status().lost for _ in range(3)]

    assert engine.call(lost) == [1, 1, 1]
    assert counts.count(reporting._LOST) == 3
    monkeypatch.setattr(reporting, "COSTLY_S", -1.0)  # any is
    monkeypatch.setattr(reporting, "REST", 1e6)
    assert engine.call(lost) == [1, 1, 1]
    assert counts.count(reporting._LOST) == 4


def test_what_is_removed_has_no_state(engine: Engine) -> None:
    """Though its directory may be somebody's still."""
    files = EngineFiles(engine.fileset, engine.call)
    files.mkdir(b"d", 0o755)
    ino = files.walk(b"d").ino
    files.rmdir(b"d")
    with pytest.raises(OSError, check=lambda exc: exc.errno == errno.ESTALE):
        engine.call(lambda: engine.fileset.cached_state(ino))
