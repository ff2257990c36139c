"""Random damage at home, and resyncs that are killed and interrupted on their way.

What lies at home and in the cache before and after each time that the gateway works is compared by
`oracle`; nothing works at home while anything is compared, or harmed.
"""

from __future__ import annotations

import os
import shutil
import stat
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule

from tests.harness import oracle
from tests.harness.cache_state import Cached, CacheState
from tests.harness.damage import KINDS, Damage, make_outside
from tests.harness.files import Files, KernelFiles
from tests.harness.home_state import HomeState, canary_state
from tests.harness.machine import MODES, NAMES, indexes, times
from tests.harness.oracle import Moment, Wrong
from tests.harness.oracle_cache import check_cache_kept
from tests.harness.program_machine import BLOCK, ProgramMachine, contents, fill, offsets

KILL, CRASH, AWAY = "kill", "crash", "away"
"""Blows: the gateway is killed; both processes are; home goes away and comes back."""

Blow = tuple[int, str]
"""At which step of the gateway's work, and what."""

steps = st.integers(0, 60) | st.integers(0, 500)
blows = st.lists(st.tuples(steps, st.sampled_from([KILL, KILL, CRASH, AWAY])), max_size=2)
hows = st.sampled_from(["manual", "keep", "automatic"])
kinds = st.sampled_from(KINDS)
home_names = st.sampled_from([*NAMES, b"new"])


class Repaired(Protocol):
    """A fileset whose gateway changes home only while it flushes and while a job runs."""

    files: Files
    cache: Path

    def flush(self, hit: list[Blow]) -> None:
        """Back when all is replayed, or nothing more will be as home was found changed."""

    def resync(self, how: str, hit: list[Blow]) -> None:
        """From the request to its end."""

    def interrupt(self, how: str, step: int, then: Callable[[], None]) -> bool:
        """Begin a resync and kill the gateway on its way; `then` is called before another one can
        start. False if it was done before."""

    def finish(self) -> None:
        """Back when the job is done that was interrupted."""

    def refuse(self, names: Iterable[bytes], code: int) -> None:
        """From here on home refuses to make, move or remove anything of these names."""

    def distrust(self) -> None:
        """Have home count as changed."""

    def waits(self) -> bool:
        """Whether a job is not done, as home refuses something of it."""

    def permit(self) -> None:
        """Back when home refuses nothing, and what waited for that is done."""

    def evict(self, path: bytes) -> None:
        """As far as that may be."""

    def rest(self) -> None:
        """Back when nothing is under way."""

    def is_clean(self) -> bool:
        """Whether nothing is pending, and home was not found changed."""

    def verify(self) -> list[dict[str, Any]]:
        """The rows of a report on what differs."""

    def drop(self, handle: Any) -> None:
        """After a crash: so does whoever had this open."""

    def crash(self) -> None: ...
    def stop(self) -> None: ...
    def start(self) -> None: ...
    def close(self) -> None: ...


