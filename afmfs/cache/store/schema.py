"""Tables of cache.db: the data dictionary.

All columns are integers unless said otherwise; times are ns since the epoch, sizes bytes. The mount
process is the only writer, the gateway reads through a connection of its own.
"""

from __future__ import annotations

VERSION = 6
"""Format of a cache (`PRAGMA user_version`). An older one is brought up to date when it is opened,
a newer one is refused."""

_FIRST = """
-- Settings and small state, by name: identity, target, fileset, device, block_size, tunables
-- (JSON), counter and token (new at every mount, compared with home's marker), tokens (JSON; those
-- that home may have), past (JSON; those that it had), home (N of gateway/N),
-- entry_limit and ino_limit (numbers below are taken),
-- durable_entry, needs_resync (a reason, or ''), stopped, clean, boot_id, mount_id, pool (JSON;
-- generations of blobs made in advance), leftover (JSON; those that crashes may have left to
-- nobody), statvfs and properties (JSON; home as last seen), job (JSON; the resync, failover or
-- recovery that is due or running, or ''), job_number (the last one), callbacks (JSON),
CREATE TABLE fileset (key TEXT PRIMARY KEY, value) WITHOUT ROWID;

-- One row for each object; the fields are described at `Inode`.
CREATE TABLE inode (
    ino INTEGER PRIMARY KEY, mode, uid, gid, rdev, nlink, size, atime, mtime, ctime,
    gen, whole, home_valid, listed, home_size, home_mtime, home_ino, changed, retired, synced,
    target BLOB);

-- What a start looks for: inodes that were open without a name, directories that were being read.
CREATE INDEX inode_nameless ON inode (ino) WHERE nlink = 0;
CREATE INDEX inode_reading ON inode (ino) WHERE listed = 1;

-- Names. `cookie` is the place in a listing: one of the eight slots that follow the name's hash, so
-- that it stays what it is for as long as the name lives, and one tree serves look-up and listing.
CREATE TABLE dentry (parent, cookie, name BLOB, ino, PRIMARY KEY (parent, cookie)) WITHOUT ROWID;
CREATE INDEX dentry_ino ON dentry (ino);

-- What is cached of a file that is not whole. A set bit: every byte of the block below the file's
-- size is right in the blob. Bit n of chunk c is block c * 8192 + n (little-endian, 1024 bytes).
-- Of 8 bytes it is a run: so many chunks from c on are full (little-endian), and have no other row.
-- Blocks of which no row tells are not cached.
CREATE TABLE blockmap (ino, chunk, bits BLOB, PRIMARY KEY (ino, chunk)) WITHOUT ROWID;
-- Valid bytes inside blocks whose bit is not set.
CREATE TABLE span (ino, start, end, PRIMARY KEY (ino, start)) WITHOUT ROWID;
-- Fetched bytes that became valid since a durable point (`point` is its number).
CREATE TABLE fresh (ino, start, end, point);

-- Blob bytes to destroy once the transaction that queued them is durable: everything at or beyond
-- `start`; 0 is the whole blob of that generation.
CREATE TABLE reclaim (ino, gen, start, PRIMARY KEY (ino, gen)) WITHOUT ROWID;

-- The queue. Rows are immutable; see afmfs.model.entry.
CREATE TABLE queue (
    id INTEGER PRIMARY KEY, op, ino, kind, parent, name BLOB, parent2, name2 BLOB, ino2,
    start, "end", flags, queued_ns);
-- By inode, all but what is most of it: the bytes written.
CREATE INDEX queue_ino ON queue (ino, id) WHERE op <> 6;
CREATE INDEX queue_ino2 ON queue (ino2, id) WHERE ino2 IS NOT NULL;

CREATE TABLE xattr (ino, name BLOB, value BLOB, PRIMARY KEY (ino, name)) WITHOUT ROWID;

-- Home's inode number of a file with several names there, so that they are one file here as well.
CREATE TABLE homelink (home_ino INTEGER PRIMARY KEY, ino);

-- What home can never hold, and data that was dropped from the queue (ECANCELED), so that home
-- does not get it; not pending, listed for the administrator.
CREATE TABLE unrepresentable (ino, op, errno, PRIMARY KEY (ino, op)) WITHOUT ROWID;

-- What happened, newest last.
CREATE TABLE event (id INTEGER PRIMARY KEY, time_ns, name TEXT, detail TEXT);

-- One row, kept in the transactions that change what it counts.
CREATE TABLE counters (queue_length, bytes_pending, cached_bytes, inodes);
INSERT INTO counters VALUES (0, 0, 0, 0);
"""

