"""What one home can hold, as tried out at connect. Pure data: crosses the socket as a map."""

from __future__ import annotations

import stat
from dataclasses import asdict, dataclass, fields
from typing import Any


@dataclass(frozen=True, slots=True)
class Properties:
    """Defaults are those of a local Linux file system seen as root."""

    mtime_ns: int = 1  # granularity of modification times, nanoseconds
    stable_inodes: bool = True  # an inode keeps its number over remounts
    noreplace: bool = True  # renameat2 knows RENAME_NOREPLACE
    exchange: bool = True  # renameat2 knows RENAME_EXCHANGE
    hard_links: bool = True
    symlinks: bool = True
    symlink_attributes: bool = True  # a symbolic link has an owner and times of its own
    fifos: bool = True
    sockets: bool = True
    devices: bool = True
    owners: bool = True  # the gateway may give an object to anyone
    modes: bool = True  # permission bits are kept as set
    xattrs: bool = True  # of the user. name space
    raw_names: bool = True  # names that are not UTF-8 are kept byte for byte
    case_sensitive: bool = True
    name_max: int = 255  # bytes
    is_fuse: bool = False  # syncfs does not reach such a home: files are fsynced one by one
    marker_ino: int = 0  # inode number of home's .afm, to compare with after the next remount
    tried: bool = True  # False: home was full or read-only, and nothing could be tried out

    def holds(self, kind: int) -> bool:
        """Whether home holds objects of these S_IFMT bits."""
        held = {
            stat.S_IFLNK: self.symlinks,
            stat.S_IFIFO: self.fifos,
            stat.S_IFSOCK: self.sockets,
            stat.S_IFCHR: self.devices,
            stat.S_IFBLK: self.devices,
        }
        return held.get(stat.S_IFMT(kind), True)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> Properties:
        """Unknown keys (of a newer version) are left out, missing ones get their defaults."""
        known = {f.name for f in fields(cls)}
        return cls(**{key: value for key, value in raw.items() if key in known})
