"""Every crash rule: where the code keeps it, what takes it out, and the tests that fail then.

`where` names the function that keeps the rule. A fault's `old` text is the rule itself, as it
stands there: replaced by `new`, the rule is gone. `scripts/faults rule` plants each of them.
"""

from __future__ import annotations

from typing import NamedTuple

from tests.faults.planted import Fault

CACHE = "tests/cache/test_crash_rules.py::"
RARER = "tests/cache/test_rarer_crash_rules.py::"
GATEWAY = "tests/gateway/test_crash_rules.py::"
EVICT = "tests/cache/test_evict.py::"
FETCH = "tests/gateway/test_fetch.py::"
JOURNAL = "tests/gateway/test_journal.py::"
COALESCE = "tests/model/test_coalesce_rules.py::"


class Rule(NamedTuple):
    name: str  # in the table of crash rules
    where: str  # the function that keeps it
    fault: Fault

    @property
    def place(self) -> str:
        return self.fault.file


def rule(name: str, place: str, old: str, new: str, *tests: str) -> Rule:
    """`place` is FILE:FUNCTION."""
    file, _, where = place.partition(":")
    return Rule(name, where, Fault(f"rule {name}", f"afmfs/{file}", old, new, tests))


THE_CACHES_OWN = (
    rule(
        "new-blob-first",
        "cache/content/content.py:Content._write_new",
        "            self._write_parts(inode, offset, data, new)\n"
        "            return self._commit_write(inode, offset, end, parts)\n",
        "            number = self._commit_write(inode, offset, end, parts)\n"
        "            self._write_parts(inode, offset, data, new)\n"
        "            return number\n",
        CACHE + "test_new_blob_first",
        CACHE + "test_new_blob_first_appended",
    ),
    rule(
        "overwrite-entry-first",
        "cache/content/content.py:Content._write_at_once",
        "        self._write_new(inode, offset, end, data, parts)\n"
        "        if parts[1]:  # entry first: kill -9 here pushes the old bytes once more\n"
        "            self._write_parts(inode, offset, data, parts[1])\n",
        "        if parts[1]:\n"
        "            self._write_parts(inode, offset, data, parts[1])\n"
        "        self._write_new(inode, offset, end, data, parts)\n",
        CACHE + "test_overwrite_entry_first_also_at_once",
    ),
    rule(
        "overwrite-durable",
        "cache/content/content.py:Content._write",
        "            await self._sync_wal()\n            self._in_place",
        "            self._in_place",
        CACHE + "test_overwrite_durable",
    ),
    rule(
        "in-place-mark",
        "cache/content/content.py:Content.retired",
        "        if self._in_place.get(ino, entry + 1) <= entry:",
        "        if self._in_place.get(ino, entry + 1) < 0:",
        CACHE + "test_in_place_mark",
    ),
    rule(
        "point-drains",
        "cache/content/durable.py:Durable._make",
        "            await self._drain()\n",
        "",
        CACHE + "test_point_drains",
    ),
    rule(
        "number-at-start",
        "cache/content/durable.py:Durable._make",
        'store.put("durable_entry", last)',
        'store.put("durable_entry", self._store.entries.last)',
        CACHE + "test_number_at_start",
    ),
    rule(
        "point-recorded",
        "cache/content/durable.py:Durable._make",
        "            await trio.to_thread.run_sync(self._store.sync_wal)  # point-recorded\n",
        "",
        CACHE + "test_point_recorded",
    ),
    rule(
        "clean-drop-per-block",
        "cache/content/recovery.py:Recovery._disbelieve",
        "            self._drop(ino, start, end)  # drop-clean\n",
        "            self._drop(ino, 0, 1 << 62)\n",
        CACHE + "test_drop_clean",
    ),
    rule(
        "destroy-waits",
        "cache/content/content.py:Content._shrink",
        "            self._store.reclaim(inode, size)\n",
        "            self._blobs.cut(inode, size)\n",
        CACHE + "test_a_tail_in_reclaim_survives_a_kill",
    ),
    rule(
        "evict-waits",
        "cache/content/content.py:Content.uncache",
        "            self._store.reclaim(inode, 0)\n        self.validity.forget(inode)\n"
        "        self._store.save(inode, gen=0, whole=inode.size == 0)\n",
        "            self._blobs.remove(inode.gen)\n        self.validity.forget(inode)\n"
        "        self._store.save(inode, gen=0, whole=inode.size == 0)\n",
        EVICT + "test_evict_waits",
    ),
    rule(
        "truncate-new-generation",
        "cache/content/content.py:Content._empty",
        "        self._store.save(inode, gen=0, whole=True)\n",
        "        self._store.save(inode, whole=True)\n",
        CACHE + "test_truncate_new_generation",
    ),
    rule(
        "shrink-keeps-generation",
        "cache/content/content.py:Content._shrink",
        "            self._in_reclaim.add(inode.ino)\n",
        "            self._in_reclaim.add(inode.ino)\n            self._store.save(inode, gen=0)\n",
        CACHE + "test_shrink_keeps_generation",
    ),
    rule(
        "reclaim-numbered",
        "cache/content/durable.py:Durable._reclaim",
        "        await self.sync_wal()\n        whole = [",
        "        whole = [",
        RARER + "test_reclaim_numbered",
    ),
    rule(
        "reclaim-numbered",
        "cache/content/durable.py:Durable._reclaim_tail",
        "                await self.sync_wal()  # it may have been queued again meanwhile\n",
        "",
        RARER + "test_reclaim_numbered_tail",
    ),
    rule(
        "reclaim-locks",
        "cache/content/durable.py:Durable._reclaim_tail",
        "        async with self._locks.hold(ino):\n            row = ",
        "        if True:\n            row = ",
        RARER + "test_reclaim_locks",
    ),
    rule(
        "reclaim-skips",
        "cache/content/durable.py:Durable._reclaim_tail",
        "            if row and row[0] and inode is not None and inode.gen == gen:\n",
        "            if inode is not None:\n                self._blobs.cut(inode, 10)\n",
        RARER + "test_reclaim_skips",
    ),
    rule(
        "reclaim-sync",
        "cache/content/content.py:Content._reclaim_now",
        "            await self._sync_wal()\n            await self.cut_durably(inode)\n",
        "            await self.cut_durably(inode)\n",
        CACHE + "test_reclaim_sync",
    ),
    rule(
        "evict-clean-only",
        "cache/evict/evict.py:Evictions._keeping",
        "            if inode.ino in pending:\n",
        "            if inode.ino in ():\n",
        EVICT + "test_evict_clean_only",
    ),
    rule(
        "fetch-not-valid",
        "cache/content/content.py:Content.fill",
        "stop, brought = end, self.validity.missing(inode, start, end)",
        "stop, brought = end, [(start, end)]",
        CACHE + "test_fetch_not_valid",
    ),
    rule(
        "fetch-unchanged",
        "cache/content/fetch.py:Fetcher._take",
        "        while not flight.void and ",
        "        while ",
        RARER + "test_fetch_unchanged",
    ),
    rule(
        "fetch-not-truncated",
        "cache/content/content.py:Content._shrink",
        "            self._in_reclaim.add(inode.ino)\n        self.truncated(inode.ino)\n",
        "            self._in_reclaim.add(inode.ino)\n",
        RARER + "test_fetch_not_truncated",
    ),
    rule(
        "home-valid",
        "cache/content/content.py:Content._resize",
        "home_valid=min(inode.home_valid, size)",
        "home_valid=inode.home_valid",
        CACHE + "test_home_valid",
    ),
    rule(
        "home-valid-by-retired",
        "cache/home/settle.py:Settlement._home_valid",
        "        return min(size, inode.size) if smallest is None else "
        "min(size, smallest, inode.size)\n",
        "        return min(size, inode.size)\n",
        CACHE + "test_home_valid_by_retired",
    ),
)

