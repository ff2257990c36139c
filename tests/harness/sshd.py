"""A remote home for real: an sshd of the test's own on the loopback, and sshfs mounts of it.

The server has its own keys, configuration and port, below a directory of the test. It can be
stopped in mid-request (SIGSTOP), continued, killed, and started again on the same port. A mount
can be taken away, made again (sshfs then numbers its inodes anew), or left dead by killing its
daemon. Whatever a test leaves behind, `Sshd.close` clears; a `Watchdog` frees what hangs.
"""

from __future__ import annotations

import ctypes
import os
import pwd
import select
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import psutil

TIMEOUT_S = 20
_ATTEMPTS = 5
_PR_SET_CHILD_SUBREAPER = 36

_CONFIG = """\
Port {port}
ListenAddress 127.0.0.1
HostKey {directory}/host_key
AuthorizedKeysFile {directory}/authorized_keys
PidFile none
StrictModes no
UsePAM no
UseDNS no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin yes
MaxStartups 100
Subsystem sftp internal-sftp
"""


def available() -> str:
    """Why there can be no remote home here; empty if there can."""
    for tool in ("sshfs", "ssh-keygen", "fusermount3"):
        if shutil.which(tool) is None:
            return f"{tool} is not installed"
    if not os.path.exists(_sshd()):
        return "sshd is not installed"
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        return "/dev/fuse can't be opened"
    return ""


