"""The mount process's half as far as a gateway can tell: cache.db, blobs, outcomes, points.

Changes are made as the cache makes them (bytes, rows and queue entry), without its care for
crashes: the gateway is what is tested.
"""

from __future__ import annotations

import os
import queue
import sqlite3
import stat
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from afmfs.cache.store.schema import ENTRY_COLUMNS, SCHEMA
from afmfs.gateway.gateway import Gateway
from afmfs.gateway.protocol import Message
from afmfs.model.entry import FIRST_INO, LAST, ROOT, UNLINKED, Op
from afmfs.model.row_sum import row_sum

BLOCK = 4096
T0 = 1_600_000_000_123_456_789


class FakeMount:
    def __init__(self, cache: Path, home: Path, **tunables: Any) -> None:
        self.cache, self.home = cache, home
        cache.mkdir(parents=True, exist_ok=True)
        for shard in range(256):
            (cache / "blobs" / f"{shard:02x}").mkdir(parents=True, exist_ok=True)
        self.db = sqlite3.connect(cache / "cache.db", isolation_level=None, check_same_thread=False)
        self.db.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF;" + SCHEMA)
        self.tunables = {"async_delay_s": 0, "flush_threads": 4, "home_sync": "none"} | tunables
        self.next_ino, self.next_id, self.clock = FIRST_INO, 1, T0
        self.insert_inode(ROOT, stat.S_IFDIR | 0o755)
        self.insert_inode(UNLINKED, stat.S_IFDIR | 0o700)
        self.messages: queue.Queue[Message] = queue.Queue()
        self.log: list[Message] = []
        self.replies: dict[int, tuple[Message, bytes]] = {}
        self.gateway: Gateway | None = None
        self.points = self.generations = 0
        self.point_ok = True
        self.on_point: Callable[[], None] = lambda: None
        self.auto_retire = True
        self.rids = 0
        self.retired_seq = 0

    # -- rows ------------------------------------------------------------------------------------

    def insert_inode(self, ino: int, mode: int, **columns: Any) -> None:
        now = self.tick()
        row = {
            "ino": ino, "mode": mode, "uid": os.geteuid(), "gid": os.getegid(), "rdev": 0,
            "nlink": 1, "size": 0, "atime": now, "mtime": now, "ctime": now, "gen": 0, "whole": 1,
            "home_valid": 0, "listed": 2, "home_size": None, "home_mtime": None, "home_ino": None,
            "changed": 0, "retired": 0, "synced": 0, "target": None,
        } | columns  # fmt: skip
        names = ",".join(row)
        self.db.execute(
            f"INSERT INTO inode ({names}) VALUES ({','.join('?' * len(row))})", list(row.values())
        )

    def update(self, ino: int, **columns: Any) -> None:
        sets = ",".join(f"{name}=?" for name in columns)
        self.db.execute(f"UPDATE inode SET {sets} WHERE ino=?", (*columns.values(), ino))

    def get(self, ino: int, column: str) -> Any:
        return self.db.execute(f"SELECT {column} FROM inode WHERE ino=?", (ino,)).fetchone()[0]

    def tick(self) -> int:
        self.clock += 1_000_000_007
        return self.clock

    def entry(self, op: Op, ino: int, kind: int, *rest: Any, queued_ns: int | None = None) -> int:
        fields = [*rest] + [None] * (5 - min(len(rest), 5)) if len(rest) < 5 else [*rest]
        fields += [0] * (8 - len(fields))
        number, self.next_id = self.next_id, self.next_id + 1
        when = time.time_ns() if queued_ns is None else queued_ns
        self.db.execute(
            f"INSERT INTO queue ({ENTRY_COLUMNS}) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?)",
            (number, int(op), ino, kind, *fields, when),
        )
        self.update(ino, changed=number)
        return number

    def add_name(self, parent: int, name: bytes, ino: int) -> None:
        cookie = self.db.execute(
            "SELECT coalesce(max(cookie),0)+1 FROM dentry WHERE parent=?", (parent,)
        ).fetchone()[0]
        self.db.execute("INSERT INTO dentry VALUES (?,?,?,?)", (parent, cookie, name, ino))

    def remove_name(self, parent: int, name: bytes) -> None:
        self.db.execute("DELETE FROM dentry WHERE parent=? AND name=?", (parent, name))

    def look_up(self, parent: int, name: bytes) -> int:
        found = self.db.execute(
            "SELECT ino FROM dentry WHERE parent=? AND name=?", (parent, name)
        ).fetchone()
        return int(found[0])

    # -- operations ------------------------------------------------------------------------------

    def make(
        self, name: bytes, data: bytes | None = None, *, parent: int = ROOT,
        mode: int = stat.S_IFREG | 0o644, target: bytes | None = None, **columns: Any,
    ) -> int:  # fmt: skip
        """A new object; a file with `data` gets a WRITE entry of it."""
        ino, self.next_ino = self.next_ino, self.next_ino + 1
        size = len(target) if target is not None else 0
        self.insert_inode(ino, mode, target=target, **({"size": size} | columns))
        self.add_name(parent, name, ino)
        self.entry(Op.MAKE, ino, stat.S_IFMT(mode), parent, name)
        self.update(parent, mtime=self.tick())
        if data is not None:
            self.write(ino, 0, data)
        return ino

    def mkdir(self, name: bytes, parent: int = ROOT, mode: int = 0o755) -> int:
        return self.make(name, parent=parent, mode=stat.S_IFDIR | mode)

    def blob(self, ino: int) -> Path:
        gen = self.get(ino, "gen")
        if not gen:
            self.generations += 1
            gen = self.generations
            self.update(ino, gen=gen)
        return self.cache / "blobs" / f"{gen >> 10 & 0xFF:02x}" / f"{gen:x}"

    def put(self, ino: int, offset: int, data: bytes) -> None:
        """Into the blob, which is as long as the inode."""
        fd = os.open(self.blob(ino), os.O_RDWR | os.O_CREAT, 0o600)
        os.pwrite(fd, data, offset)
        os.ftruncate(fd, max(os.fstat(fd).st_size, self.get(ino, "size")))
        os.close(fd)

    def write(self, ino: int, offset: int, data: bytes) -> int:
        self.put(ino, offset, data)
        end = offset + len(data)
        self.update(ino, size=max(end, self.get(ino, "size")), mtime=self.tick())
        if not self.get(ino, "whole"):
            self.mark(ino, offset, end)
        return self.entry(Op.WRITE, ino, stat.S_IFREG, None, None, None, None, None, offset, end)

    def mark(self, ino: int, start: int, end: int) -> None:
        """Valid bytes of a file that is not whole, as a span."""
        row = (ino, start, end, row_sum(ino, start, end))
        self.db.execute("INSERT OR REPLACE INTO span VALUES (?,?,?,?)", row)

    def truncate(self, ino: int, size: int) -> int:
        if self.get(ino, "gen"):
            os.truncate(self.blob(ino), size)
        self.update(
            ino, size=size, mtime=self.tick(), home_valid=min(size, self.get(ino, "home_valid"))
        )
        return self.entry(Op.SIZE, ino, stat.S_IFREG, None, None, None, None, None, 0, size)

    def setattr(self, ino: int, **columns: Any) -> int:
        self.update(ino, **columns)
        return self.entry(Op.ATTR, ino, stat.S_IFMT(self.get(ino, "mode")))

    def link(self, ino: int, name: bytes, parent: int = ROOT) -> int:
        self.add_name(parent, name, ino)
        return self.entry(Op.LINK, ino, stat.S_IFMT(self.get(ino, "mode")), parent, name)

    def remove(self, name: bytes, parent: int = ROOT) -> int:
        ino = self.look_up(parent, name)
        kind = stat.S_IFMT(self.get(ino, "mode"))
        self.remove_name(parent, name)
        last = self._drop_if_gone(ino)
        self.update(parent, mtime=self.tick())
        return self.entry(
            Op.REMOVE, ino, kind, parent, name, None, None, None, 0, 0, LAST if last else 0
        )

    def _drop_if_gone(self, ino: int) -> bool:
        if self.db.execute("SELECT 1 FROM dentry WHERE ino=?", (ino,)).fetchone():
            return False
        self.db.execute("DELETE FROM inode WHERE ino=?", (ino,))
        return True

    def rename(
        self, name: bytes, name2: bytes, parent: int = ROOT, parent2: int | None = None
    ) -> int:
        parent2 = parent if parent2 is None else parent2
        ino = self.look_up(parent, name)
        over = self.db.execute(
            "SELECT ino FROM dentry WHERE parent=? AND name=?", (parent2, name2)
        ).fetchone()
        self.remove_name(parent, name)
        last = False
        if over:
            self.remove_name(parent2, name2)
            last = self._drop_if_gone(over[0])
        self.add_name(parent2, name2, ino)
        kind = stat.S_IFMT(self.get(ino, "mode"))
        return self.entry(
            Op.RENAME, ino, kind, parent, name, parent2, name2, over[0] if over else None,
            0, 0, LAST if last else 0,
        )  # fmt: skip

    def exchange(self, name: bytes, name2: bytes) -> int:
        one, two = self.look_up(ROOT, name), self.look_up(ROOT, name2)
        self.remove_name(ROOT, name)
        self.remove_name(ROOT, name2)
        self.add_name(ROOT, name, two)
        self.add_name(ROOT, name2, one)
        kind = stat.S_IFMT(self.get(one, "mode"))
        return self.entry(Op.EXCHANGE, one, kind, ROOT, name, ROOT, name2, two)

    def adopt(
        self, name: bytes, parent: int = ROOT, path: str = "", *, cached: bool = False
    ) -> int:
        """An object that home holds already, as a listing brings it."""
        st = os.lstat(os.path.join(os.fsencode(self.home / path), name))
        ino, self.next_ino = self.next_ino, self.next_ino + 1
        is_file = stat.S_ISREG(st.st_mode)
        self.insert_inode(
            ino, st.st_mode, size=st.st_size, whole=int(not is_file or cached),
            home_valid=st.st_size, home_size=st.st_size, home_mtime=st.st_mtime_ns,
            home_ino=st.st_ino, mtime=st.st_mtime_ns, atime=st.st_atime_ns, nlink=st.st_nlink,
            uid=st.st_uid, gid=st.st_gid,
        )  # fmt: skip
        self.add_name(parent, name, ino)
        if cached and is_file:
            self.put(ino, 0, (self.home / path / os.fsdecode(name)).read_bytes())
        return ino

    # -- the conversation ------------------------------------------------------------------------

    def start(self, **hello: Any) -> Gateway:
        gateway = self.gateway = Gateway(self.cache, 1, self.take)
        gateway.crashed = lambda: self.messages.put({"type": "crashed"})
        gateway.start()
        gateway.receive(
            {
                "type": "hello", "identity": "ident", "target": str(self.home), "counter": 1,
                "token": "t", "tokens": ["t"], "takeover": False, "first": True,
                "cache": str(self.cache), "fileset": "fs", "owner": {"host": "here"},
                "stopped": False, "needs_resync": False, "tunables": self.tunables,
                "block_size": BLOCK,
            }
            | hello
        )  # fmt: skip
        return gateway

    def take(self, message: Message, fds: Iterable[int] = ()) -> None:
        """What the gateway sends, in its threads; answers `point` at once."""
        data = b"".join(os.pread(fd, 1 << 30, 0) for fd in fds)
        self.log.append(message)
        if message["type"] == "point":
            self.points += 1
            self.on_point()
            assert self.gateway is not None
            self.gateway.receive({"type": "point_done", "rid": message["rid"], "ok": self.point_ok})
        elif message["type"] in ("fetched", "listed", "dropped", "restored", "emptied"):
            self.replies[message["rid"]] = message, data
            self.messages.put(message)
        else:
            self.messages.put(message)

    def await_message(self, kind: str, timeout: float = 10.0, **fields: Any) -> Message:
        """The next message of a type (others are passed over)."""
        deadline = time.monotonic() + timeout
        while True:
            try:
                message = self.messages.get(timeout=max(0.01, deadline - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"no {kind} message; last were {self.log[-8:]}") from None
            assert message["type"] != "crashed", "the gateway crashed"
            if message["type"] == kind and all(message.get(k) == v for k, v in fields.items()):
                return message

    def settle(self, timeout: float = 20.0) -> Message:
        """Flush; back when nothing more can be executed."""
        assert self.gateway is not None
        while not self.messages.empty():
            self.messages.get()
        through = self.next_id - 1
        self.gateway.receive({"type": "flush", "through": through})
        message = self.await_message("status", timeout, settled=True, through=through)
        self.retire()
        return message

    def request(self, kind: str, timeout: float = 10.0, **fields: Any) -> tuple[Message, bytes]:
        assert self.gateway is not None
        self.rids += 1
        rid = self.rids
        self.gateway.receive({"type": kind, "rid": rid, **fields})
        deadline = time.monotonic() + timeout
        while rid not in self.replies:
            assert time.monotonic() < deadline, f"no answer; last were {self.log[-8:]}"
            time.sleep(0.002)
        return self.replies.pop(rid)

    def retire(self) -> None:
        """Take over the outcomes that gateway.db has, and let it forget them."""
        assert self.gateway is not None
        reader = sqlite3.connect(
            f"file:{self.cache / 'gateway' / '1' / 'gateway.db'}?mode=ro", uri=True
        )
        rows = reader.execute("SELECT * FROM outcome WHERE seq>?", (self.retired_seq,)).fetchall()
        reader.close()
        for seq, entry, ino, size, mtime, home_ino, result, code in rows:
            gone = self.db.execute("DELETE FROM queue WHERE id=? RETURNING op", (entry,)).fetchone()
            if mtime is not None:
                self.update(ino, home_size=size, home_mtime=mtime, home_ino=home_ino)
            self.db.execute(
                "UPDATE inode SET retired=max(retired, ?) WHERE ino=?", (entry or 0, ino)
            )
            self._note_refusal(ino, gone[0] if gone else None, result, code)
            self.retired_seq = seq
        self.gateway.receive({"type": "forget", "seq": self.retired_seq})

    def _note_refusal(self, ino: int, op: int | None, result: str, code: int | None) -> None:
        """What home can't hold: of an entry, or (None) of what a job says of an inode."""
        if op is None and code is None and result != "lost":
            self.db.execute("DELETE FROM unrepresentable WHERE ino=?", (ino,))
        if op is None:
            ops = {"unrepresentable": Op.MAKE, "unlinked": Op.LINK}
            op = int(ops.get(result, Op.ATTR)) if code is not None else None
        elif result != "unrepresentable":
            op = None
        if op is not None:
            row = (ino, op, code)
            self.db.execute("INSERT OR REPLACE INTO unrepresentable VALUES (?,?,?)", row)

    def pending(self) -> list[int]:
        return [i for (i,) in self.db.execute("SELECT id FROM queue ORDER BY id")]

    def stop(self) -> None:
        if self.gateway is not None:
            assert self.gateway.stop(10.0)
            self.gateway = None

    def close(self) -> None:
        self.stop()
        self.db.close()