THE_GATEWAYS = (
    rule(
        "in-flight",
        "gateway/replay/replay.py:Replay._replay",
        "            self._journal.take_off(ids)  # before the point: in-flight-durable\n",
        "",
        GATEWAY + "test_in_flight",
    ),
    rule(
        "in-flight-durable",
        "gateway/state/journal_file.py:_connect",
        '"synchronous=FULL"',
        '"synchronous=NORMAL"',
        GATEWAY + "test_in_flight_durable",
    ),
    rule(
        "durable-before-batch",
        "gateway/replay/replay.py:Replay._replay",
        "            if not self._points.make():  # durable-before-batch\n",
        "            if False:\n",
        GATEWAY + "test_durable_before_batch",
    ),
    rule(
        "home-sync",
        "gateway/replay/replay.py:Replay._replay",
        "            self.site.sync(home, told)  # before any outcome is recorded: home-sync\n",
        "",
        GATEWAY + "test_home_sync",
    ),
    rule(
        "outcome-after-durable",
        "gateway/replay/replay.py:Replay._record_after_point",
        "        if self._points.make():\n            self._record()\n",
        "        if True:\n            self._record()\n",
        GATEWAY + "test_outcome_after_durable",
    ),
    rule(
        "outcome-durable",
        "gateway/replay/replay.py:Replay._replay",
        "            self._record()  # of the batch before this one: outcome-durable\n",
        "",
        GATEWAY + "test_outcome_durable",
    ),
    rule(
        "forget-after-durable",
        "cache/steering.py:Steering._after_point",
        '            self._link.post({"type": "forget", "seq": self._forgettable})\n',
        '            self._link.post({"type": "forget", "seq": self._retirement.seq})\n',
        RARER + "test_forget_after_durable",
    ),
    rule(
        "batch-cut",
        "model/cut.py:before_cut",
        "        if _made(action) in places:\n            return actions[:n]\n",
        "",
        COALESCE + "test_a_batch_ends_where",
    ),
    rule(
        "doubt-cut",
        "gateway/replay/window.py:Window.pick",
        "        for entries in [] if unsure.of_trees else doubts:\n",
        "        for entries in [[e for entries in doubts for e in entries]]:\n",
        GATEWAY + "test_doubt_cut",
    ),
    rule(
        "doubt",
        "gateway/replay/work.py:Work.may_be_gone",
        "        return self.doubt or ",
        "        return ",
        GATEWAY + "test_doubt",
    ),
    rule(
        "doubt",
        "gateway/state/journal.py:Journal.affirm",
        "            with self._lock, self._transaction():\n                pass\n",
        "            self._affirmed = True\n",
        JOURNAL + "test_a_commit_that_a_kill_has_halved_stays_away",
        GATEWAY + "test_doubt_affirmed",
    ),
    rule(
        "doubt-adopts-type",
        "gateway/replay/naming.py:Namer._make_other",
        "                self._create(action.kind, row, dirfd, name)\n"
        "            except FileExistsError:\n"
        "                if not work.doubt:\n"
        "                    raise\n",
        "                self._create(action.kind, row, dirfd, name)\n"
        "            except FileExistsError:\n"
        "                raise\n",
        GATEWAY + "test_doubt_adopts_type",
    ),
    rule(
        "names-executed",
        "gateway/state/locate.py:Locator.places",
        "            todo = [e for e in entries if not self._executed(e.id)]\n",
        "            todo = list(entries)\n",
        GATEWAY + "test_names_executed",
    ),
    rule(
        "fetch-waits-doubt",
        "gateway/state/locate.py:Locator.places",
        "        if any(self._in_doubt(e.id) for e in todo):\n            raise InDoubt(ino)\n",
        "",
        FETCH + "test_while_a_batch_in_doubt_is_settled",
    ),
    rule(
        "connection",
        "gateway/replay/replay.py:Replay._replay",
        "            connection.check(home)  # else all is in doubt: connection\n",
        "",
        GATEWAY + "test_connection",
    ),
    rule(
        "stamp-before-mark",
        "gateway/replay/replay.py:Replay._replay",
        "            if not pick.doubt:\n                try:\n"
        "                    execution.check(batch)  # before the mark: stamp-before-mark\n",
        "            self._journal.take_off(ids)\n            if not pick.doubt:\n"
        "                try:\n                    execution.check(batch)\n",
        GATEWAY + "test_stamp_before_mark",
    ),
    rule(
        "newer bytes, never newer sizes",
        "gateway/replay/pushing.py:Pusher._write",
        "            if content.size is not None and size != content.size:\n"
        "                size = content.size\n",
        "            if size != row.size:\n                size = row.size\n",
        GATEWAY + "test_newer_bytes_never_newer_sizes",
    ),
)

