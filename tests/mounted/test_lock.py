"""A cache is free for the next mount when `umount` has returned, however long its process takes."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from afmfs.cache.store import lock
from afmfs.cache.store.lock import CacheLock
from afmfs.errors import Refused
from tests.conftest import MakeMount


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


@pytest.mark.mounted
def test_an_unmounted_cache_says_that_it_ends(make_mount: MakeMount, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    mount = make_mount(tmp_path / "home")
    assert not json.loads((mount.cache / "lock").read_bytes())["ending"]
    subprocess.run(["umount", mount.point], check=True)
    CacheLock(mount.cache, mounts=False).close()  # not refused, though nobody waited
