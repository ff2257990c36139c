"""Callbacks while home hangs: they run, and what gets stuck there holds up nothing."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from tests.harness.mounting import wait_until
from tests.harness.programs import Fifo, script
from tests.remote.conftest import Remote

pytestmark = [pytest.mark.mounted, pytest.mark.remote]


@pytest.mark.parametrize("remote", ["reconnect"], indirect=True)
def test_a_program_that_is_stuck_at_home_holds_up_nothing(remote: Remote, tmp_path: Path) -> None:
    mount, mail = remote.mount, Fifo(tmp_path / "mail", lasting=True)
    stuck = script(
        tmp_path / "stuck", f'echo "$1" >{mail.path}; touch {remote.sshfs.mountpoint}/new'
    )
    words = ["--command", str(stuck), "--event", "afmHomeDisconnected", "--timeout", "2"]
    assert mount.afmctl("addcallback", "n", *words, "--parms", "%eventName").returncode == 0
    remote.sshd.stop()
    (mount.point / "one/pending").write_bytes(b"pending")
    assert mail.line_now() == b"afmHomeDisconnected\n"
    events = mount.point / ".afm/events"
    wait_until(lambda: "afmCallbackFailed" in events.read_text(), 20, "its time is up")
    told = json.loads(events.read_text().splitlines()[-1])
    assert "took more than 2 s" in told["reason"]
    start = time.monotonic()
    (mount.point / "one/written").write_bytes(b"while it is stuck")
    assert mount.status()["state"] == "Disconnected"
    assert time.monotonic() - start < 1
    start = time.monotonic()
    mount.unmount()
    assert time.monotonic() - start < 10
    remote.sshd.cont()
    mail.close()
