"""Going to the background, logging, and what a process owes its surroundings.

The mounting process forks before any thread or event loop exists. The parent waits until the child
says that the mount serves, or what went wrong, and ends with its exit code.
"""

from __future__ import annotations

import faulthandler
import logging
import logging.handlers
import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path

LOG_NAME = "afmfs.log"
LOG_BYTES, LOG_KEPT = 10 << 20, 3
MOST_FILES = 1 << 20

FAILED = 32  # mount(8): mount failure
INTERRUPTED = 8  # mount(8): user interrupt


class Parent:
    """The process that waits for us, as the child sees it."""

    def __init__(self, pipe: int) -> None:
        self._pipe = pipe

    def report(self, code: int, message: str = "") -> None:
        """End the parent with this code, once; later reports find nobody."""
        if self._pipe < 0:
            return
        try:
            os.write(self._pipe, f"{code}\n{message}".encode("utf-8", "surrogateescape"))
        except BrokenPipeError:
            pass  # it was killed; the mount is none the worse for it
        os.close(self._pipe)
        self._pipe = -1


def in_background(run: Callable[[Parent], int]) -> int:
    """Run in a child of its own session. Returns in the parent only, with the code reported."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        os.setsid()
        os._exit(run(Parent(writer)))
    os.close(writer)
    try:
        return _await_report(reader, child)
    except KeyboardInterrupt:
        os.kill(child, signal.SIGTERM)
        print("mount.afmfs: interrupted", file=sys.stderr)
        return INTERRUPTED


def _await_report(reader: int, child: int) -> int:
    with open(reader, "rb") as pipe:
        report = pipe.read()
    code, newline, message = report.decode("utf-8", "surrogateescape").partition("\n")
    if not newline:
        _, status = os.waitpid(child, 0)
        print(f"mount.afmfs: the mount process died ({_how(status)})", file=sys.stderr)
        return FAILED
    if message:
        print(f"mount.afmfs: {message}", file=sys.stderr)
    return int(code)


def _how(status: int) -> str:
    if os.WIFSIGNALED(status):
        return signal.Signals(os.WTERMSIG(status)).name
    return f"exit status {os.WEXITSTATUS(status)}"


def log_to_stderr(*, verbose: bool) -> None:
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )


def log_to_file(cache: Path, *, verbose: bool) -> None:
    """Log to CACHE/afmfs.log, kept small by rotation."""
    handler = logging.handlers.RotatingFileHandler(
        cache / LOG_NAME, maxBytes=LOG_BYTES, backupCount=LOG_KEPT, encoding="utf-8"
    )
    handler.setFormatter(
        logging.Formatter("%(asctime)s [%(process)d] %(levelname)s %(name)s: %(message)s")
    )
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.DEBUG if verbose else logging.INFO)


def leave_terminal(cache: Path) -> None:
    """Hold no terminal, pipe or directory of whoever mounts. What is written to stderr from here
    on, by libfuse, the gateway or a dying interpreter, goes to the log."""
    sys.stdout.flush()
    sys.stderr.flush()
    log = os.open(cache / LOG_NAME, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for source, target in ((null, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    os.close(null)
    os.close(log)
    os.chdir("/")


def stacks_on_request() -> None:
    """SIGUSR1 writes the stacks of all threads to stderr, so to the log of a background mount."""
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=True)


def allow_many_files() -> None:
    """A descriptor for each blob in use: take what the hard limit allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