class RepairMachine(ProgramMachine):
    """Subclasses say where, and make a `Repaired` of a home."""

    def place(self) -> Path:
        """A new directory on a tmpfs."""
        raise NotImplementedError

    def make(self, base: Path, *options: str) -> Repaired:
        """Of `base`/home."""
        raise NotImplementedError

    def __init__(self) -> None:
        super().__init__()
        self.repaired: Repaired | None = None
        self.interrupted = False  # a job waits for home
        self.refused = False  # home refuses something; a job may wait for that
        self.harmed = False  # since a resync that has put all of it right

    @initialize(how=hows, hit=blows, xattrs=st.booleans(), held=st.booleans())
    def begin_all(self, how: str, hit: list[Blow], xattrs: bool, held: bool) -> None:
        """`how` and the rest are for the end."""
        self.last, self.held, self.xattrs = (how, hit), held, xattrs
        self.base = self.place()
        self.home, self.plain_root = self.base / "home", self.base / "plain"
        fill(self.home)
        fill(self.plain_root)
        self.plain = KernelFiles(self.plain_root)
        self.unread = os.lstat(self.plain_root / "dark").st_ino
        self.begin_masks()
        self.outside = self.base / "outside"
        make_outside(self.outside)
        self.canary = canary_state(self.outside)
        self.damage = Damage(self.home, self.outside)
        self.repaired = self.make(self.base, *(["xattrs"] if xattrs else []))
        for path in self._known(directories=True):
            self.tested.files.names(path)

    @property
    def tested(self) -> Any:
        assert self.repaired is not None
        return self.repaired

    def teardown(self) -> None:
        try:
            if sys.exc_info()[0] is None and self.repaired is not None:
                self.end()
        finally:
            if self.repaired is not None:
                self.repaired.close()
                shutil.rmtree(self.base, ignore_errors=True)

    # -- looking ---------------------------------------------------------------------------------

    @property
    def away(self) -> Path:
        """Where home is while it is away."""
        return self.base / "away"

    @property
    def where(self) -> Path:
        return self.away if self.away.exists() else self.home

    def moment(self) -> Moment:
        self.tested.rest()
        now = Moment(HomeState(self.where), CacheState(self.tested.cache, BLOCK))
        self.damage.strangers -= now.cache.by_home_ino().keys()  # taken for the cache's own
        return now

    def _before(self, hit: Any) -> Moment:
        """Programs don't survive a crash of what they have files open on."""
        if any(what == CRASH for _, what in hit):
            self._close_all()
        return self.moment()

    def _check(self, before: Moment, *, replay: bool) -> Moment:
        """What must hold whenever the gateway has worked, however far it came."""
        after = self.moment()
        if canary_state(self.outside) != self.canary:
            raise Wrong("something outside home was touched")
        oracle.check_nothing_lost(before, after, replay=replay)
        self.check_cache_after(before, after)
        return after

    def check_cache_after(self, before: Moment, after: Moment) -> None:
        check_cache_kept(before, after)
        self.follow_home(after.cache)
        self.forget_nulls(before.cache, after.cache)
        self.check_cache(after.cache)

    # -- the cache -------------------------------------------------------------------------------

    @rule(index=indexes)
    def evict(self, index: int) -> None:
        path = self._old(index)
        if not stat.S_ISREG(self._mode(path)):
            return
        before = self.moment()
        self.tested.evict(path)
        after = self.moment()
        for ino, one in before.cache.inodes.items():
            if one.pending and one.valid != after.cache.inodes[ino].valid:
                raise Wrong(f"pending bytes were evicted: {one}")
        self.forget_evicted(after.cache)

    # Rules are never barred: whether a job was done when it was interrupted is not for sure, and
    # the same program must make the same steps again.

    @rule(hit=blows)
    def flush(self, hit: Any = ()) -> None:
        self.bring_back()
        before = self._before(hit)
        self.tested.flush(list(hit))
        self._check(before, replay=True)

    @rule(crash=st.booleans())
    def restart(self, crash: bool) -> None:
        if crash:
            self.tested.crash()
            for one, other, _ in self.handles:
                self.plain.close(one)
                self.tested.drop(other)
            self.handles.clear()
        else:
            self._close_all()
            self.tested.stop()
        self.tested.start()

    # -- resync ----------------------------------------------------------------------------------

    @rule(how=hows, hit=blows)
    def resync(self, how: str, hit: list[Blow]) -> None:
        self.bring_back()
        self._resync(how, hit)

    def _resync(self, how: str, hit: list[Blow]) -> Moment:
        """From the request to its end; all that a resync promises holds."""
        self._before(hit)  # what it closes may be removed at home: before the state is asked for
        how = self._admitted(how)
        before = self.moment()
        self.check_cache(before.cache)
        self.tested.resync(how, hit)
        after = self._check(before, replay=False)
        if self.refused:  # not all of it is done
            return after
        oracle.check_gaps(before, after, nulls=how == "manual")
        oracle.check_agrees(before, after)
        oracle.check_names(after, self.damage.foreign, self.damage.strangers)
        oracle.check_trash(after)
        if self.xattrs:
            oracle.check_xattrs(after)
        self.harmed = False
        return after

    def _admitted(self, how: str) -> str:
        """A resync is for a fileset that is Active or NeedsResync; an automatic one for the latter
        alone."""
        if self.refused and self.tested.waits():
            self.permit()
        if not self.moment().cache.needs_resync and not self.tested.is_clean():
            if self.refused:  # what home refuses may be pending then
                self.flush()
                self.tested.distrust()
            else:
                self.flush()
        if how == "automatic" and not self.moment().cache.needs_resync:
            return "keep"
        return how

    @rule(how=hows, step=steps)
    def interrupt(self, how: str, step: int) -> None:
        """Home goes away under a resync; programs go on, and home may be harmed."""
        self.bring_back()
        how = self._admitted(how)
        before = self.moment()
        self.interrupted = self.tested.interrupt(how, step, self._go_away)
        self._check(before, replay=False)

    def _go_away(self) -> None:
        os.rename(self.home, self.away)
        self.damage.move(self.away)

    # -- home ------------------------------------------------------------------------------------

    def refuse(self, names: frozenset[bytes], code: int) -> None:
        """For subclasses whose home can."""
        self.permit()
        self.refused = bool(names)
        self.tested.refuse(names, code)

    def permit(self) -> None:
        """What waits for it is done."""
        if not self.refused:
            return
        self.bring_back()
        before = self.moment()
        self.refused = False
        self.tested.permit()
        self._check(before, replay=True)
        if not self.harmed and self.tested.is_clean():
            self._check_verify()  # what home has refused is there

    @rule()
    def take_away(self) -> None:
        if not self.away.exists():
            self.tested.rest()
            self._go_away()

    @rule()
    def bring_back(self) -> None:
        """A job that waited goes on by itself."""
        if not self.away.exists():
            return
        before = self.moment()
        os.rename(self.away, self.home)
        self.damage.move(self.home)
        if self.interrupted:
            self.tested.finish()
            self.interrupted = False
            self._check(before, replay=False)

    def _harm(self, act: Callable[[Damage], None]) -> None:
        self.harmed = True
        self.tested.rest()
        act(self.damage)

    @rule(index=indexes, offset=offsets, data=contents, quietly=st.booleans())
    def home_write(self, index: int, offset: int, data: bytes, quietly: bool) -> None:
        self._harm(lambda d: d.write(index, offset, data, quietly=quietly))

    @rule(index=indexes, size=offsets)
    def home_cut(self, index: int, size: int) -> None:
        self._harm(lambda d: d.cut(index, size))

    @rule(index=indexes, to=times)
    def home_touch(self, index: int, to: Any) -> None:
        self._harm(lambda d: d.touch(index, to.mtime))

    @rule(index=indexes, mode=st.sampled_from(MODES))
    def home_chmod(self, index: int, mode: int) -> None:
        self._harm(lambda d: d.chmod(index, mode))

    @rule(index=indexes)
    def home_remove(self, index: int) -> None:
        self._harm(lambda d: d.remove(index))

    @rule(sure=st.integers(0, 9))
    def home_wipe(self, sure: int) -> None:
        if sure == 9:
            self._harm(lambda d: d.wipe())

    @rule(index=indexes, parent=indexes, name=home_names)
    def home_rename(self, index: int, parent: int, name: bytes) -> None:
        self._harm(lambda d: d.rename(index, parent, name))

    @rule(index=indexes, other=indexes)
    def home_exchange(self, index: int, other: int) -> None:
        self._harm(lambda d: d.exchange(index, other))

    @rule(index=indexes, parent=indexes, name=home_names)
    def home_link(self, index: int, parent: int, name: bytes) -> None:
        self._harm(lambda d: d.link(index, parent, name))

    @rule(index=indexes, data=contents, alike=st.booleans())
    def home_replace(self, index: int, data: bytes, alike: bool) -> None:
        self._harm(lambda d: d.replace(index, data, alike=alike))

    @rule(parent=indexes, name=home_names, kind=kinds, data=contents)
    def home_make(self, parent: int, name: bytes, kind: str, data: bytes) -> None:
        self._harm(lambda d: d.make(parent, name, kind, data))

    @rule(index=indexes, kind=kinds, data=contents)
    def home_retype(self, index: int, kind: str, data: bytes) -> None:
        self._harm(lambda d: d.retype(index, kind, data))

    @rule(index=indexes, keep=st.booleans())
    def home_lead_out(self, index: int, keep: bool) -> None:
        self._harm(lambda d: d.lead_out(index, keep=keep))

    # -- the end ---------------------------------------------------------------------------------

    def end(self) -> None:
        """Home is put right, for good, and what is read then is what home has."""
        self.permit()
        self.bring_back()
        if not self.held:
            self._close_all()
        how, hit = self.last
        first = self._resync(how, hit)
        oracle.check_unchanged(first, self._resync(how, []))
        self._check_verify()
        self._read_all()
        self.tested.rest()
        self._close_all()

    def _check_verify(self) -> None:
        """It finds nothing but what a resync leaves: what is new at home, and whatever is about a
        file with nothing cached."""
        paths = self.moment().cache.paths
        for row in self.tested.verify():
            one = paths.get(os.fsencode(row.get("path", "")))
            if row.get("difference") in (None, "extra", "lost", "nulled"):
                continue
            if one is None or not one.without_data:
                raise Wrong(f"verify finds a difference: {row}")

    def _read_all(self) -> None:
        now = self.moment()
        for path in self._known():
            info, one = os.lstat(self.plain.at(path)), now.cache.paths[path]
            if not stat.S_ISREG(info.st_mode):
                continue
            data = self.read_path(path, 0, info.st_size + 1)
            if data is None:
                if not one.lost:
                    raise Wrong(f"{path!r} can't be read after a resync: {one}")
            elif not one.lost and data not in self._at_names(one, now):
                raise Wrong(f"{path!r} reads otherwise than home has it: {one}")

    @staticmethod
    def _at_names(one: Cached, now: Moment) -> list[bytes | None]:
        """What home has under the names of a file, one of which is enough where nothing of it was
        cached."""
        return [now.home.tree[path].data for path in one.names if path in now.home.tree]
