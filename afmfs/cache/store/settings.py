"""What a mount is of: target, cache, name. Worked out, remembered, refused where unsafe."""

from __future__ import annotations

import json
import os
import shlex
import stat
import uuid
from dataclasses import dataclass, replace
from pathlib import Path

from afmfs.cache.content.harm import read_note
from afmfs.cache.store.lock import CacheLock, Place
from afmfs.cache.store.log_file import note_loss
from afmfs.cache.store.opening import opening
from afmfs.cache.store.store import Store
from afmfs.errors import Refused, is_damage
from afmfs.model.blocks import DEFAULT_BLOCK, is_block_size
from afmfs.model.entry import ROOT
from afmfs.model.target import parse_target
from afmfs.model.tunables import MountOptions, Tunables
from afmfs.mountinfo import mounted

NETWORK_FILE_SYSTEMS = {
    "9p", "afs", "ceph", "cifs", "coda", "gfs2", "glusterfs", "lustre", "ncpfs", "nfs", "nfs4",
    "ocfs2", "smb3", "smbfs", "virtiofs",
}  # fmt: skip

MOST_TOKENS = 1000
"""Mounts that home was not seen in are remembered."""


@dataclass(frozen=True)
class Settings:
    """One mount of one fileset. Paths are absolute."""

    identity: str  # of the fileset, as home's marker has it
    fileset: str
    device: str
    target: str
    cache: Path
    mountpoint: Path
    block_size: int
    tunables: Tunables
    home_number: int
    takeover: bool = False
    read_only: bool = False
    mode: str = "sw"
    lock: CacheLock | None = None  # held for as long as the settings are in use


def prepare(target: str | None, mountpoint: Path, options: MountOptions) -> Settings:
    """Lock the cache and settle what is mounted. Refused, with the way out, where unsafe."""
    point = Path(os.path.abspath(mountpoint))
    cache = choose_cache(point, options, target)
    with opening(cache):
        return _prepare(cache, target, point, options)


def _prepare(cache: Path, target: str | None, point: Path, options: MountOptions) -> Settings:
    lock = CacheLock(cache)
    try:
        refuse_damaged(cache, lock.last)
        store = Store(cache / "cache.db")
        try:
            settings = settle(store, target, point, options)
        finally:
            store.close()
    except BaseException as exc:
        lock.close()
        if is_damage(exc):
            raise damaged(cache, exc) from exc
        raise
    return replace(settings, lock=lock)


def damaged(cache: Path, exc: BaseException) -> Refused:
    return Refused(f"{cache}/cache.db is damaged ({exc}){_repair(cache)}")


def refuse_damaged(cache: Path, last: Place | None) -> None:
    """Refused where there is no sound database to be served from. A new one in the place of one
    that is lost would take the old blobs for its own."""
    note_loss(cache, last)
    note, path = read_note(cache), cache / "cache.db"
    if note is not None and note.database:
        raise Refused(f"{cache} is damaged: {note.text}{_repair(cache)}")
    lost = not path.exists() or not path.stat().st_size
    if lost and any((cache / "blobs").glob("??/*")):
        raise Refused(f"{path} is lost, and its blobs are there{_repair(cache)}")


def _repair(cache: Path) -> str:
    return f"; `afmctl {shlex.quote(str(cache))} check --repair` saves what is left"


def default_cache(fileset: str) -> Path:
    """Where a cache is when nothing else is said; never below a directory that may be emptied."""
    if os.geteuid() == 0:
        return Path("/var/lib/afmfs") / fileset
    state = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(state) / "afmfs" / fileset


def choose_cache(mountpoint: Path, options: MountOptions, target: str | None) -> Path:
    """The cache directory of a mount. Made, with mode 0700, if it is not there; never in home."""
    fileset = options.fileset or mountpoint.name
    if not fileset and options.cache is None:
        raise Refused("the mount point has no name: give -o fileset=NAME")
    cache = Path(os.path.realpath(options.cache or default_cache(fileset)))
    _refuse_nesting("cache", cache, "mount point", mountpoint)
    if target not in (None, "none"):
        check_target(_canonical(str(target)), mountpoint, cache)
    try:
        cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        info = cache.stat()
    except OSError as exc:
        raise Refused(f"the cache {cache} can't be used: {exc.strerror}") from exc
    if info.st_uid != os.geteuid():
        raise Refused(f"the cache {cache} belongs to user {info.st_uid}; mount as that user")
    if stat.S_IMODE(info.st_mode) & 0o077:
        os.chmod(cache, 0o700)
    kind = file_system_of(cache)
    if kind in NETWORK_FILE_SYSTEMS or kind.startswith("fuse"):
        raise Refused(
            f"the cache {cache} is on a {kind} file system; its databases need a local disk:"
            " give -o cache=DIR"
        )
    return cache


