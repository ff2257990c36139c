"""Words for the types of objects, as reports and listings say them."""

from __future__ import annotations

import stat

_KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "character device",
    stat.S_IFBLK: "block device",
}


def kind_name(mode: int) -> str:
    """Of a mode, or its S_IFMT bits alone."""
    return _KINDS.get(stat.S_IFMT(mode), "?")
