"""Another user, in a process of their own: what each of their calls gives, as JSON.

`python -m tests.hostile.somebody UID GID GROUPS DIRECTORY`: the directory is entered first, so that
what leads to it need not be open to them. The same calls in a plain directory and in a mount of a
copy of it must give the same.
"""

from __future__ import annotations

import errno
import json
import mmap
import os
import stat
import sys
from collections.abc import Callable

from afmfs.model import acl
from afmfs.model.acl import Ace

THEIRS, OURS, OTHER = 1001, 1002, 1003
"""Groups: theirs alone, one that they are a supplementary member of, and one that they are not."""

Call = Callable[[], object]


def become(uid: int, gid: int, groups: list[int]) -> None:
    os.setgroups(groups)
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)


def prepare(root: str) -> None:
    """What there is before they come: root's and other users' things."""
    os.chmod(root, 0o755)
    for name, mode, owner, group in (
        ("open", 0o777, 0, 0), ("closed", 0o700, 0, 0), ("listed", 0o744, 0, 0),
        ("passed", 0o711, 0, 0), ("sticky", 0o1777, 0, 0), ("grouped", 0o2775, 0, OURS),
        ("foreign", 0o2777, 0, OTHER), ("mine", 0o755, THEIRS, THEIRS),
    ):  # fmt: skip
        os.mkdir(f"{root}/{name}")
        os.chown(f"{root}/{name}", owner, group)
        os.chmod(f"{root}/{name}", mode)
        put(f"{root}/{name}/root", 0o600, 0, 0)
        put(f"{root}/{name}/public", 0o644, 0, 0)
    for name, mode, owner, group in (
        ("set-id", 0o6777, 0, 0), ("members", 0o664, 0, OURS), ("not-members", 0o660, 0, OTHER),
        ("own", 0o644, THEIRS, THEIRS), ("own-set-id", 0o6755, THEIRS, THEIRS),
        ("own-foreign", 0o644, THEIRS, OTHER), ("deaf", 0o000, THEIRS, THEIRS),
        ("append", 0o222, 0, 0), ("run", 0o711, 0, 0), ("set-id-no-x", 0o6666, 0, 0),
    ):  # fmt: skip
        put(f"{root}/{name}", mode, owner, group)
    os.symlink("closed/root", f"{root}/link")
    os.mkfifo(f"{root}/fifo", 0o600)


def put(path: str, mode: int, owner: int, group: int) -> None:
    with open(path, "wb") as file:
        file.write(b"some bytes of " + os.path.basename(path).encode())
    os.chown(path, owner, group)
    os.chmod(path, mode)


def look(path: str) -> str:
    info = os.lstat(path)
    return f"{info.st_mode:o} {info.st_uid}:{info.st_gid} {info.st_nlink} {info.st_size}"


def read(path: str, flags: int = 0) -> str:
    fd = os.open(path, os.O_RDONLY | flags)
    try:
        return os.read(fd, 100).decode()
    finally:
        os.close(fd)


def write(path: str, flags: int = 0, mode: int = 0o666, data: bytes = b"new") -> str:
    fd = os.open(path, os.O_WRONLY | flags, mode)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)
    return look(path)


def then(path: str, call: Call) -> Call:
    """The call, and how it leaves a file, whether it succeeds or not."""

    def both() -> object:
        try:
            call()
        except OSError as error:
            return f"{errno.errorcode[error.errno or 0]}, {look(path)}"
        return look(path)

    return both


def create_with_umask(path: str, mode: int, umask: int) -> str:
    before = os.umask(umask)
    try:
        write(path, os.O_CREAT | os.O_EXCL, mode)
    finally:
        os.umask(before)
    return look(path)


def copied_in(path: str) -> str:
    """mmap: a store clears no bits until it is written."""
    fd = os.open(path, os.O_RDWR)
    try:
        os.ftruncate(fd, 4096)
        with mmap.mmap(fd, 4096) as memory:
            memory[:4] = b"mmap"
            memory.flush()
    finally:
        os.close(fd)
    return look(path)


def calls() -> dict[str, Call]:
    found: dict[str, Call] = {}
    for place in ("open", "closed", "listed", "passed", "sticky", "grouped", "foreign", "mine"):
        found |= _in_a_directory(place)
    found |= {f"access {bits} {name}": _access(name, bits)
              for name in ("closed", "listed", "passed", "members", "not-members", "deaf", "run",
                           "append", "fifo", "link")
              for bits in (os.F_OK, os.R_OK, os.W_OK, os.X_OK)}  # fmt: skip
    return found | _of_files()


def _access(name: str, bits: int) -> Call:
    return lambda: os.access(name, bits)


