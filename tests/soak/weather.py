"""Home goes away and comes back, at random: it hangs, its server dies, or its mount is gone."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable

from tests.harness.sshd import Sshd, Sshfs


class Weather(threading.Thread):
    """Storms of `storm` seconds at most, with `calm` seconds at most in between."""

    def __init__(
        self, sshd: Sshd, sshfs: Sshfs, seed: int, calm: float = 40.0, storm: float = 20.0
    ) -> None:
        super().__init__(name="weather", daemon=True)
        self.storms: dict[str, int] = {}
        self.failure: Exception | None = None
        self._sshd, self._sshfs = sshd, sshfs
        self._dice = random.Random(seed)
        self._calm, self._storm = calm, storm
        self._over = threading.Event()

    def run(self) -> None:
        try:
            while not self._over.wait(self._dice.uniform(self._calm / 4, self._calm)):
                self._blow(self._dice.choice([self._hangs, self._dies, self._drops, self._leaves]))
                self._look_after_sshfs()
        except Exception as error:
            self.failure = error

    def stop(self) -> None:
        """Home is there when this returns, and stays."""
        self._over.set()
        if self.ident is not None:
            self.join()

    def clear_up(self) -> None:
        """The same; raises what went wrong."""
        self.stop()
        if self.failure is not None:
            raise self.failure
        self._look_after_sshfs()

    def _look_after_sshfs(self) -> None:
        """Where its server dies in an unlucky moment it ends, in spite of `reconnect`."""
        if self._sshfs.has_ended:
            self.storms["sshfs ended"] = self.storms.get("sshfs ended", 0) + 1
            self._sshfs.clear()
            self._sshfs.mount()

    def _blow(self, storm: Callable[[], Callable[[], object]]) -> None:
        kind = storm.__name__.strip("_")
        self.storms[kind] = self.storms.get(kind, 0) + 1
        end = storm()
        self._over.wait(self._dice.uniform(self._storm / 4, self._storm))
        end()

    def _hangs(self) -> Callable[[], object]:
        self._sshd.stop()
        return self._sshd.cont

    def _dies(self) -> Callable[[], object]:
        self._sshd.kill()
        return self._sshd.start

    def _drops(self) -> Callable[[], object]:
        self._sshd.drop()
        return lambda: None

    def _leaves(self) -> Callable[[], object]:
        """Its mount is gone: an empty directory is in its place."""
        self._sshfs.clear()
        return self._sshfs.mount
