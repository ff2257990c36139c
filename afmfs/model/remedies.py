"""What to do about an error of home's: the end of every message that tells of one.

Pure data, by errno: who reads `Input/output error` wants to know where to look, and whether
anything has to be done here afterwards (nothing has).
"""

from __future__ import annotations

import errno

MOUNT = "mount home there again"
_DEAD = "that mount is dead: unmount it (umount -l) and mount home again"
_FORGOTTEN = "its server does not know it any more: unmount it (umount -l) and mount home again"
_SHUT_OUT = "let the user of this mount in at home again"
_ACCOUNT = "renew the ticket or key that home is mounted with"
_ROOM = "make room at home (df and df -i tell of what)"
_QUOTA = "raise the quota at home, or make room within it"
_WRITABLE = "make home writable again"
_PERMISSION = "give the user of this mount the permission at home (ls -l, lsattr)"
SERVER = "see home's server and network"
DISK = "see the disks of home's server"

_AWAY = {
    errno.ENOENT: MOUNT,
    errno.ENOTDIR: MOUNT,
    errno.ELOOP: MOUNT,
    errno.ENOTCONN: _DEAD,
    errno.ECONNABORTED: _DEAD,
    errno.ESTALE: _FORGOTTEN,
    errno.EACCES: _SHUT_OUT,
    errno.EPERM: _SHUT_OUT,
    errno.ENOKEY: _ACCOUNT,
    errno.EKEYEXPIRED: _ACCOUNT,
    errno.EKEYREVOKED: _ACCOUNT,
    errno.EKEYREJECTED: _ACCOUNT,
    errno.ENOSPC: _ROOM,
    errno.EDQUOT: _QUOTA,
}
_REFUSAL = {
    errno.ENOSPC: _ROOM,
    errno.EDQUOT: _QUOTA,
    errno.EROFS: _WRITABLE,
    errno.EACCES: _PERMISSION,
    errno.EPERM: _PERMISSION,
    errno.EIO: DISK,
}


def of_away(code: int) -> str:
    """Where home as a whole answers with this errno."""
    return _AWAY.get(code, SERVER)


def of_refusal(code: int) -> str:
    """Where home refuses one change with this errno."""
    return _REFUSAL.get(code, "see home's file system")
