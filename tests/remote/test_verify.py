"""verify where home is sshfs: whole seconds, other inode numbers after each mount, no owners."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest

from tests.harness.mounting import Mount, wait_until
from tests.harness.trees import snapshot
from tests.remote.conftest import Remote

pytestmark = [
    pytest.mark.mounted,
    pytest.mark.remote,
    # Nothing is remembered of home: else what is done at the server would not show for seconds.
    pytest.mark.parametrize(
        "remote", ["reconnect,dir_cache=no,entry_timeout=0,attr_timeout=0"], indirect=True
    ),
]


def verify(mount: Mount, *words: str) -> list[dict[str, Any]]:
    run = mount.afmctl("verify", "--json", *words)
    assert run.returncode in (0, 1), run.stderr
    return [*map(json.loads, run.stdout.splitlines())][:-1]


def test_what_home_can_not_tell_is_no_difference(remote: Remote) -> None:
    point, mount = remote.mount.point, remote.mount
    (point / "made").mkdir()
    (point / "made" / "file").write_bytes(os.urandom(100_000))
    os.utime(point / "made" / "file", ns=(5, 1_600_000_000_123_456_789))
    os.symlink("file", point / "made" / "link")
    os.link(point / "made" / "file", point / "made" / "twin")
    os.chmod(point / "one" / "old0", 0o640)
    os.rename(point / "two", point / "renamed")
    assert verify(mount, "--data") == [], "all of it is pending"
    mount.flush()
    before = snapshot(remote.served)
    assert verify(mount, "--data") == []
    remote.sshfs.unmount()
    remote.sshfs.mount()
    wait_until(lambda: mount.afmctl("verify").returncode != 2, 30, "home is there again")
    assert verify(mount, "--data") == []
    assert snapshot(remote.served) == before


def test_what_was_done_there_is_found(remote: Remote) -> None:
    with open(remote.served / "one" / "old0", "ab") as file:
        file.write(b"stray")
    os.unlink(remote.served / "one" / "old1")
    (remote.served / "one" / "new").touch()
    (remote.served / "two" / "old0").chmod(0o600)
    st = os.stat(remote.served / "three" / "old0")
    data = bytearray((remote.served / "three" / "old0").read_bytes())
    data[50] ^= 1
    (remote.served / "three" / "old0").write_bytes(data)
    os.utime(remote.served / "three" / "old0", ns=(st.st_atime_ns, st.st_mtime_ns))
    found = {(row["path"], row["difference"]) for row in verify(remote.mount, "--data")}
    assert found - {("one/old0", "mtime")} == {  # within the same second it is the same
        ("one/old0", "size"), ("one/old1", "missing"), ("one/new", "extra"),
        ("two/old0", "mode"), ("three/old0", "data"),
    }  # fmt: skip


def test_a_home_that_is_away_is_no_difference(remote: Remote) -> None:
    remote.sshfs.unmount()
    run = remote.mount.afmctl("verify")
    assert (run.returncode, run.stdout) == (2, "")
    assert "afmctl:" in run.stderr
