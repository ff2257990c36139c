"""The command line of `mount.afmfs`, as people and mount(8) use it: usage, refusals, exit codes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness.mounting import REPOSITORY


def run(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mount", *map(str, words)],
        cwd=REPOSITORY, capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    "words, hint",
    [
        ([], "Missing argument"),
        (["home"], "Missing argument"),
        (["home", "/mnt", "more"], "unexpected extra argument"),
        (["home", "/mnt", "--frob"], "No such option"),
        (["home", "/mnt", "-o"], "requires an argument"),
        (["home", "/mnt", "-o", "cahce=/c"], "did you mean cache?"),
        (["home", "/mnt", "-o", "rw,remount"], "unmount, then mount"),
    ],
)
def test_usage_errors_end_with_1(words: list[str], hint: str) -> None:
    done = run(*words)
    assert done.returncode == 1
    assert done.stderr.startswith("mount.afmfs: ")
    assert hint in done.stderr
    assert done.stdout == ""


def test_help_lists_every_option() -> None:
    done = run("--help")
    assert done.returncode == 0
    for word in ("cache=DIR", "afmAsyncDelay", "home_sync=batch|file|none", "Exit status"):
        assert word in done.stdout


def test_a_mount_point_must_be_an_empty_directory(tmp_path: Path) -> None:
    def refusal(point: Path) -> str:
        done = run(tmp_path, point, "-o", f"cache={tmp_path}/cache")
        assert done.returncode == 32
        assert not (tmp_path / "cache").exists()
        return done.stderr

    assert "does not exist; make it: mkdir -p" in refusal(tmp_path / "none")
    (tmp_path / "file").touch()
    assert "is not a directory" in refusal(tmp_path / "file")
    (tmp_path / "full/x").mkdir(parents=True)
    assert "is not empty" in refusal(tmp_path / "full")


def test_flags_of_mount8_are_accepted(tmp_path: Path) -> None:
    flags = ["-s", "-n", "-v", "-r", "-w", "-N", "1", "-t", "fuse.afmfs"]
    done = run("home", tmp_path / "none", *flags, "-o", "rw,user,_netdev,nofail,x-a=b")
    assert done.returncode == 32
    assert "does not exist" in done.stderr
