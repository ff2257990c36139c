"""Before the kernel knows where an adopted file ends, nothing of home's is written over."""

from __future__ import annotations

import errno

import pytest
import trio

from afmfs.cache.content.kernel import KernelPages
from afmfs.cache.content.sizes import KernelSizes
from tests.cache.parts import Parts, parts

__all__ = ["parts"]

OLD, NEW = 10, 29


class Kernel:
    """What the kernel is told, in order."""

    def __init__(self) -> None:
        self.told: list[tuple[object, ...]] = []

    def invalidate_inode(self, ino: int) -> None:
        self.told.append(("forget", ino))

    def invalidate_entry(self, parent: int, name: bytes) -> None:
        self.told.append(("forget", parent, name))

    def extend(self, ino: int, offset: int, data: bytes) -> None:
        self.told.append(("extend", ino, offset, data))


class Scene:
    def __init__(self, parts: Parts, *, keeps: bool) -> None:
        self.ino, self.opened, self.away = parts.uncached(b"file", NEW).ino, True, False
        self.kernel, self.pages = Kernel(), KernelPages()
        self.pages.invalidator = self.kernel
        self.sizes = KernelSizes(
            parts.store, parts.namespace, self.pages, lambda ino: self.opened, self.read,
            keeps=keeps,
        )  # fmt: skip

    async def read(self, ino: int, offset: int, size: int) -> bytes:
        if self.away:
            raise OSError(errno.EIO, "home is away")
        return b"x"

    def refused(self, start: int, end: int) -> bool:
        try:
            self.sizes.check_write(self.ino, start, end)
        except OSError as exc:
            assert exc.errno == errno.EIO
            return True
        return False


async def test_no_write_over_what_the_kernel_does_not_know(parts: Parts) -> None:
    scene = Scene(parts, keeps=False)
    scene.sizes.adopted(scene.ino, OLD)
    assert scene.refused(OLD, OLD + 3)
    assert not scene.refused(0, OLD)  # it says where
    assert not scene.refused(NEW, NEW + 3)


async def test_no_page_that_was_begun_before(parts: Parts) -> None:
    """The write-back cache writes whole pages: old bytes around those that were meant."""
    scene = Scene(parts, keeps=True)
    scene.sizes.adopted(scene.ino, OLD)
    assert scene.refused(0, OLD)


async def test_the_kernel_is_told_once_home_answers(parts: Parts) -> None:
    scene = Scene(parts, keeps=True)
    scene.away = True
    async with trio.open_nursery() as nursery:
        nursery.start_soon(scene.pages.run)
        nursery.start_soon(scene.sizes.run)
        scene.pages.forget(scene.ino)
        scene.sizes.adopted(scene.ino, OLD)
        await trio.sleep(0.2)
        assert scene.refused(OLD, OLD + 3)
        scene.away = False
        with trio.fail_after(5):
            while scene.sizes.doubtful:
                await scene.pages.settle(1)
                await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    forget, extend = ("forget", scene.ino), ("extend", scene.ino, NEW - 1, b"x")
    assert scene.kernel.told == [forget, extend, forget]


async def test_what_was_cut_off_is_in_no_doubt(parts: Parts) -> None:
    scene = Scene(parts, keeps=False)
    scene.sizes.adopted(scene.ino, OLD)
    scene.sizes.resized(scene.ino, 20)
    assert scene.refused(OLD, OLD + 3)
    assert not scene.refused(20, NEW)
    scene.sizes.resized(scene.ino, 0)
    assert not scene.refused(0, NEW)


async def test_another_generation_once_nobody_has_it_open(parts: Parts) -> None:
    scene = Scene(parts, keeps=True)
    scene.sizes.adopted(scene.ino, OLD)
    assert scene.sizes.generation(scene.ino) == 0
    scene.opened = False
    scene.sizes.closed(scene.ino)
    assert scene.sizes.generation(scene.ino) == 1
    with pytest.raises(OSError) as caught:
        scene.sizes.check_open(scene.ino)
    assert caught.value.errno == errno.ESTALE
    scene.sizes.looked_up(scene.ino)
    scene.sizes.check_open(scene.ino)
