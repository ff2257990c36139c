"""How a mount begins and ends."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from afmfs.errors import Refused
from mount import mountpoint
from tests.harness.mounting import mounted_at, wait_until
from tests.mounted.conftest import Adapter

pytestmark = pytest.mark.mounted


def serving(adapter: Adapter) -> list[psutil.Process]:
    return [
        one
        for one in psutil.process_iter(["cmdline"])
        if {str(adapter.point), "tests.harness.fake_fileset"} <= set(one.info["cmdline"] or [])
    ]


def gone(adapter: Adapter, seconds: float) -> None:
    wait_until(lambda: not serving(adapter), seconds, "the process has ended")


def test_background_serves_when_the_command_returns(adapter: Adapter) -> None:
    run = adapter.start()
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
    (process,) = serving(adapter)
    assert process.cwd() == "/"
    assert process.terminal() is None
    (adapter.point / "file").write_text("x")
    subprocess.run(["umount", adapter.point], check=True)
    gone(adapter, 5)
    assert adapter.log.rstrip().endswith("unmounted")


def test_what_fails_is_said_and_ends_with_32(adapter: Adapter) -> None:
    run = adapter.start("refused")
    assert (run.returncode, run.stderr) == (32, "mount.afmfs: the cache is in use\n")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_unmounts_also_with_open_files(adapter: Adapter, number: signal.Signals) -> None:
    process = adapter.start_foreground()
    descriptor = os.open(adapter.point / "file", os.O_CREAT | os.O_WRONLY)
    os.write(descriptor, b"x")
    process.send_signal(number)
    assert process.wait(5) == 0
    assert mounted_at(adapter.point) is None
    for call in (lambda: os.write(descriptor, b"y"), lambda: os.close(descriptor)):
        with pytest.raises(OSError) as caught:
            call()
        assert caught.value.errno in (errno.ENOTCONN, errno.ECONNABORTED)


def test_a_request_that_never_ends_does_not_hold_the_end(adapter: Adapter) -> None:
    process = adapter.start_foreground()
    (adapter.point / "never-ends").write_text("x" * 5000)
    reader = subprocess.Popen(
        ["dd", f"if={adapter.point / 'never-ends'}", "iflag=direct"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    time.sleep(0.3)
    begun = time.monotonic()
    process.terminate()
    assert process.wait(8) == 0
    assert time.monotonic() - begun < 5
    assert reader.wait(5) != 0


def test_an_end_that_hangs_has_a_limit(adapter: Adapter) -> None:
    process = adapter.start_foreground("hangs")
    begun = time.monotonic()
    process.terminate()
    assert process.wait(15) == 2
    assert 8 < time.monotonic() - begun < 10
    assert mounted_at(adapter.point) is None


def test_a_second_signal_ends_it_at_once(adapter: Adapter) -> None:
    process = adapter.start_foreground("hangs")
    process.terminate()
    wait_until(lambda: mounted_at(adapter.point) is None, 5, "unmounted")
    process.terminate()
    assert process.wait(2) == 2


def test_a_crash_leaves_the_mount_point_dead_and_the_next_mount_clears_it(
    adapter: Adapter,
) -> None:
    process = adapter.start_foreground()
    process.kill()
    process.wait()
    for _ in range(2):
        with pytest.raises(OSError) as caught:
            os.stat(adapter.point)
        assert caught.value.errno == errno.ENOTCONN
    run = adapter.start()
    assert run.returncode == 0, run.stderr
    assert os.listdir(adapter.point) == []


def test_no_second_mount_at_one_place(adapter: Adapter) -> None:
    adapter.start()
    run = subprocess.run(
        adapter.command("home"), capture_output=True, text=True, timeout=20, check=False
    )
    assert run.returncode != 0
    assert "is mounted here already" in run.stderr


def test_no_mount_where_one_does_not_answer(
    adapter: Adapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped, or killed and held by the kernel: who mounts again is told what to do."""
    process = adapter.start_foreground()
    monkeypatch.setattr(mountpoint, "ANSWER_S", 0.2)
    process.send_signal(signal.SIGSTOP)
    try:
        with pytest.raises(Refused, match=f"does not answer.*umount -f {adapter.point}"):
            mountpoint.check(adapter.point)
    finally:
        process.send_signal(signal.SIGCONT)


def test_the_mount_table_names_the_device_and_flags(adapter: Adapter) -> None:
    adapter.start("home", "noexec,noatime,ro")
    entry = mounted_at(adapter.point)
    assert entry is not None
    assert (entry.fstype, entry.source) == ("fuse.afmfs", "fake-device")
    flags = subprocess.check_output(["findmnt", "-no", "OPTIONS", adapter.point], text=True)
    assert {"ro", "noexec", "nosuid", "nodev", "noatime"} <= set(flags.strip().split(","))
    with pytest.raises(OSError) as caught:
        (adapter.point / "file").touch()
    assert caught.value.errno == errno.EROFS


def test_stacks_on_request(adapter: Adapter) -> None:
    adapter.start()
    (process,) = serving(adapter)
    process.send_signal(signal.SIGUSR1)
    wait_until(lambda: "most recent call first" in adapter.log, 5, "stacks in the log")
    assert os.listdir(adapter.point) == []


def test_many_files_may_be_open(adapter: Adapter) -> None:
    adapter.start()
    (process,) = serving(adapter)
    soft, hard = process.rlimit(psutil.RLIMIT_NOFILE)
    assert soft >= min(hard, 1 << 20) or hard == -1


def test_paths_with_spaces_and_backslashes(tmp_path: Path) -> None:
    one = Adapter(tmp_path / "with space\\and more")
    one.point.mkdir(parents=True)
    one.cache.mkdir()
    try:
        run = one.start()
        assert run.returncode == 0, run.stderr
        (one.point / "x").touch()
        assert subprocess.run(one.command("home"), capture_output=True, check=False).returncode
    finally:
        one.end()
