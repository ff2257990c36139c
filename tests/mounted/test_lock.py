"""A cache is free for the next mount when `umount` has returned, however long its process takes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from afmfs.cache.store import lock
from afmfs.cache.store.lock import CacheLock
from afmfs.errors import Refused
from tests.conftest import MakeMount
from tests.harness.mounting import wait_until


def test_one_that_ends_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "NOTICE_S", 0)
    first = CacheLock(tmp_path)
    with pytest.raises(Refused, match="is in use by process [0-9]+ on "):
        CacheLock(tmp_path)
    first.ending()
    monkeypatch.setattr("time.sleep", lambda seconds: first.close())
    CacheLock(tmp_path).close()


def test_one_that_does_not_end_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = CacheLock(tmp_path)
    first.ending()
    monkeypatch.setattr(lock, "END_S", 0.1)
    with pytest.raises(Refused, match="is in use by process [0-9]+ on "):
        CacheLock(tmp_path)
    first.close()


HALF_DEAD = """
import ctypes, os, sys, threading
from pathlib import Path
from afmfs.cache.store.lock import CacheLock

kept = CacheLock(Path(sys.argv[1]))

def wait():
    print("held", flush=True)
    sys.stdin.read()
    os._exit(0)

threading.Thread(target=wait).start()
ctypes.CDLL(None).syscall(60 if os.uname().machine == "x86_64" else 93, 0)  # exit, of one thread
"""


def test_one_that_was_killed_and_does_not_end_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one whose thread has the kernel forget a page that somebody waits for from it."""
    monkeypatch.setattr(lock, "NOTICE_S", 0)
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "-c", HALF_DEAD, tmp_path], stdin=pipe, stdout=pipe
    ) as owner:
        assert owner.stdout is not None and owner.stdout.readline() == b"held\n"
        wait_until(lambda: psutil.Process(owner.pid).status() == "zombie", 10, "half dead")
        with pytest.raises(
            Refused, match=f"process {owner.pid} .*killed and can't end: .*umount -f"
        ):
            CacheLock(tmp_path)


@pytest.mark.mounted
def test_an_unmounted_cache_says_that_it_ends(make_mount: MakeMount, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    mount = make_mount(tmp_path / "home")
    assert not json.loads((mount.cache / "lock").read_bytes())["ending"]
    subprocess.run(["umount", mount.point], check=True)
    CacheLock(mount.cache, mounts=False).close()  # not refused, though nobody waited
