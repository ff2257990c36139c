from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from afmfs.admin.access import Access, Hung


@pytest.fixture
def access() -> Iterator[Access]:
    with Access() as child:
        yield child


@pytest.fixture
def stuck(tmp_path: Path) -> str:
    """A file whose opening never returns: nobody writes into this FIFO."""
    os.mkfifo(tmp_path / "fifo")
    return str(tmp_path / "fifo")


def test_reading(access: Access, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 300_000)
    assert access.read(str(tmp_path / "a")) == b"x" * 300_000
    assert access.realpath(str(tmp_path / "." / "a")) == os.path.realpath(tmp_path / "a")
    assert access.exists(str(tmp_path / "a"))
    assert not access.exists(str(tmp_path / "b"))


def test_errors_keep_their_errno_and_the_child_goes_on(access: Access, tmp_path: Path) -> None:
    with pytest.raises(OSError) as caught:
        access.read(str(tmp_path / "none"))
    assert caught.value.errno == errno.ENOENT
    with pytest.raises(OSError) as caught:
        access.read(str(tmp_path))
    assert caught.value.errno == errno.EISDIR
    assert access.exists(str(tmp_path))


def test_what_hangs_is_left_behind(access: Access, stuck: str, tmp_path: Path) -> None:
    started = time.monotonic()
    with pytest.raises(Hung):
        access.read(stuck, timeout=0.05)
    assert time.monotonic() - started < 2
    assert access.exists(str(tmp_path))  # by another child


def test_an_answer_that_nobody_wants_spoils_no_other(access: Access, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 1_000_000)
    chunks = access.chunks(str(tmp_path / "a"))
    next(chunks)
    chunks.close()  # type: ignore[attr-defined]
    assert access.read(str(tmp_path / "a")) == b"x" * 1_000_000


def test_bytes_that_are_not_text(access: Access, tmp_path: Path) -> None:
    path = os.fsdecode(os.fsencode(tmp_path) + b"/\xff")
    Path(path).write_bytes(b"\xff")
    assert access.read(path) == b"\xff"


def test_a_child_left_behind_holds_no_pipe_of_ours(stuck: str) -> None:
    program = (
        "import sys\nfrom afmfs.admin.access import *\n"
        "access = Access()\n"
        "try:\n    access.read(sys.argv[1], timeout=0.05)\n"
        "except Hung:\n    print('hung')\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", program, stuck], capture_output=True, timeout=20, check=True
    )
    assert run.stdout == b"hung\n"
