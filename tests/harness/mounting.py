"""A real mount of a cache fileset, as a subprocess that tests may kill at any instruction.

Nothing here blocks on the mount without a bound: a watchdog, which is a process of its own (a page
fault on a dead mapping holds the interpreter's lock), aborts the connection when time is up.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from tests.harness.checking import assert_sound

REPOSITORY = Path(__file__).resolve().parents[2]

START_SECONDS = 20.0
"""A mount serves within this time, also after a crash."""

STOP_SECONDS = 10.0
"""umount, SIGTERM: the processes have ended within this time, also when home hangs."""

WATCH_SECONDS = 180.0
"""How long one mount may live in a test that does not ask for more."""


class MountFailed(AssertionError):
    """The mount ended, or never served; its log is in the message."""


class MountEntry(NamedTuple):
    """One line of mountinfo."""

    mount_id: int
    device: str  # MAJOR:MINOR; the minor is the number of the FUSE connection
    point: str
    fstype: str
    source: str


def mounts_below(point: Path) -> list[MountEntry]:
    """What is mounted at `point` and below, the topmost last."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
        words, _, rest = line.partition(" - ")
        fields, kind = words.split(), rest.split()
        path = fields[4].encode().decode("unicode_escape")
        if path == str(point) or path.startswith(f"{point}/"):
            found.append(MountEntry(int(fields[0]), fields[2], path, kind[0], kind[1]))
    return found


def mounted_at(point: Path) -> MountEntry | None:
    entries = [entry for entry in mounts_below(point) if entry.point == str(point)]
    return entries[-1] if entries else None


def wait_until(
    holds: Callable[[], object], seconds: float, what: str | Callable[[], str], every: float = 0.02
) -> None:
    """Return as soon as `holds()` is true; fail with `what` after `seconds`."""
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            said = what if isinstance(what, str) else what()
            raise AssertionError(f"after {seconds:g} s still not so: {said}")
        time.sleep(every)


def force_unmount(point: Path) -> None:
    """Abort and detach whatever is mounted at `point`; never waits for a server."""
    for _ in range(8):
        if mounted_at(point) is None:
            return
        for command in (
            ["umount", "-i", "-c", "-f", str(point)],  # -f aborts a FUSE connection
            ["umount", "-i", "-c", "-l", str(point)],
            ["fusermount3", "-u", "-z", str(point)],
        ):
            if mounted_at(point) is not None:
                subprocess.run(command, capture_output=True, timeout=10, check=False)


