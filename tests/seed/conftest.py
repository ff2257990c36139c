"""The fileset that the seed's rows share, for as long as none of them breaks it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

pytest.register_assert_rewrite(
    *(
        f"tests.seed.{name}"
        for name in ("scene", "conflict", "transfer", "command", "pushed", "outofband", "pending")
    )
)

from tests.conftest import end_mounts, has_failed  # noqa: E402
from tests.seed.scene import Room, Scene, build  # noqa: E402


class Stage:
    """Makes rooms; a fileset that a failed row has left behind is not used again."""

    def __init__(self, base: Path) -> None:
        self._base, self._numbers, self._scenes = base, count(), count()
        self.scene: Scene | None = None

    def room(self) -> Room:
        if self.scene is None:
            number = next(self._scenes)
            self.scene = build(self._base / f"home{number}", self._base / f"fs{number}")
        return self.scene.room(next(self._numbers))

    def leave(self, *, failed: bool) -> None:
        if self.scene is None:
            return
        try:
            if not failed:
                self.scene.rest()
        except BaseException:
            failed = True
            raise
        finally:
            if failed:
                scene, self.scene = self.scene, None
                end_mounts([scene.mount], failed=True)


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    stage = Stage(tmp_path_factory.mktemp("seed"))
    yield stage
    if stage.scene is not None:
        end_mounts([stage.scene.mount], failed=False)


@pytest.fixture
def room(stage: Stage, request: pytest.FixtureRequest) -> Iterator[Room]:
    yield stage.room()
    stage.leave(failed=has_failed(request.node))
