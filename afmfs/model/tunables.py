"""The options of a mount: one table, and the parser of `-o` lists. Pure.

There are three kinds. *Tunables* are remembered by the cache (as JSON) and hold at every later
mount until they are given anew. Options of *this mount* (where, who may look in, read-only) are
never remembered. mount(8)'s *generic* options either go on to the kernel or mean nothing to a
helper and are dropped. Any other word is an error that names close matches: a misspelt option that
is silently ignored is a setting that never was.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from afmfs.errors import AfmError
from afmfs.model.blocks import is_block_size
from afmfs.model.quota import EVICT_AT, check_cache_size

Value = bool | int | float | str


class BadOption(AfmError):
    """An option that does not exist, or a value that it cannot have. A usage error."""


@dataclass(frozen=True, slots=True)
class Tunables:
    """What a cache remembers of its mounts' options, but for its block size."""

    async_delay: float = 15.0  # s that an entry waits before it is replayed
    flush_threads: int = 4  # operations at home side by side
    prefetch_threshold: int = 100  # per cent of a file read before the rest follows; 100: never
    durable_interval: float = 5.0  # s after which everything is on stable storage anyway
    home_sync: str = "batch"  # how home is synced before an entry is forgotten: batch, file, none
    xattrs: bool = False  # extended attributes and ACLs
    auto_resync: bool = True  # in NeedsResync the next request starts a resync
    writeback: bool = False  # the kernel's write-back cache
    home_timeout: float = 30.0  # s that a request waits for a home that answers others
    life_timeout: float = 1.0  # s that a request waits for a home that shows no sign of life
    cache_size: str = "0"  # bytes that may be cached, or per cent of the cache's disk; 0: no limit
    auto_eviction: bool = True  # clean files make room by themselves
    evict_at: int = EVICT_AT  # per cent of cache_size from which on they do

    def updated(self, given: Mapping[str, Value]) -> Tunables:
        """These, with the given ones in place of their own."""
        return replace(self, **given)  # type: ignore[arg-type]  # the table has checked each value

    def to_dict(self) -> dict[str, Value]:
        return {one.name: getattr(self, one.name) for one in fields(self)}

    @classmethod
    def from_dict(cls, stored: Mapping[str, Value]) -> Tunables:
        """Of a stored record: what it lacks is the default, what is unknown here is dropped."""
        known = {one.name for one in fields(cls)}
        return cls().updated({name: value for name, value in stored.items() if name in known})


@dataclass(frozen=True, slots=True)
class MountOptions:
    """What one mount was asked for. None: not said, the cache's own or the default holds."""

    cache: Path | None = None
    fileset: str | None = None
    device: str | None = None
    block_size: int | None = None  # bytes; fixed when the cache is made
    takeover: bool = False
    allow_other: bool = False
    ro: bool = False
    tunables: Mapping[str, Value] = field(default_factory=dict)  # only those that were given
    kernel: tuple[str, ...] = ()  # mount flags to pass on
    warnings: tuple[str, ...] = ()


def _switch(text: str) -> bool:
    words = {"": True, "1": True, "yes": True, "on": True, "true": True}
    words |= {"0": False, "no": False, "off": False, "false": False}
    if text.lower() not in words:
        raise ValueError("yes or no")
    return words[text.lower()]


