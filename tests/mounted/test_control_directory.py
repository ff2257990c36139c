"""The virtual directory `.afm` as programs see it."""

from __future__ import annotations

import errno
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.mounted

FILES = {"control", "state", "status.json", "queue", "events", "metrics", "report"}


@pytest.fixture
def point(mounted: Callable[..., Path]) -> Path:
    return mounted()


@pytest.fixture
def afm(point: Path) -> Path:
    return point / ".afm"


def code_of(call: Callable[[], object]) -> int | None:
    try:
        call()
    except OSError as error:
        return error.errno
    return None


def test_it_is_hidden_and_can_be_listed(point: Path, afm: Path) -> None:
    assert ".afm" not in os.listdir(point)
    assert set(os.listdir(afm)) == FILES
    assert afm.stat().st_mode & 0o7777 == 0o500
    modes = {name: (afm / name).stat().st_mode & 0o7777 for name in FILES}
    assert modes == {name: 0o600 if name == "control" else 0o400 for name in FILES}
    assert not (afm / "nothing").exists()


def test_programs_read_the_files_whole(afm: Path, tmp_path: Path) -> None:
    status = json.loads((afm / "status.json").read_bytes())
    assert status["state"] == "Active"
    for program in (["cat"], ["tail", "-n", "100"]):
        run = subprocess.run([*program, afm / "state"], capture_output=True, text=True, check=True)
        assert run.stdout.startswith("Fileset Name")
    subprocess.run(["cp", afm / "queue", tmp_path / "queue"], check=True)
    assert (tmp_path / "queue").read_bytes().splitlines()[-1] == b'{"id": 99999}'
    assert len((tmp_path / "queue").read_bytes().splitlines()) == 100_000
    assert json.loads((afm / "events").read_text().splitlines()[0])["name"] == "afmFilesetMounted"
    assert "afmfs_state" in (afm / "metrics").read_text()


def test_the_queue_can_be_read_again_but_not_backwards(afm: Path) -> None:
    descriptor = os.open(afm / "queue", os.O_RDONLY)
    try:
        first = os.read(descriptor, 100)
        os.read(descriptor, 100)
        assert os.pread(descriptor, 100, 0) == first
        os.lseek(descriptor, 5000, os.SEEK_SET)
        assert len(os.read(descriptor, 100)) == 100
        assert code_of(lambda: os.pread(descriptor, 10, 50)) == errno.ESPIPE
    finally:
        os.close(descriptor)


def test_a_command_and_its_reply_on_one_descriptor(afm: Path) -> None:
    descriptor = os.open(afm / "control", os.O_RDWR)
    try:
        assert os.write(descriptor, b"hello\n") == 6
        reply = b""
        while piece := os.read(descriptor, 10_000):  # on from where the write ended
            reply += piece
        assert reply == b"hello\n" + b"hello yourself\n" * 20000
        assert os.pread(descriptor, 1 << 20, 0) == reply
        assert os.pread(descriptor, 9, 6) == b"hello you"
    finally:
        os.close(descriptor)


@pytest.mark.parametrize(
    "line, code, reply",
    [(b"busy\n", errno.EBUSY, "busy\nbusy just now\n"), (b"zork", errno.EINVAL, "zork\nno such")],
)
def test_a_refused_command_fails_the_write_and_says_why(
    afm: Path, line: bytes, code: int, reply: str
) -> None:
    descriptor = os.open(afm / "control", os.O_RDWR)
    try:
        assert code_of(lambda: os.write(descriptor, line)) == code
        assert os.read(descriptor, 1000).decode().startswith(reply)
    finally:
        os.close(descriptor)
    assert (afm / "control").read_text().startswith(reply)


def test_the_shells_way(afm: Path) -> None:
    subprocess.run(["sh", "-c", f"echo hello > '{afm}/control'"], check=True)
    assert (afm / "control").read_text().startswith("hello\n")
    run = subprocess.run(
        ["bash", "-c", f"echo busy > '{afm}/control'"], capture_output=True, text=True, check=False
    )
    assert run.returncode == 1
    assert "busy" in run.stderr


def test_too_long_a_command(afm: Path) -> None:
    with (afm / "control").open("wb", buffering=0) as control:
        assert code_of(lambda: control.write(b"x" * 40_000)) == errno.EINVAL


def test_it_is_source_and_target_of_nothing(point: Path, afm: Path) -> None:
    (point / "file").touch()
    (point / "directory").mkdir()
    (point / "empty").mkdir()
    control, new = afm / "control", afm / "new"
    refused = {
        "mkdir over": lambda: os.mkdir(afm),
        "create over": lambda: os.open(afm, os.O_CREAT | os.O_EXCL | os.O_WRONLY),
        "symlink over": lambda: os.symlink("x", afm),
        "rmdir": lambda: os.rmdir(afm),
        "unlink": lambda: os.unlink(afm),
        "rename": lambda: os.rename(afm, point / "other"),
        "rename over": lambda: os.rename(point / "directory", afm),
        "create in": lambda: os.open(new, os.O_CREAT | os.O_WRONLY),
        "mkdir in": lambda: os.mkdir(new),
        "mkfifo in": lambda: os.mkfifo(new),
        "symlink in": lambda: os.symlink("x", new),
        "link in": lambda: os.link(point / "file", new),
        "link out": lambda: os.link(control, point / "out"),
        "rename in": lambda: os.rename(point / "file", new),
        "rename out": lambda: os.rename(control, point / "out"),
        "rename within": lambda: os.rename(control, new),
        "unlink in": lambda: os.unlink(control),
        "rmdir in": lambda: os.rmdir(control),
        "chmod": lambda: os.chmod(afm, 0o777),
        "chmod in": lambda: os.chmod(control, 0o777),
        "chown in": lambda: os.chown(control, 1, 1),
        "write to state": lambda: os.open(afm / "state", os.O_WRONLY),
        "truncate state": lambda: os.truncate(afm / "state", 0),
    }
    codes = {what: code_of(call) for what, call in refused.items()}
    allowed = {errno.EPERM, errno.EACCES, errno.EEXIST, errno.EISDIR, errno.ENOTDIR}
    assert {what: code for what, code in codes.items() if code not in allowed} == {}
    assert [codes[what] for what in ("mkdir over", "symlink over")] == [errno.EEXIST] * 2
    assert set(os.listdir(afm)) == FILES


def test_truncating_and_touching_control_means_nothing(afm: Path) -> None:
    os.truncate(afm / "control", 0)
    os.utime(afm / "control")
    (afm / "control").open("w").close()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to become another user")
def test_only_root_and_the_owner_may_look_in(mounted: Callable[..., Path]) -> None:
    point = mounted("allow_other")
    for above in point.parents:
        if above.stat().st_uid == 0 and "pytest" in str(above):
            above.chmod(0o755)
    probe = f"ls '{point}' && ! ls '{point}/.afm' && ! cat '{point}/.afm/state'"
    run = subprocess.run(
        ["sh", "-c", probe], user=65534, group=65534, extra_groups=[],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert run.stderr.count("Permission denied") == 2
