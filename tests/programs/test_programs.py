"""Programs that people really use, on a mount of a real tree."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tests.harness.trees import assert_same

pytestmark = pytest.mark.mounted

RSYNC = ["rsync", "-aH", "--modify-window=-1"]  # -1: times are compared by nanoseconds


def run(*words: str | Path, cwd: Path, env: dict[str, str] | None = None) -> str:
    """Run a program that must succeed within two minutes; its output."""
    done = subprocess.run(
        words,
        cwd=cwd,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        errors="surrogateescape",
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, f"{words}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


def test_git(work: Path) -> None:
    who = {"HOME": str(work), "GIT_CONFIG_NOSYSTEM": "1"}
    for number in range(50):
        (work / f"source{number}.c").write_text(f"int f{number};\n" * number)
    run("git", "init", "-q", cwd=work, env=who)
    run("git", "config", "user.email", "someone@example.org", cwd=work, env=who)
    run("git", "config", "user.name", "Someone", cwd=work, env=who)
    run("git", "add", ".", cwd=work, env=who)
    run("git", "commit", "-qm", "First", cwd=work, env=who)
    (work / "source7.c").unlink()
    run("git", "commit", "-qam", "Second", cwd=work, env=who)
    run("git", "gc", "-q", cwd=work, env=who)
    run("git", "fsck", "--strict", cwd=work, env=who)
    assert run("git", "status", "--porcelain", cwd=work, env=who) == ""


def test_unpack_tar(work: Path, tmp_path: Path, real_home: Path) -> None:
    archive = tmp_path / "some.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(real_home / "email", "email")
        tar.add(real_home / "json", "json")
    run("tar", "xpf", archive, cwd=work)
    run("tar", "df", archive, cwd=work)  # compares contents and attributes


def test_compile_and_run(work: Path) -> None:
    (work / "hello.h").write_text('#define GREETING "hello from the cache"\n')
    (work / "hello.c").write_text(
        '#include <stdio.h>\n#include "hello.h"\nint main(void) { puts(GREETING); return 0; }\n'
    )
    run("cc", "-O2", "-o", "hello", "hello.c", cwd=work)
    assert run(work / "hello", cwd=work) == "hello from the cache\n"


FILL = """
import sqlite3, sys
path, who, rows = sys.argv[1], sys.argv[2], int(sys.argv[3])
db = sqlite3.connect(path, timeout=60, isolation_level=None)
for number in range(rows):
    db.execute("begin immediate")
    db.execute("insert into filled values (?, ?, ?)", (who, number, "x" * (number % 3000)))
    db.execute("commit")
db.close()
"""


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_sqlite_filled_by_two_processes(work: Path, mode: str) -> None:
    path, rows = work / "data.db", 300
    db = sqlite3.connect(path)
    assert db.execute(f"pragma journal_mode={mode}").fetchone() == (mode,)
    db.execute("create table filled(who, number, filler)")
    db.commit()
    words = [sys.executable, "-c", FILL, str(path)]
    writers = [subprocess.Popen([*words, who, str(rows)]) for who in ("a", "b")]
    assert [writer.wait(120) for writer in writers] == [0, 0]
    assert db.execute("pragma integrity_check").fetchall() == [("ok",)]
    counts = db.execute("select who, count(*), max(number) from filled group by who order by who")
    assert counts.fetchall() == [("a", rows, rows - 1), ("b", rows, rows - 1)]
    db.close()


def test_rsync_in_and_out(work: Path, tmp_path: Path, real_home: Path) -> None:
    source = tmp_path / "source"
    run(*RSYNC, f"{real_home}/email/", source, cwd=tmp_path)
    os.link(source / "message.py", source / "same message.py")
    (source / "link").symlink_to("message.py")
    run(*RSYNC, f"{source}/", f"{work}/in/", cwd=tmp_path)
    assert_same(source, work / "in")
    run(*RSYNC, f"{work}/in/", f"{tmp_path}/out/", cwd=tmp_path)
    assert_same(source, tmp_path / "out")