def _sshd() -> str:
    return shutil.which("sshd", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin") or "sshd"


class Sshd:
    """One server. `directory` is for its files; everything is reached as the test's own user."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = 0
        self.mounts: list[Sshfs] = []
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Sshd:
        self._make_keys()
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _make_keys(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        for name in ("host_key", "client_key"):
            subprocess.run(
                ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.directory / name],
                check=True,
                stdin=subprocess.DEVNULL,
            )
        shutil.copy(self.directory / "client_key.pub", self.directory / "authorized_keys")

    def start(self) -> None:
        """Start, or start again on the same port. Serves on return."""
        if os.geteuid() == 0:
            os.makedirs("/run/sshd", mode=0o755, exist_ok=True)  # privilege separation wants it
        for _ in range(_ATTEMPTS):
            port = self.port or _free_port()
            if self._start_on(port):
                self.port = port
                return
        raise RuntimeError(f"sshd doesn't start; see {self.directory}/sshd.log")

    def _start_on(self, port: int) -> bool:
        config = self.directory / "sshd_config"
        config.write_text(_CONFIG.format(port=port, directory=self.directory))
        key = (self.directory / "host_key.pub").read_text()
        (self.directory / "known_hosts").write_text(f"[127.0.0.1]:{port} {key}")
        process = subprocess.Popen(
            [_sshd(), "-D", "-e", "-f", config],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        assert process.stderr is not None
        log = (self.directory / "sshd.log").open("ab")
        for line in process.stderr:  # it says so when it listens; ends if it can't
            log.write(line)
            if b"Server listening" in line:
                self._process = process
                threading.Thread(target=_drain, args=(process, log), daemon=True).start()
                return True
        process.wait()
        process.stderr.close()
        log.close()
        return False

    def _family(self) -> list[psutil.Process]:
        """The server and its sessions (which have process groups of their own), parents first."""
        if self._process is None or self._process.poll() is not None:
            return []
        try:
            top = psutil.Process(self._process.pid)
            return [top, *top.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def stop(self) -> None:
        """Answer nothing from now on, and close nothing: as a server or network that hangs."""
        for process in self._family():
            _signal(process, signal.SIGSTOP)

    def cont(self) -> None:
        for process in self._family():
            _signal(process, signal.SIGCONT)

    def drop(self) -> None:
        """Break all connections; new ones are taken."""
        with _Reaper() as reaper:
            reaper.kill(self._family()[1:])

    def kill(self) -> None:
        """The server is gone at once, with all connections. `start` brings it back."""
        with _Reaper() as reaper:
            self.stop()  # none may fork any more
            reaper.kill(self._family()[1:])
            if self._process is not None:
                self._process.kill()
                self._process.wait(TIMEOUT_S)
                self._process = None

    def mount(self, path: Path, mountpoint: Path, *options: str) -> Sshfs:
        """Mount the server's `path`; usable on return. Options as for sshfs's -o."""
        mounted = Sshfs(self, path, mountpoint, options)
        self.mounts.append(mounted)
        mounted.mount()
        return mounted

    def close(self) -> None:
        self.kill()  # first: a daemon whose connection is gone hangs on nothing
        for mounted in self.mounts:
            mounted.clear()


class Sshfs:
    """One mount of a server's directory."""

    def __init__(self, sshd: Sshd, path: Path, mountpoint: Path, options: tuple[str, ...]) -> None:
        self.sshd = sshd
        self.path = path
        self.mountpoint = mountpoint
        self.options = options
        self._process: subprocess.Popen[bytes] | None = None

    def mount(self) -> None:
        """Mount (again)."""
        self.mountpoint.mkdir(parents=True, exist_ok=True)
        directory = self.sshd.directory
        options = (
            f"IdentityFile={directory}/client_key",
            f"UserKnownHostsFile={directory}/known_hosts",
            "StrictHostKeyChecking=yes",
            "BatchMode=yes",
            "ConnectTimeout=10",
            *self.options,
        )
        user = pwd.getpwuid(os.getuid()).pw_name
        command = ["sshfs", "-f", "-F", "/dev/null", "-p", str(self.sshd.port)]
        for option in options:
            command += ["-o", option]
        with (directory / "sshfs.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*command, f"{user}@127.0.0.1:{self.path}", str(self.mountpoint)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        _wait_for_mounts(self._arrived)

    def _arrived(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise RuntimeError(f"sshfs ended; see {self.sshd.directory}/sshfs.log")
        return is_mounted(self.mountpoint)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def has_ended(self) -> bool:
        """By itself, or by a kill; its mount may be dead, or gone."""
        return self._process is None or self._process.poll() is not None

    def unmount(self) -> None:
        """As an admin would: refused (CalledProcessError) while something below is open."""
        subprocess.run(
            ["fusermount3", "-u", self.mountpoint],
            check=True,
            capture_output=True,
            timeout=TIMEOUT_S,
        )
        self._reap()

    def kill(self) -> None:
        """Kill the daemon: a dead mount stays, every call answers ENOTCONN."""
        assert self._process is not None
        self._process.kill()
        self._reap()

    def abort(self) -> None:
        """Every request under way ends with an error, also one of a stuck daemon."""
        abort_fuse(self.mountpoint)

    def clear(self) -> None:
        """Leave neither mount nor process, whatever state they are in."""
        self.abort()
        if is_mounted(self.mountpoint):
            subprocess.run(
                ["fusermount3", "-u", "-z", self.mountpoint],
                check=False,
                capture_output=True,
                timeout=TIMEOUT_S,
            )
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
        self._reap()

    def _reap(self) -> None:
        if self._process is not None:
            self._process.wait(TIMEOUT_S)


class _Reaper:
    """Kills grandchildren and waits for them: not every container has an init that does."""

    def __init__(self) -> None:
        self._killed: list[psutil.Process] = []

    def __enter__(self) -> _Reaper:
        _adopt_orphans(True)
        return self

    def kill(self, processes: list[psutil.Process]) -> None:
        for process in processes:
            _signal(process, signal.SIGKILL)
        self._killed += processes

    def __exit__(self, *_: object) -> None:
        gone = time.monotonic() + TIMEOUT_S
        for process in self._killed:
            try:
                process.wait(max(gone - time.monotonic(), 0.1))
            except psutil.TimeoutExpired:
                pass
        _adopt_orphans(False)


def _adopt_orphans(on: bool) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, int(on), 0, 0, 0)


class Watchdog:
    """Frees what hangs: after `seconds` calls `free` once, in a thread, and remembers it."""

    def __init__(self, seconds: float, free: Callable[[], None]) -> None:
        self.expired = False
        self._free = free
        self._timer = threading.Timer(seconds, self._bite)
        self._timer.daemon = True

    def _bite(self) -> None:
        self.expired = True
        self._free()

    def __enter__(self) -> Watchdog:
        self._timer.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._timer.cancel()
        self._timer.join()
        if self.expired and exc is None:
            raise AssertionError("it hung, and was freed by the watchdog")


def _mount_lines(mountpoint: Path) -> list[list[str]]:
    wanted = os.path.realpath(mountpoint.parent) + "/" + mountpoint.name  # not its own: may hang
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    found = [line.split() for line in lines]
    return [f for f in found if f[4].encode().decode("unicode_escape") == wanted]


def is_mounted(mountpoint: Path) -> bool:
    """Asks the kernel's table, never the file system."""
    return bool(_mount_lines(mountpoint))


def abort_fuse(mountpoint: Path) -> None:
    """Abort the FUSE connection that is mounted there, if any, by its device's minor number."""
    for fields in _mount_lines(mountpoint):
        minor = fields[2].split(":")[1]
        control = Path(f"/sys/fs/fuse/connections/{minor}/abort")
        try:
            control.write_text("1")
        except OSError:
            pass  # gone already, or fusectl isn't mounted: the lazy unmount has to do


def _wait_for_mounts(condition: Callable[[], bool]) -> None:
    """The kernel tells who polls its table about each change; the daemon's end is looked for."""
    deadline = time.monotonic() + TIMEOUT_S
    with open("/proc/self/mountinfo", "rb") as table:
        poller = select.poll()
        poller.register(table, select.POLLPRI | select.POLLERR)
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError("sshfs doesn't mount")
            poller.poll(200)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _drain(process: subprocess.Popen[bytes], log: object) -> None:
    """Take the server's messages until its last process ends."""
    assert process.stderr is not None
    with log as file, process.stderr as messages:  # type: ignore[attr-defined]
        for line in messages:
            file.write(line)


def _signal(process: psutil.Process, number: int) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        pass