def _in_a_directory(d: str) -> dict[str, Call]:
    return {
        f"{d}: list": lambda: sorted(os.listdir(d)),
        f"{d}: look": lambda: look(f"{d}/public"),
        f"{d}: read public": lambda: read(f"{d}/public"),
        f"{d}: read root's": lambda: read(f"{d}/root"),
        f"{d}: write public": lambda: write(f"{d}/public"),
        f"{d}: make a file": lambda: write(f"{d}/f", os.O_CREAT | os.O_EXCL),
        f"{d}: make a set-id file": lambda: write(f"{d}/s", os.O_CREAT | os.O_EXCL, 0o6777, b""),
        f"{d}: open what cannot be written": lambda: write(f"{d}/r", os.O_CREAT, 0o400),
        f"{d}: with umask 077": lambda: create_with_umask(f"{d}/u77", 0o666, 0o077),
        f"{d}: with umask 002": lambda: create_with_umask(f"{d}/u02", 0o777, 0o002),
        f"{d}: make a directory": lambda: (os.mkdir(f"{d}/d", 0o755), look(f"{d}/d"))[1],
        f"{d}: make a fifo": lambda: (os.mkfifo(f"{d}/p", 0o640), look(f"{d}/p"))[1],
        f"{d}: make a device": lambda: os.mknod(f"{d}/dev", stat.S_IFCHR | 0o666, 0x103),
        f"{d}: make a symlink": lambda: (os.symlink("x", f"{d}/l"), look(f"{d}/l"))[1],
        f"{d}: link own": lambda: (os.link("own", f"{d}/own"), look("own"))[1],
        f"{d}: link root's": lambda: os.link(f"{d}/root", f"{d}/stolen"),
        f"{d}: link set-id": lambda: os.link("set-id-no-x", f"{d}/kept"),
        f"{d}: rename root's": lambda: os.rename(f"{d}/root", f"{d}/moved"),
        f"{d}: rename it back": lambda: os.rename(f"{d}/moved", f"{d}/root"),
        f"{d}: rename own over root's": lambda: os.rename(f"{d}/u77", f"{d}/root"),
        f"{d}: rename own": lambda: os.rename(f"{d}/u02", f"{d}/u03"),
        f"{d}: rename a directory": lambda: os.rename(f"{d}/d", f"{d}/e"),
        f"{d}: take a directory out": lambda: os.rename(f"{d}/e", "mine/e"),
        f"{d}: remove it": lambda: os.rmdir("mine/e"),
        f"{d}: remove root's": lambda: os.unlink(f"{d}/public"),
        f"{d}: remove own": lambda: os.unlink(f"{d}/f"),
        f"{d}: chmod": lambda: os.chmod(d, 0o777),
        f"{d}: set-group-ID": lambda: (os.chmod(f"{d}/p", 0o2750), look(f"{d}/p"))[1],
        f"{d}: utime": lambda: os.utime(d),
    }


def _of_files() -> dict[str, Call]:
    now, then_ns = None, (1_000_000_000, 1_000_000_000)
    return {
        "write to set-id": lambda: write("set-id"),
        "write to set-id without x": lambda: write("set-id-no-x"),
        "write to own set-id": lambda: write("own-set-id"),
        "set-id again": lambda: (os.chmod("own-set-id", 0o6755), look("own-set-id"))[1],
        "truncate own set-id": then("own-set-id", lambda: os.truncate("own-set-id", 5)),
        "and again": lambda: (os.chmod("own-set-id", 0o6755), look("own-set-id"))[1],
        "O_TRUNC of own set-id": lambda: write("own-set-id", os.O_TRUNC, data=b""),
        "and once more": lambda: (os.chmod("own-set-id", 0o6755), look("own-set-id"))[1],
        "own chown": then("own-set-id", lambda: os.chown("own-set-id", -1, OURS)),
        "store by mmap": lambda: copied_in("own-set-id"),
        "chgrp to a group of mine": then("own", lambda: os.chown("own", -1, OURS)),
        "chgrp to another": then("own", lambda: os.chown("own", -1, OTHER)),
        "give away": then("own", lambda: os.chown("own", 0, -1)),
        "chown to nobody": then("own", lambda: os.chown("own", -1, -1)),
        "chown root's": then("members", lambda: os.chown("members", THEIRS, -1)),
        "chgrp root's": then("members", lambda: os.chown("members", -1, OURS)),
        "chmod root's": then("members", lambda: os.chmod("members", 0o777)),
        "set-group-ID of a group not mine": then(
            "own-foreign", lambda: os.chmod("own-foreign", 0o2755)
        ),
        "sticky file": then("own", lambda: os.chmod("own", 0o1644)),
        "write as a member": lambda: write("members"),
        "write as no member": lambda: write("not-members"),
        "read as no member": lambda: read("not-members"),
        "truncate as a member": then("members", lambda: os.truncate("members", 3)),
        "truncate root's": then("run", lambda: os.truncate("run", 3)),
        "read what is only to append": lambda: read("append"),
        "write to it": lambda: write("append", os.O_APPEND),
        "read own without permission": lambda: read("deaf"),
        "allow it": then("deaf", lambda: os.chmod("deaf", 0o600)),
        "read it now": lambda: read("deaf"),
        "touch own": then("own", lambda: os.utime("own", now)),
        "touch root's as a member": then("members", lambda: os.utime("members", now)),
        "set times of own": then("own", lambda: os.utime("own", ns=then_ns)),
        "set times of root's": then("members", lambda: os.utime("members", ns=then_ns)),
        "touch what is to read": then("run", lambda: os.utime("run", now)),
        "O_NOATIME of own": lambda: read("own", os.O_NOATIME),
        "O_NOATIME of root's": lambda: read("members", os.O_NOATIME),
        "through a link": lambda: read("link"),
        "O_NOFOLLOW": lambda: read("link", os.O_NOFOLLOW),
        "read the link": lambda: os.readlink("link"),
        "open the fifo": lambda: read("fifo", os.O_NONBLOCK),
        "execute": lambda: os.access("run", os.X_OK),
        "out of it": lambda: look("closed/../own"),
        "above it": lambda: look("passed/../own"),
        "make in the root": lambda: write("new", os.O_CREAT),
        "remove in the root": lambda: os.unlink("own"),
        "chmod the root": lambda: os.chmod(".", 0o777),
        "a long name": lambda: write("open/" + "n" * 256, os.O_CREAT),
    }


