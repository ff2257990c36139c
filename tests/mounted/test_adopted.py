"""A file that somebody changed at home, and that the cache has adopted: what is appended from then
on comes behind home's bytes, whatever the kernel believed the size to be."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import MakeMount
from tests.harness.mounting import wait_until

pytestmark = pytest.mark.mounted

OLD = b"0123456789"
OPTIONS = pytest.mark.parametrize("option", ["writeback", "async_delay=1000"])


@OPTIONS
@pytest.mark.parametrize("new", [b"somebody wrote much more here", b"less"], ids=["more", "less"])
def test_what_is_appended_later(make_mount: MakeMount, home: Path, option: str, new: bytes) -> None:
    with changed(make_mount, home, option, new) as (mount, file):
        adopt(mount, home, new)
        with file.open("ab") as out:
            out.write(b"+++")
        assert file.read_bytes() == new + b"+++"
        assert file.stat().st_size == len(new) + 3
        mount.flush()
        assert (home / "file").read_bytes() == new + b"+++"


@OPTIONS
@pytest.mark.parametrize("length", [29, 4097, 8192, 70_000])
def test_what_is_appended_by_who_has_it_open(
    make_mount: MakeMount, home: Path, option: str, length: int
) -> None:
    """Nobody looks at the file between the adoption and the write."""
    new = bytes(i % 251 + 1 for i in range(length))
    with changed(make_mount, home, option, new) as (mount, file):
        held = os.open(file, os.O_WRONLY | os.O_APPEND)
        adopt(mount, home, new)
        os.write(held, b"+++")
        os.close(held)
        assert file.read_bytes() == new + b"+++"
        mount.flush()
        assert (home / "file").read_bytes() == new + b"+++"


@OPTIONS
def test_it_was_open_and_is_shorter_now(make_mount: MakeMount, home: Path, option: str) -> None:
    """The kernel only learns of it at the last close."""
    with changed(make_mount, home, option, b"less") as (mount, file):
        held = os.open(file, os.O_RDWR)
        adopt(mount, home, b"less")
        os.close(held)
        wait_until(lambda: file.stat().st_size == 4, 10, "the kernel knows the size")
        with file.open("ab") as out:
            out.write(b"+++")
        assert file.read_bytes() == b"less+++"
        mount.flush()
        assert (home / "file").read_bytes() == b"less+++"


@contextmanager
def changed(make_mount: MakeMount, home: Path, option: str, new: bytes) -> Iterator[tuple]:
    """A mount whose kernel knows `file`, of which nothing is cached, as it was."""
    (home / "file").write_bytes(OLD)
    mount = make_mount(home, option)
    file = mount.point / "file"
    assert file.stat().st_size == len(OLD)
    yield mount, file


def adopt(mount, home: Path, new: bytes) -> None:
    """Somebody writes at home. A read finds it and fails, another one starts the resync; after its
    end, nothing but an invalidation reaches the kernel."""
    (home / "file").write_bytes(new)
    for _ in range(2):
        with pytest.raises(OSError, match="Input/output error"):
            (mount.point / "file").read_bytes()
        time.sleep(0.5)
    wait_until(lambda: "afmManualResyncComplete" in mount.events(), 20, "the file is adopted")
    time.sleep(0.5)
