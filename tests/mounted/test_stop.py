"""A clean stop loses nothing that the kernel had accepted, and the next mount follows at once."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.harness.mounting import Mount

pytestmark = pytest.mark.mounted


@pytest.mark.parametrize("options", [[], ["writeback"]])
def test_sigterm_takes_over_the_kernels_dirty_pages(
    make_mount: Callable[..., Mount], home: Path, options: list[str]
) -> None:
    mount = make_mount(home, *options)
    content = os.urandom(300_000)
    written = os.open(mount.point / "written", os.O_CREAT | os.O_RDWR)
    os.write(written, content)
    mapped = os.open(mount.point / "mapped", os.O_CREAT | os.O_RDWR)
    os.write(mapped, bytes(len(content)))
    with mmap.mmap(mapped, len(content)) as mapping:
        mapping[:] = content
        mount.terminate()  # SIGTERM
        for descriptor in (written, mapped):
            with pytest.raises(OSError):
                os.close(descriptor)
        mount.mount("none")
        assert (mount.point / "written").read_bytes() == content
        assert (mount.point / "mapped").read_bytes() == content


def test_unmounted_and_mounted_again_at_once(make_mount: Callable[..., Mount], home: Path) -> None:
    mount = make_mount(home)
    for number in range(3):
        (mount.point / str(number)).write_text("x")
        mount.remount()
    assert sorted(os.listdir(mount.point)) == ["0", "1", "2"]