def settle(store: Store, target: str | None, mountpoint: Path, options: MountOptions) -> Settings:
    """The settings of this mount: what the cache remembers, and what is given now.

    Remembered durably, with the mount counter raised, on return. The cache's lock is held.
    """
    cache = store.path.parent
    known: str | None = store.get("target")
    given = None if target in (None, "none") else _canonical(str(target))
    if given is None and known is None:
        raise Refused(f"{cache} is a new cache: name the TARGET to cache")
    if given and known and given != known and store.inode(ROOT) is not None:
        raise Refused(
            f"{cache} caches {known}, not {given}. To give it a new home, mount it with TARGET"
            " `none` and use `afmctl DEVICE failover --new-target TARGET`; for another fileset,"
            " give -o cache=DIR"
        )
    final = given or known
    assert final is not None
    check_target(final, mountpoint, cache)
    known_block = store.get("block_size")
    if not is_block_size(known_block) and store.inode(ROOT) is not None:
        # In blocks of another size its maps would speak of bytes that nobody has fetched.
        raise Refused(f"{cache} does not know the size of its blocks any more{_repair(cache)}")
    block = int(known_block or options.block_size or DEFAULT_BLOCK)
    if options.block_size and options.block_size != block:
        raise Refused(
            f"{cache} has blocks of {block} bytes, fixed when it was made: leave block_size= out"
        )
    tunables = Tunables.from_dict(json.loads(store.get("tunables") or "{}")).updated(
        options.tunables
    )
    settings = Settings(
        identity=store.get("identity") or uuid.uuid4().hex,
        fileset=options.fileset or store.get("fileset") or mountpoint.name,
        device=options.device or store.get("device") or "afmfs",
        target=final,
        cache=cache,
        mountpoint=mountpoint,
        block_size=block,
        tunables=tunables,
        home_number=int(store.get("home") or 1),
        mode=str(store.get("mode") or "sw"),
        takeover=options.takeover,
        read_only=options.ro,
    )
    _remember(store, settings)
    return settings


def _remember(store: Store, settings: Settings) -> None:
    with store:
        store.put("identity", settings.identity)
        store.put("target", settings.target)
        store.put("fileset", settings.fileset)
        store.put("device", settings.device)
        store.put("block_size", settings.block_size)
        store.put("tunables", json.dumps(settings.tunables.to_dict()))
        store.put("home", settings.home_number)
        # Raised here, durably, before home's marker is: a marker that is ahead of its cache means
        # that this cache is an old copy.
        store.put("counter", int(store.get("counter", 0)) + 1)
        # So is a word of this mount's own: a copy that was refused raises its counter, too. Every
        # word is kept that home may have, until home is seen. Of thousands these are the first and
        # the last ones; and all have to fit into one message.
        token = uuid.uuid4().hex
        tokens = [*json.loads(store.get("tokens") or "[]"), token]
        if len(tokens) > MOST_TOKENS:
            tokens = [*tokens[: MOST_TOKENS // 2], *tokens[-MOST_TOKENS // 2 :]]
        store.put("token", token)
        store.put("tokens", json.dumps(tokens))
    store.sync_wal()
    (settings.cache / "gateway" / str(settings.home_number)).mkdir(parents=True, exist_ok=True)


def check_target(target: str, mountpoint: Path, cache: Path) -> str:
    """The target as it is remembered. Refused where it can't be home to this cache."""
    home = Path(os.fsdecode(parse_target(target)))
    _refuse_nesting("home", home, "mount point", mountpoint)
    _refuse_nesting("home", home, "cache", cache)
    return os.fsdecode(home)


def _canonical(target: str) -> str:
    """The target as it is remembered and compared: an absolute path."""
    if "://" not in target:
        target = os.path.abspath(target)
    return os.fsdecode(parse_target(target))


def _refuse_nesting(what: str, path: Path, other: str, place: Path) -> None:
    """`path` and `place` may not lie in each other, as far as their names say that. Where links on
    the way to home lead, the gateway sees (`marker.claim`): home may hang."""
    one, two = os.path.abspath(path), os.path.abspath(place)
    if one == two or one.startswith(two.rstrip("/") + "/"):
        raise Refused(f"the {what} {path} is inside the {other} {place}: choose another place")
    if two.startswith(one.rstrip("/") + "/"):
        raise Refused(f"the {other} {place} is inside the {what} {path}: choose another place")


def file_system_of(path: Path) -> str:
    """The type of the file system that holds `path`, as mountinfo has it; "" if it does not."""
    device = os.stat(path).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    return next((one.fstype for one in mounted() if one.device == wanted), "")
