"""What the kernel has once been told it answers by itself: nobody else writes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import MakeMount

pytestmark = pytest.mark.mounted

LOOK = """
import os, sys
path, missing, descriptor = sys.argv[1:]
print(os.stat(path).st_size, os.path.exists(missing), os.pread(int(descriptor), 9, 0))
"""


def test_no_request_for_what_is_known(make_mount: MakeMount, home: Path) -> None:
    """Attributes, names that are not there, pages: also while the mount process stands still."""
    (home / "d").mkdir()
    (home / "d/file").write_bytes(b"contents")
    mount = make_mount(home)
    path, missing = mount.point / "d/file", mount.point / "d/missing"
    with path.open("rb", buffering=0) as file:
        look = [sys.executable, "-c", LOOK, str(path), str(missing), str(file.fileno())]

        def looked() -> str:
            run = subprocess.run(
                look, pass_fds=[file.fileno()], capture_output=True, text=True, timeout=60,
                check=True,
            )  # fmt: skip
            return run.stdout

        expected = looked()
        assert expected == "8 False b'contents'\n"
        path.stat()  # a read makes the kernel doubt the time of the last access
        assert mount.process is not None
        os.kill(mount.process.pid, signal.SIGSTOP)
        try:
            assert looked() == expected
        finally:
            os.kill(mount.process.pid, signal.SIGCONT)