class Watchdog:
    """Aborts a FUSE connection after some seconds, unless it is called off."""

    # Without fusectl mounted, a forced umount aborts the connection as well.
    SCRIPT = (
        'sleep "$1"; echo fired >"$2"; control=/sys/fs/fuse/connections/${4#*:}/abort; '
        'if [ -w "$control" ]; then echo 1 >"$control"; else umount -i -c -f "$3"; fi'
    )

    def __init__(self, entry: MountEntry, seconds: float, flag: Path) -> None:
        self.flag = flag
        self.seconds = seconds
        words = [f"{seconds:g}", str(flag), entry.point, entry.device]
        self.process = subprocess.Popen(
            ["sh", "-c", self.SCRIPT, "watchdog", *words],
            start_new_session=True,  # so that its sleep goes with it
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def call_off(self) -> bool:
        """Stop watching; whether it had fired."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        fired = self.flag.exists()
        self.flag.unlink(missing_ok=True)
        return fired


class Mount:
    """One cache fileset, mounted from a subprocess that stays in the foreground."""

    def __init__(self, home: Path, base: Path, *options: str, watch: float = WATCH_SECONDS) -> None:
        self.home = home
        self.base = base
        self.point = base / "mnt"
        self.cache = base / "cache"
        self.log = base / "mount.log"
        self.options = options
        self.watch = watch
        self.process: subprocess.Popen[bytes] | None = None
        self._dog: Watchdog | None = None
        self._fired = False
        self.checks = True  # after each end; not for a test that damages the cache
        self.environment: dict[str, str] = {}  # more of it, for both processes
        self.point.mkdir(parents=True, exist_ok=True)

    # --- life

    def mount(self, target: str | None = None, *more: str) -> None:
        """Start it and wait until it serves."""
        options = ",".join([f"cache={self.cache}", *self.options, *more])
        command = [sys.executable, "-m", "mount", target or str(self.home), str(self.point)]
        with self.log.open("ab") as log:
            log.write(b"--- mount -o %s\n" % os.fsencode(options))
            log.flush()
            self.process = subprocess.Popen(
                [*command, "-f", "-o", options],
                cwd=REPOSITORY,
                env=os.environ | self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self._await_serving()

    def _await_serving(self) -> None:
        """Until it answers. The dead mount of a crash may be there at first: it says ENOTCONN."""
        assert self.process is not None
        end = time.monotonic() + START_SECONDS
        while True:
            entry = mounted_at(self.point)
            if entry is not None and self._answers(entry):
                break
            if self.process.poll() is not None:
                status = self.process.returncode
                raise MountFailed(f"the mount ended with status {status}\n{self.log_tail()}")
            if time.monotonic() > end:
                raise MountFailed(f"nothing serves after {START_SECONDS} s\n{self.log_tail()}")
            time.sleep(0.01)
        self._dog = Watchdog(entry, self.watch, self.base / "watchdog")

    def _answers(self, entry: MountEntry) -> bool:
        dog = Watchdog(entry, START_SECONDS, self.base / "watchdog")
        try:
            os.statvfs(self.point)
        except OSError:
            return False
        finally:
            self._fired |= dog.call_off()
        return mounted_at(self.point) == entry

    def unmount(self, *, left_behind: bool = False) -> None:
        """A clean stop, which ends both processes in time; but for a gateway that nothing can end,
        as home does not let it go, where one may be `left_behind`."""
        assert self.process is not None
        gateways = self.gateways()
        command = ["umount"] if os.geteuid() == 0 else ["fusermount3", "-u"]
        end = time.monotonic() + STOP_SECONDS
        while (run := _run_quietly([*command, str(self.point)])).returncode:
            # A program that was started by a callback may be about to end.
            assert "busy" in run.stderr and time.monotonic() < end, run.stderr
            time.sleep(0.02)
        try:
            status = self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired as late:
            raise AssertionError(f"not ended by umount\n{self.log_tail()}") from late
        finally:
            self._call_off()
        self.process = None
        assert status == 0, f"the mount process ended with {status}\n{self.log_tail()}"
        ended = lambda: left_behind or not any(map(is_alive, gateways))  # noqa: E731
        wait_until(ended, STOP_SECONDS, "a clean stop ends the gateway")
        if self.checks:
            assert_sound(self.cache)

    def remount(self, *more: str) -> None:
        self.unmount()
        self.mount("none", *more)

    def terminate(self) -> None:
        """End everything, whatever its condition; for teardown, so it raises nothing."""
        gateways = self.gateways()
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        force_unmount(self.point)
        for gateway in gateways:
            _kill(gateway)
        self._call_off()
        self.process = None

    def _call_off(self) -> None:
        if self._dog is not None:
            self._fired |= self._dog.call_off()
            self._dog = None

    @property
    def watchdog_fired(self) -> bool:
        return self._fired

    # --- crashes

    def gateways(self) -> list[psutil.Process]:
        """The gateway processes of this cache: its path is in their command line."""
        ours = {"afmfs.gateway.process", str(self.cache)}
        return [process for process, words in _running() if ours <= set(words)]

    def kill9(self, who: str) -> None:
        """SIGKILL to "mount", "gateway" or "both". A killed mount leaves its mount point dead."""
        gateways = self.gateways()
        if who == "both":
            for gateway in gateways:  # else it sees the other's end first, and ends by itself
                gateway.suspend()
        if who in ("mount", "both"):
            assert self.process is not None
            self.process.kill()
            self._await_death(self.process)
            self.process = None
            self._call_off()
        if who in ("gateway", "both"):
            for gateway in gateways:
                _kill(gateway)
        if self.process is None and self.checks:
            assert_sound(self.cache)

    def _await_death(self, process: subprocess.Popen[bytes]) -> None:
        """One that had the kernel forget a page while somebody waited for that page from it does
        not end by itself: each waits for the other, and the kernel ends neither (README)."""
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            _run_quietly(["umount", "-i", "-c", "-f", str(self.point)])
            process.wait(STOP_SECONDS)

    # --- steering

    def afmctl(
        self, *words: str, timeout: float = 120.0, device: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run afmctl on this mount, whatever its exit status."""
        return subprocess.run(
            [sys.executable, "-m", "afmfs.admin.afmctl", str(device or self.point), *words],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            errors="surrogateescape",
            timeout=timeout,
            check=False,
        )

    def flush(self, timeout: float = 120.0) -> None:
        """Everything queued so far is at home when this returns."""
        run = self.afmctl(
            "flushPending", "--wait", "--timeout", f"{timeout:g}", timeout=timeout + 30
        )
        assert run.returncode == 0, f"{run.stdout}{run.stderr}\n{self.events()}"

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.point / ".afm/status.json").read_bytes())
        return found

    def events(self, last: int = 10) -> str:
        """What happened to the fileset, a line each, the newest last."""
        lines = (self.point / ".afm/events").read_text(errors="replace").splitlines()
        return "\n".join(["--- events:", *lines[-last:]])

    def await_state(self, *states: str, seconds: float = 30.0) -> None:
        wait_until(
            lambda: self.status()["state"] in states, seconds, f"state {' or '.join(states)}"
        )

    def log_tail(self, lines: int = 60) -> str:
        if not self.log.exists():
            return ""
        text = self.log.read_text(errors="replace").splitlines()[-lines:]
        return "\n".join(["--- the mount's log:", *text])


def refusal(mount: Mount) -> str:
    """What is said where home's marker forbids `mount`: it fails; or, as a gateway that starts
    slowly is not waited for, it serves what is cached, and its state tells."""
    try:
        mount.mount("none")
    except MountFailed as failed:
        return str(failed)
    mount.await_state("Unmounted")
    reason = str(mount.status()["reason"])
    mount.unmount()
    return reason


def _run_quietly(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, capture_output=True, text=True, timeout=STOP_SECONDS, check=False
    )


def _running() -> list[tuple[psutil.Process, list[str]]]:
    found = []
    for process in psutil.process_iter(["cmdline"]):
        found.append((process, process.info["cmdline"] or []))
    return found


def is_alive(process: psutil.Process) -> bool:
    """Zombies are not: whoever inherited them may never ask how they ended."""
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _kill(process: psutil.Process) -> None:
    try:
        process.kill()
    except psutil.NoSuchProcess:
        return  # it ended by itself
    wait_until(lambda: not is_alive(process), 10, f"{process} is killed")


def fuse_missing() -> str | None:
    """Why nothing can be mounted here, or None."""
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return f"/dev/fuse: {errno.errorcode.get(error.errno or 0, error)}"
    return None
