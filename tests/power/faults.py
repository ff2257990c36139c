"""Faults that a loss of power shows.

Which moments a life and its cuts meet is chance: `scripts/faults` records several lives.
"""

from __future__ import annotations

from tests.faults.planted import Fault

_LIFE = ("tests/power/test_power_loss.py",)
_MOMENT = ("tests/power/test_moments.py",)

FAULTS = (
    Fault(
        "power: a durable point that syncs no blobs",
        "afmfs/cache/content/durable.py",
        "                await trio.to_thread.run_sync(self._sync_all)\n",
        "                pass\n",
        _MOMENT,
    ),
    Fault(
        "power: overwrite by an entry that may be lost",
        "afmfs/cache/content/content.py",
        "            await self._sync_wal()\n            self._in_place",
        "            self._in_place",
        _MOMENT,
    ),
    Fault(
        "power: destroy at once what a truncation leaves",
        "afmfs/cache/content/content.py",
        "            self._store.reclaim(inode, 0)\n        if inode.home_valid:",
        "            self._blobs.remove(inode.gen)\n        if inode.home_valid:",
        _MOMENT,
    ),
    Fault(
        "power: cut off at once what a truncation leaves",
        "afmfs/cache/content/content.py",
        "            self._store.reclaim(inode, size)\n",
        "            self._blobs.cut(inode, size)\n",
        _MOMENT,
    ),
    Fault(
        "power: evict before a durable point",
        "afmfs/cache/content/content.py",
        "            self._store.reclaim(inode, 0)\n        self.validity.forget(inode)",
        "            self._blobs.remove(inode.gen)\n        self.validity.forget(inode)",
        _MOMENT,
    ),
    Fault(
        "power: outcomes of what home may lose",
        "afmfs/gateway/replay/replay.py",
        "            self.site.sync(home, told)  # before any outcome is recorded: home-sync\n",
        "",
        _LIFE,
    ),
    Fault(
        "power: forget outcomes before they are durably retired",
        "afmfs/cache/home/hearing.py",
        '        await until_kept(take_over, "outcomes can\'t be taken over yet")',
        "        await take_over()\n"
        '        self._link.post({"type": "forget", "seq": self._retirement.seq})\n'
        '        await until_kept(take_over, "outcomes can\'t be taken over yet")',
        _LIFE,
    ),
    Fault(
        "power: execute what may be lost here",
        "afmfs/gateway/replay/replay.py",
        "            if not self._points.make():  # durable-before-batch\n",
        "            if False:\n",
        _LIFE,
    ),
    Fault(
        "power: execute what is not noted as in flight",
        "afmfs/gateway/replay/replay.py",
        "            self._journal.take_off(ids)  # before the point: in-flight-durable\n",
        "",
        _LIFE,
    ),
    Fault(
        "power: fsync that leaves the bytes in memory",
        "afmfs/cache/content/durable.py",
        "            await self._sync_blob(inode.gen, fd)\n",
        "            pass\n",
        _MOMENT,
    ),
    Fault(
        "power: fsync that leaves the names in memory",
        "afmfs/cache/content/durable.py",
        "            store.save(inode, synced=mark)\n",
        "            return\n",
        _MOMENT,
    ),
    Fault(
        "power: believe what was fetched last",
        "afmfs/cache/content/recovery.py",
        "            self._drop(ino, start, end)  # drop-clean\n",
        "            pass\n",
        _MOMENT,
    ),
    Fault(
        "power: believe what was written last",
        "afmfs/cache/content/recovery.py",
        "        for ino, start, end, number in rows:  # drop-fresh-dirty\n",
        "        for ino, start, end, number in rows[:0]:\n",
        _MOMENT,
    ),
    Fault(
        "power: believe all of a file that was overwritten in place",
        "afmfs/cache/content/recovery.py",
        "                self._send_again(ino, dirty)\n",
        "                pass\n",
        _MOMENT,
    ),
    Fault(
        "power: believe what is zeros at home",
        "afmfs/cache/content/recovery.py",
        "                self._drop_beyond(ino, dirty)\n",
        "                pass\n",
        _MOMENT,
    ),
)
