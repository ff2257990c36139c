"""Home over a real sshfs: what it can hold, and how its end is seen."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from harness.sshd import Watchdog, is_mounted

from afmfs.gateway.home.connection import Connection, Remounted, connect
from afmfs.gateway.home.marker import Claim, Marker
from afmfs.gateway.home.trouble import HomeAway, Unrepresentable, Verb, classify

if TYPE_CHECKING:
    from harness.sshd import Sshd, Sshfs

pytestmark = pytest.mark.remote
TIMEOUT_S = 60


def raises_away(state: str) -> pytest.RaisesExc[HomeAway]:
    return pytest.raises(HomeAway, check=lambda exc: exc.state == state)


@pytest.fixture
def remote(sshd: Sshd, root: Path, tmp_path: Path) -> Iterator[Sshfs]:
    mount = sshd.mount(root, tmp_path / "remote", "reconnect")
    with Watchdog(TIMEOUT_S, mount.abort):
        yield mount


@pytest.fixture
def connection(remote: Sshfs, ours: Marker) -> Connection:
    return connect(os.fsencode(remote.mountpoint), Claim(ours, first=True))


def test_what_it_holds(connection: Connection) -> None:
    found = connection.properties
    assert found.mtime_ns == 1_000_000_000
    assert found.is_fuse
    assert connection.properties.is_fuse
    assert not (found.stable_inodes or found.noreplace or found.exchange)
    assert not (found.fifos or found.sockets or found.devices or found.xattrs)
    assert found.hard_links
    assert found.symlinks
    assert not found.symlink_attributes
    assert found.modes
    assert found.owners == (os.geteuid() == 0)
    assert found.name_max == 255


def test_verbs(connection: Connection, root: Path) -> None:
    name = b"name \xff\n"
    with connection.opened() as home:
        d = home.root
        fd = home.make_file(home.scratch(), name)
        os.write(fd, b"bytes")
        home.set_attributes(fd, 0o640, os.getuid(), os.getgid())
        home.set_times(fd, 10**18, 10**18)
        os.fsync(fd)
        os.close(fd)
        home.rename_new(home.scratch(), name, d, b"first")
        with pytest.raises(FileExistsError):
            home.rename_new(d, b"first", d, b".afm")
        home.link(d, b"first", d, b"second")
        with pytest.raises(OSError, check=lambda exc: exc.errno == errno.EPERM) as caught:
            home.mknod(d, b"fifo", 0o010600, 0)
        home.sync()
        connection.check(home)
    assert (root / "second").read_bytes() == b"bytes"
    assert (root / "second").stat().st_mtime == 10**9
    judged = classify(
        caught.value, b"fifo", Verb.MAKE, kind=0o010000, properties=connection.properties
    )
    assert isinstance(judged, Unrepresentable)


def test_a_symlink_never_leads_a_change_to_its_target(
    connection: Connection, root: Path, tmp_path: Path
) -> None:
    """SFTP has no call for a link's own times and owner: the server gives them to its target."""
    outside = tmp_path / "outside"
    outside.touch()
    before = outside.stat()
    with connection.opened() as home:
        home.symlink(os.fsencode(outside), home.root, b"link")
        home.set_attributes_at(home.root, b"link", 0o120777, 1234, 1234)
        home.set_times_at(home.root, b"link", 10**18, 10**18)
    after = outside.stat()
    assert (after.st_mtime_ns, after.st_uid, after.st_ctime_ns) == (
        before.st_mtime_ns, before.st_uid, before.st_ctime_ns,
    )  # fmt: skip


def test_busy_only_while_opened(connection: Connection, remote: Sshfs, ours: Marker) -> None:
    with connection.opened(), pytest.raises(subprocess.CalledProcessError):
        remote.unmount()
    remote.unmount()
    assert not is_mounted(remote.mountpoint)
    with raises_away("Unmounted"), connection.opened():
        pass
    remote.mount()
    with pytest.raises(Remounted), connection.opened():
        pass
    again = connect(connection.path, Claim(ours), connection.properties)
    with again.opened() as home:
        again.check(home)


def test_a_server_that_restarts_under_a_batch(
    connection: Connection, remote: Sshfs, sshd: Sshd, ours: Marker
) -> None:
    """sshfs reconnects by itself; what was written before may be lost, and must be in doubt."""
    with connection.opened() as home:
        connection.check(home)
        sshd.kill()
        sshd.start()
        with raises_away("Disconnected"):
            connection.check(home)
    with connection.opened() as home:
        connection.check(home)


def test_no_server(connection: Connection, sshd: Sshd, ours: Marker) -> None:
    sshd.kill()
    for _ in range(2):
        with raises_away("Disconnected"):
            connect(connection.path, Claim(ours))
    sshd.start()
    connect(connection.path, Claim(ours))


def test_a_dead_daemon(connection: Connection, remote: Sshfs, ours: Marker) -> None:
    with connection.opened() as home:
        remote.kill()
        with raises_away("Disconnected"):
            connection.check(home)
    with raises_away("Disconnected"):
        connect(connection.path, Claim(ours))


def test_a_server_that_hangs(connection: Connection, sshd: Sshd) -> None:
    """Home waits as long as it takes, and goes on."""
    with connection.opened() as home:
        sshd.stop()
        with Watchdog(TIMEOUT_S / 2, sshd.cont):
            sshd.cont()
            connection.check(home)
