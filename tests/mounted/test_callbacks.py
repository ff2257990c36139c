"""Callbacks on a real mount: programs that run at events, and use what they are told of."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.harness.mounting import Mount, is_alive, wait_until
from tests.harness.programs import Fifo, script

pytestmark = pytest.mark.mounted

MakeMount = Callable[..., Mount]


@pytest.fixture
def mail(tmp_path: Path) -> Iterator[Fifo]:
    fifo = Fifo(tmp_path / "mail", lasting=True)
    yield fifo
    fifo.close()


def post(mail: Fifo, then: str = "") -> Path:
    """A program that posts its arguments, a line for each run."""
    return script(mail.path.with_name("post"), f'printf "%s|" "$@" >{mail.path}.part\n'
                  f'{{ cat {mail.path}.part; echo; }} >{mail.path}\n{then}')  # fmt: skip


def add(mount: Mount, command: Path, events: str, parms: str = "%eventName", *more: str) -> None:
    words = ["--command", str(command), "--event", events, "--parms", parms, *more]
    run = mount.afmctl("addcallback", "notify", *words)
    assert (run.returncode, run.stderr) == (0, "")


def events(mount: Mount, name: str) -> list[dict[str, Any]]:
    lines = (mount.point / ".afm/events").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["name"] == name]


def take_away(home: Path) -> None:
    home.rename(home.with_name("away"))


def bring_back(home: Path) -> None:
    home.with_name("away").rename(home)


def drop_one(mount: Mount) -> None:
    """Have afmQueueDropped happen."""
    mount.afmctl("stop")
    (mount.point / "dropped").write_text(str(time.monotonic_ns()))
    newest = json.loads((mount.point / ".afm/queue").read_text().splitlines()[-1])
    run = mount.afmctl("drop", str(newest["id"]))
    assert run.returncode == 0, run.stderr
    mount.afmctl("start")


def test_home_goes_and_comes_and_each_is_told_once(
    make_mount: MakeMount, home: Path, mail: Fifo
) -> None:
    mount = make_mount(home, "device=fs1", "fileset=sw1")
    names = "afmHomeConnected,afmHomeDisconnected,afmFilesetUnmounted"
    parms = "%eventName %fsName %filesetName %homeServer '%reason' '$(touch x)' '; rm -rf y' %%"
    add(mount, post(mail), names, parms)
    assert os.listdir(mount.point) == []  # read, so that names can be made while home is away

    def told(name: str, reason: str) -> None:
        words = [name, "fs1", "sw1", str(home), reason, "$(touch x)", "; rm -rf y", "%"]
        assert mail.line_now() == os.fsencode("|".join([*words, "\n"]))

    for _ in range(2):
        take_away(home)
        (mount.point / "f").write_text("x")
        mount.afmctl("flushPending")  # has home looked for
        told("afmFilesetUnmounted", f"{home}: No such file or directory; mount home there again")
        bring_back(home)
        told("afmHomeConnected", "")
        mount.flush()
    mount.kill9("gateway")  # which is no matter of home's
    wait_until(lambda: events(mount, "afmGatewayEnded"), 10, "the gateway has ended")
    mount.flush()
    mount.remount()
    told("afmHomeConnected", "")  # at the mount
    assert "notify" in mount.afmctl("lscallback").stdout
    assert mount.afmctl("delcallback", "notify").returncode == 0
    take_away(home)
    (mount.point / "f").write_text("x")
    wait_until(lambda: len(events(mount, "afmFilesetUnmounted")) == 3, 20, "home is missed")
    assert mail.is_quiet
    assert not (mail.path.parent / "x").exists()


def test_a_program_uses_the_mount_and_may_lie_in_it(
    make_mount: MakeMount, home: Path, mail: Fifo
) -> None:
    mount = make_mount(home)
    point = mount.point
    (point / "dir").mkdir()
    inside = script(
        point / "dir/inside",
        f"""
        cd "$AFM_MOUNT_POINT" && echo "$1" >new && mv new dir/old && cat dir/old >{mail.path}.part
        cat .afm/state >/dev/null && echo lscallback >.afm/control || exit 1
        mkdir -p made && ln -f dir/old made/linked && ls -R . >/dev/null
        cat {mail.path}.part >{mail.path}
        """,
    )
    add(mount, inside, "afmQueueDropped")
    drop_one(mount)
    assert mail.line_now() == b"afmQueueDropped\n"
    mount.flush()
    assert (home / "made/linked").read_text() == "afmQueueDropped\n"
    assert not events(mount, "afmCallbackFailed")


def test_one_that_hangs_is_killed_with_its_children(
    make_mount: MakeMount, home: Path, mail: Fifo, tmp_path: Path
) -> None:
    mount = make_mount(home)
    life = Fifo(tmp_path / "life")
    then = f"exec 3>{life.path}\ntrap '' TERM\nsh -c 'trap \"\" TERM; sleep 1000' & sleep 1000"
    add(mount, post(mail, then), "afmQueueDropped", "%eventName $$", "--timeout", "2")
    drop_one(mount)
    assert mail.line_now() == b"afmQueueDropped|$$|\n"
    assert life.line_now() == b""  # all who held it are gone
    wait_until(lambda: events(mount, "afmCallbackFailed"), 10, "the event")
    (event,) = events(mount, "afmCallbackFailed")
    assert (event["callback"], event["event"]) == ("notify", "afmQueueDropped")
    assert "took more than 2 s and was ended" in event["reason"]
    life.close()


def test_a_slow_one_holds_up_neither_writes_nor_umount(
    make_mount: MakeMount, home: Path, mail: Fifo, tmp_path: Path
) -> None:
    mount = make_mount(home)
    life = Fifo(tmp_path / "life")
    add(mount, post(mail, f"exec 3>{life.path}; sleep 1000"), "afmQueueDropped")
    drop_one(mount)
    drop_one(mount)
    assert mail.line_now() == b"afmQueueDropped|\n"
    for number in range(20):
        (mount.point / f"f{number}").write_bytes(os.urandom(10_000))
    mount.flush()
    assert (home / "f19").read_bytes() == (mount.point / "f19").read_bytes()
    (sleeper,) = [p for p in psutil.process_iter(["cmdline"]) if str(mail.path.parent / "post")
                  in (p.info["cmdline"] or [])]  # fmt: skip
    began = time.monotonic()
    mount.unmount()
    assert time.monotonic() - began < 5
    assert (life.line_now(), is_alive(sleeper)) == (b"", False)
    assert mail.is_quiet  # the second never began
    mount.mount("none")
    assert not events(mount, "afmCallbackFailed")
    life.close()


def test_recovery_is_told_of_once_the_mount_serves(
    make_mount: MakeMount, home: Path, mail: Fifo
) -> None:
    mount = make_mount(home)
    (mount.point / "seen").write_text("x")
    mount.flush()
    add(mount, post(mail, "cat $AFM_MOUNT_POINT/seen || exit 1"),
        "afmRecoveryStart,afmRecoveryEnd,afmRecoveryFail")  # fmt: skip
    mount.kill9("both")
    mount.mount("none")
    assert [mail.line_now() for _ in range(2)] == [b"afmRecoveryStart|\n", b"afmRecoveryEnd|\n"]
    mount.remount()
    assert (mail.is_quiet, events(mount, "afmCallbackFailed")) == (True, [])


def test_an_unsafe_program_is_refused(make_mount: MakeMount, home: Path, mail: Fifo) -> None:
    mount = make_mount(home)
    command = post(mail)
    command.chmod(0o766)
    run = mount.afmctl("addcallback", "n", "--command", str(command), "--event", "afmPrepopEnd")
    assert run.returncode == 1
    assert "can be written by its group or by others" in run.stderr
    (mount.point / "theirs").write_text("#!/bin/sh\n")
    os.chmod(mount.point / "theirs", 0o755)
    if os.geteuid() == 0:
        os.chown(mount.point / "theirs", 12345, -1)
        with pytest.raises(PermissionError):
            (mount.point / ".afm/control").write_text(
                f"addcallback n --command {mount.point}/theirs --event afmPrepopEnd\n"
            )
        assert "belongs to user 12345" in (mount.point / ".afm/control").read_text()
    run = mount.afmctl("addcallback", "n", "--command", "/bin/true", "--event", "afmPrepopend2")
    assert (run.returncode, "did you mean afmPrepopEnd" in run.stderr) == (2, True)
    assert mount.afmctl("lscallback").stdout == ""