def _seconds(low: float, high: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        if not re.fullmatch(r"\d+(\.\d+)?s?", text) or not low <= float(text.rstrip("s")) <= high:
            raise ValueError(f"seconds from {low} to {high}")
        return float(text.rstrip("s"))

    return parse


def _whole(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not re.fullmatch(r"[0-9]+", text) or not low <= int(text) <= high:
            raise ValueError(f"a whole number from {low} to {high}")
        return int(text)

    return parse


def _one_of(*words: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in words:
            raise ValueError("one of " + ", ".join(words))
        return text

    return parse


def _block_size(text: str) -> int:
    found = re.fullmatch(r"([0-9]+)([kKmM]?)(?:i?[bB])?", text)
    size = int(found[1]) << {"": 0, "k": 10, "m": 20}[found[2].lower()] if found else 0
    if not is_block_size(size):
        raise ValueError("a power of two from 4K to 16M")
    return size


def _name(text: str) -> str:
    """A name that stands in mount tables, status lines and paths without being quoted."""
    if not re.fullmatch(r"[A-Za-z0-9_.:@%+-]+", text) or text in (".", ".."):
        raise ValueError("letters, digits and _.:@%+- only")
    return text


def _path(text: str) -> Path:
    if not text:
        raise ValueError("a directory")
    return Path(text)


@dataclass(frozen=True, slots=True)
class Option:
    """One row of the table."""

    name: str
    parse: Callable[[str], Value | Path]
    help: str
    remembered: bool = True  # a tunable
    synonyms: tuple[str, ...] = ()
    unit: str = ""  # what stands behind `=`; "": a switch, with `noNAME` for off


TABLE = (
    Option("cache", _path, "where the cache lies", False, unit="DIR"),
    Option("fileset", _name, "its name (the mount point's last component)", False, unit="NAME"),
    Option("device", _name, "what df and afmctl call it (afmfs)", False, unit="NAME"),
    Option("block_size", _block_size, "fixed when the cache is made (1M)", False, unit="BYTES"),
    Option("takeover", _switch, "claim a home that belongs to another cache", False),
    Option("allow_other", _switch, "let all users in", False),
    Option("async_delay", _seconds(0, 2**31 - 1), "age at which a change is replayed (15)",
           synonyms=("afmAsyncDelay",), unit="SECONDS"),
    Option("flush_threads", _whole(1, 1024), "operations at home side by side (4)",
           synonyms=("afmNumFlushThreads",), unit="N"),
    Option("prefetch_threshold", _whole(0, 100), "only 100 works yet: fetch what is read (100)",
           synonyms=("afmPrefetchThreshold",), unit="PERCENT"),
    Option("durable_interval", _seconds(0.1, 3600), "all is on stable storage after (5)",
           unit="SECONDS"),
    Option("home_sync", _one_of("batch", "file", "none"), "how home is synced (batch)",
           unit="batch|file|none"),
    Option("home_timeout", _seconds(0.1, 3600), "longest wait for home (30)", unit="SECONDS"),
    Option("life_timeout", _seconds(0.1, 3600), "longest wait for a silent home (1)",
           unit="SECONDS"),
    Option("xattrs", _switch, "extended attributes and ACLs"),
    Option("auto_resync", _switch, "resync by itself where home was changed (yes)"),
    Option("writeback", _switch, "the kernel's write-back cache"),
    Option("cache_size", check_cache_size, "most that is cached: 100G, or 50% of the disk",
           unit="SIZE"),
    Option("evict_at", _whole(1, 100), "share of it from which on files are evicted (90)",
           unit="PERCENT"),
    Option("auto_eviction", _switch, "evict clean files by itself to make room (yes)",
           synonyms=("afmEnableAutoEviction",)),
)  # fmt: skip

# Mount flags that libfuse passes on.
KERNEL = {"nosuid", "suid", "nodev", "dev", "noexec", "exec", "sync", "async", "dirsync", "noatime"}

# For mount(8) and systemd, or what always holds here.
DROPPED = {
    "defaults", "rw", "auto", "noauto", "user", "nouser", "users", "owner", "group", "_netdev",
    "nofail", "atime", "relatime", "norelatime", "strictatime", "nostrictatime", "diratime",
    "nodiratime", "lazytime", "nolazytime", "iversion", "noiversion", "mand", "nomand", "loud",
    "silent", "nonempty", "default_permissions",
}  # fmt: skip
DROPPED_WITH_VALUE = {"comment", "uhelper", "helper", "user"}

REFUSED = {
    "remount": "remount is not supported: unmount, then mount with the new options",
    "bind": "bind is done by mount(8) itself: mount --bind",
    "auto_unmount": "auto_unmount is not supported: a crash must leave the mount point dead, "
    "or programs would write below it unseen",
}


def _plain(word: str) -> str:
    return word.replace("-", "_").lower()


_BY_NAME = {_plain(name): one for one in TABLE for name in (one.name, *one.synonyms)}
_SWITCHES = {_plain(one.name) for one in TABLE if not one.unit}


def split(text: str) -> list[str]:
    """The words of an `-o` list. A comma in double quotes, or after a backslash, is no separator;
    so have it mount(8) and libfuse."""
    words = re.findall(r'(?:"[^"]*"|\\,|[^,])+', text, flags=re.DOTALL)
    return [word.replace("\\,", ",").replace('"', "").strip() for word in words]


def parse(lists: list[str]) -> MountOptions:
    """All `-o` lists of a command line. Raises BadOption; the last word on an option wins."""
    given: dict[str, Value | Path] = {}
    kernel: dict[str, None] = {}
    warnings: list[str] = []
    read_only = False
    for word in (word for text in lists for word in split(text) if word):
        key, equals, value = word.partition("=")
        if key in ("ro", "rw") and not equals:
            read_only = key == "ro"
        elif key in KERNEL and not equals:
            kernel.pop(_opposite(key), None)
            kernel[key] = None
        elif not _is_dropped(key, equals):
            row, parsed = _parse_own(key, equals, value)
            if given.get(row.name, parsed) != parsed:
                warnings.append(f"{row.name} is given more than once: the last one holds")
            given[row.name] = parsed
    return _collect(given, tuple(kernel), read_only, warnings)


def _opposite(flag: str) -> str:
    return {"sync": "async", "async": "sync"}.get(flag) or (
        flag.removeprefix("no") if flag.startswith("no") else "no" + flag
    )


def _is_dropped(key: str, equals: str) -> bool:
    if key.lower().startswith(("x-", "x_")):
        return True
    return key in (DROPPED_WITH_VALUE if equals else DROPPED)


def _parse_own(key: str, equals: str, value: str) -> tuple[Option, Value | Path]:
    name = _plain(key)
    if name in REFUSED:
        raise BadOption(REFUSED[name])
    if name.startswith("no") and name[2:] in _SWITCHES and not equals:
        return _BY_NAME[name[2:]], False
    row = _BY_NAME.get(name)
    if row is None:
        raise BadOption(_unknown(key))
    if row.unit and not equals:
        raise BadOption(f"option {key} needs a value: {key}={row.unit}")
    if not row.unit and equals and not value:
        raise BadOption(f"option {key}= has no value: {key}, no{key}, {key}=yes or {key}=no")
    try:
        return row, row.parse(value)
    except ValueError as error:
        raise BadOption(f"option {key}={value}: must be {error}") from None


def _unknown(key: str) -> str:
    own = [name for one in TABLE for name in (one.name, *one.synonyms)]
    words = {_plain(word): word for word in [*own, "ro", "rw", *KERNEL, *DROPPED]}
    close = difflib.get_close_matches(_plain(key), words, n=3, cutoff=0.6)
    if close:
        return f"unknown option {key}: did you mean {' or '.join(words[one] for one in close)}?"
    return f"unknown option {key}: the options are {', '.join(one.name for one in TABLE)}"


def _collect(
    given: dict[str, Value | Path], kernel: tuple[str, ...], read_only: bool, warnings: list[str]
) -> MountOptions:
    if given.get("prefetch_threshold", 100) != 100:
        warnings.append("prefetch_threshold is stored, but only 100 (fetch what is read) works yet")
    of_mount = {one.name: given.pop(one.name, None) for one in TABLE if not one.remembered}
    return MountOptions(
        **{name: value for name, value in of_mount.items() if value is not None},  # type: ignore[arg-type]  # by table
        ro=read_only,
        tunables=given,  # type: ignore[arg-type]  # paths are no tunables
        kernel=kernel,
        warnings=tuple(warnings),
    )


def describe() -> str:
    """The table as text for a help page, one option a line."""
    lines = []
    for one in TABLE:
        form = f"{one.name}={one.unit}" if one.unit else one.name
        also = f"; also {', '.join(one.synonyms)}" if one.synonyms else ""
        lines.append(f"  {form:<28} {one.help}{also}")
    return "\n".join(lines)