REFILL_USED = """
INSERT OR IGNORE INTO used
    SELECT ino, CASE WHEN changed THEN ctime / 1e9 ELSE 0 END FROM inode
    WHERE mode & 61440 = 32768 AND size > 0 AND (whole OR gen) AND changed <= retired;
"""
"""What brings files that may be evicted back into that order."""

UPGRADES = {
    1: """
-- Files with nothing cached, and directories never read, that home has lost, as a resync (its
-- number) found: reads are EIO. A row outlives its inode, till the next job has ended: home need
-- not have what is removed.
CREATE TABLE lost (ino INTEGER PRIMARY KEY, job);
-- When a file was last opened or fetched (s since the epoch), for eviction; kept now and then.
CREATE TABLE used (ino INTEGER PRIMARY KEY, time_s);
""",
    2: """
-- The order of eviction. Each file that may be evicted has a row in `used`: one that comes to have
-- something cached that home has as well gets it in the transaction that makes it so.
CREATE INDEX used_time ON used (time_s);
"""
    + REFILL_USED,
    3: """
-- Bytes that were only here, and that a check has found to be lost: reads of them fail.
CREATE TABLE damaged (ino, start, end, PRIMARY KEY (ino, start)) WITHOUT ROWID;
""",
    4: """
-- What vouches for a row of a map, beyond what SQLite checks (afmfs.model.row_sum).
ALTER TABLE blockmap ADD COLUMN crc;
ALTER TABLE span ADD COLUMN crc;
-- Else whoever removes, evicts or syncs a file would read what was fetched of all the others.
CREATE INDEX fresh_ino ON fresh (ino);
""",
    5: "",  # runs in block maps, which an earlier program would take for bits
}
"""What makes a cache of one version one of the next."""

_SUMS = {
    table: f"CASE WHEN typeof(ino) = 'integer' AND typeof({place}) = 'integer'"
    f" AND typeof({content}) = '{kind}' THEN row_sum(ino, {place}, {content}) ELSE -1 END"
    for table, place, content, kind in (
        ("blockmap", "chunk", "bits", "blob"),
        ("span", "start", '"end"', "integer"),
    )
}
"""Of rows of maps, where `row_sum` is a function of SQL: a text that is noise can't be passed."""

VOUCHED = 5
VOUCH = "".join(f"UPDATE {table} SET crc = {value};\n" for table, value in _SUMS.items())
"""What gives rows of maps their checksums in a cache of a version below VOUCHED."""

BAD_ROWS = {table: f"crc IS NOT {value} OR crc = -1" for table, value in _SUMS.items()}
"""The rows of a map that are not as they were written."""

SCHEMA = _FIRST + "".join(UPGRADES.values())

INODE_COLUMNS = (
    "ino, mode, uid, gid, rdev, nlink, size, atime, mtime, ctime, gen, whole, home_valid, listed,"
    " home_size, home_mtime, home_ino, changed, retired, synced, target"
)
"""In the order of the fields of `Inode`."""

ENTRY_COLUMNS = (
    'id, op, ino, kind, parent, name, parent2, name2, ino2, start, "end", flags, queued_ns'
)
"""In the order of the fields of `Entry`."""
