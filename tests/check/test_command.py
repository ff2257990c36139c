"""`afmctl CACHE check`: what it says, and its exit status, as fsck(8) has them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from afmfs.admin.afmctl import main
from afmfs.cache.store.lock import CacheLock
from tests.check.scene import Scene

Check = Callable[..., Result]


@pytest.fixture
def check(scene: Scene) -> Check:
    return lambda *words: CliRunner().invoke(main, [str(scene.cache), "check", *words])


def rows(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_a_sound_cache(check: Check) -> None:
    for words in ((), ("--repair",)):
        result = check(*words)
        assert (result.stdout, result.stderr, result.exit_code) == ("no findings\n", "", 0)


def test_found_then_repaired_then_sound(scene: Scene, check: Check) -> None:
    scene.blob(b"clean").unlink()
    (scene.cache / "blobs/00/beef").write_bytes(b"x")
    result = check()
    missing, orphan, summary = result.stdout.splitlines()
    assert missing.startswith("error missing blob: clean: its blob 00/")
    assert missing.endswith("; --repair: what is missing is fetched again")
    assert orphan.startswith("error orphan blob: blob 00/beef: ")
    assert summary == "2 findings (1 missing blob, 1 orphan blob)"
    assert result.exit_code == 4
    result = check("--repair")
    assert "; repaired: what is missing is fetched again\n" in result.stdout
    assert result.stdout.splitlines()[-1].endswith("; 2 repaired, 0 left")
    assert result.exit_code == 1
    assert check().exit_code == 0
    scene.assert_serves()


def test_what_is_lost_is_said(scene: Scene, check: Check) -> None:
    """Only here, and gone: repaired it is as far as it can be."""
    scene.blob(b"made/new").unlink()
    found, summary = rows(check("--json"))
    assert (found["severity"], found["kind"], found["path"]) == ("lost", "missing blob", "made/new")
    assert found["lost"] == [[0, 1000]]
    assert not found["repaired"]
    assert summary["summary"]["lost"] == 1
    result = check("--repair")
    assert "bytes 0-1000 were only here" in result.stdout
    assert "something that was only here is lost in 1 of them" in result.stdout
    assert result.exit_code == 1


def test_what_nobody_can_repair_is_left(scene: Scene, check: Check) -> None:
    scene.sql("DELETE FROM fileset WHERE key='target'")
    result = check("--repair", "--json")
    found, summary = rows(result)
    assert (found["kind"], found["repaired"]) == ("setting", False)
    assert (summary["summary"]["left"], result.exit_code) == (1, 4)


def test_a_cache_in_use(scene: Scene, check: Check) -> None:
    lock = CacheLock(scene.cache)
    try:
        result = check("--repair")
        assert "in use by process" in result.stderr
        assert result.exit_code == 8
    finally:
        lock.close()


def test_wrong_usage(check: Check) -> None:
    for words in (("--nonsense",), ("--cancel",), ("path",)):
        result = check(*words)
        assert result.exit_code == 16, words
        assert "Error: " in result.stderr


def test_no_cache(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, [str(tmp_path), "check"])
    assert result.exit_code == 8
    assert "no device, mount point or cache directory" in result.stderr