RECOVERY = (
    rule(
        "recovery-is-one",
        "cache/content/recovery.py:Recovery.run",
        "                pass\n            if lost:\n",
        "                pass\n        with store:\n            if lost:\n",
        RARER + "test_recovery_is_one",
    ),
    rule(
        "recovery-takes-over",
        "cache/content/recovery.py:Recovery.run",
        "            overwritten = self._overwritten() if lost else set()\n"
        "            while sound and self._take_over_some():\n"
        "                pass\n",
        "            while sound and self._take_over_some():\n"
        "                pass\n"
        "            overwritten = self._overwritten() if lost else set()\n",
        RARER + "test_recovery_is_one",
    ),
    rule(
        "drop-clean",
        "cache/content/recovery.py:Recovery._disbelieve",
        "            self._drop(ino, start, end)  # drop-clean\n",
        "            pass\n",
        CACHE + "test_drop_clean",
    ),
    rule(
        "drop-fresh-dirty",
        "cache/content/recovery.py:Recovery._disbelieve",
        "        for ino, start, end, number in rows:  # drop-fresh-dirty\n",
        "        for ino, start, end, number in rows[:0]:\n",
        CACHE + "test_drop_fresh_dirty",
    ),
    rule(
        "recovery-zeros",
        "cache/content/recovery.py:Recovery._disbelieve",
        "                self._zero(inode, max(start, inode.home_valid), end)\n",
        "                pass\n",
        CACHE + "test_recovery_zeros",
    ),
    rule(
        "in-place-mark",
        "cache/content/recovery.py:Recovery._disbelieve",
        "            if ino in overwritten and ino not in unheld:\n",
        "            if ino in ():\n",
        CACHE + "test_recovery_sends_again_what_may_have_been_overwritten",
    ),
    rule(
        "numbers-unique",
        "cache/store/store.py:Numbers.reserve",
        "        self._store.sync_wal()\n        self._limit",
        "        self._limit",
        CACHE + "test_numbers_unique",
    ),
)

RULES = (*THE_CACHES_OWN, *THE_GATEWAYS, *RECOVERY)