def prepare_lists(root: str) -> None:
    """Things with access lists."""
    everyone = [Ace(acl.USER_OBJ, 7, acl.NO_ID), Ace(acl.MASK, 7, acl.NO_ID)]
    for name, named, group, others in (
        ("shown", Ace(acl.USER, 4, THEIRS), 0, 0), ("hidden", Ace(acl.USER, 0, THEIRS), 4, 4),
        ("members'", Ace(acl.GROUP, 6, OURS), 0, 0), ("no members'", Ace(acl.GROUP, 0, OURS), 4, 4),
        ("masked", Ace(acl.USER, 6, THEIRS), 0, 0), ("writable", Ace(acl.USER, 6, THEIRS), 0, 0),
    ):  # fmt: skip
        put(f"{root}/{name}", 0o600, 0, 0)
        entries = [*everyone, named, Ace(acl.GROUP_OBJ, group, acl.NO_ID)]
        entries.append(Ace(acl.OTHER, others, acl.NO_ID))
        os.setxattr(f"{root}/{name}", acl.ACCESS, acl.dump(sorted(entries)))
    os.chmod(f"{root}/masked", 0o640)  # what a mask leaves is for all that are named
    os.mkdir(f"{root}/inherited")
    os.chmod(f"{root}/inherited", 0o777)
    default = [*everyone, Ace(acl.USER, 7, THEIRS), Ace(acl.GROUP_OBJ, 0, acl.NO_ID)]
    default.append(Ace(acl.OTHER, 0, acl.NO_ID))
    os.setxattr(f"{root}/inherited", acl.DEFAULT, acl.dump(sorted(default)))


def list_calls() -> dict[str, Call]:
    found: dict[str, Call] = {}
    for name in ("shown", "hidden", "members'", "no members'", "masked", "writable"):
        found[f"read {name}"] = lambda name=name: read(name)  # type: ignore[misc]
        found[f"write {name}"] = lambda name=name: write(name)  # type: ignore[misc]
        found[f"access {name}"] = _access(name, os.R_OK | os.W_OK)
        found[f"chmod {name}"] = lambda name=name: os.chmod(name, 0o666)  # type: ignore[misc]
    return found | {
        "make": lambda: write("inherited/new", os.O_CREAT | os.O_EXCL, 0o666),
        "its list": lambda: os.getxattr("inherited/new", acl.ACCESS).hex(),
        "make for oneself": lambda: write("inherited/own", os.O_CREAT | os.O_EXCL, 0o600),
        "its own list": lambda: os.getxattr("inherited/own", acl.ACCESS).hex(),
        "make a directory": lambda: (os.mkdir("inherited/d"), look("inherited/d"))[1],
        "its default": lambda: os.getxattr("inherited/d", acl.DEFAULT).hex(),
        "take a list of another's": lambda: os.setxattr("hidden", acl.ACCESS, b""),
        "give a list": lambda: os.setxattr(
            "inherited/own", acl.ACCESS, os.getxattr("inherited/new", acl.ACCESS)
        ),
        "which shows": lambda: look("inherited/own"),
        "nonsense": lambda: os.setxattr("inherited/own", acl.ACCESS, b"nonsense"),
        "no trust": lambda: os.setxattr("inherited/own", "trusted.x", b"1"),
        "no security": lambda: os.setxattr("inherited/own", "security.capability", b"1"),
    }


def outcomes(these: dict[str, Call]) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, call in these.items():
        try:
            found[name] = call()
        except OSError as error:
            found[name] = errno.errorcode[error.errno or 0]
    return found


if __name__ == "__main__":
    uid, gid, groups, directory, *lists = sys.argv[1:]
    os.chdir(directory)
    os.umask(0)
    become(int(uid), int(gid), [int(group) for group in groups.split(",") if group])
    json.dump(outcomes(list_calls() if lists else calls()), sys.stdout)
