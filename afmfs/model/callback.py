"""Callbacks: which program runs at which event, and the words that it is given. Pure.

The parameters of a callback are split into words once, as a shell would split them, and only then
is each %variable replaced by its value. So a value never makes two words of one, whatever blanks,
quotes or newlines are in it, and nothing in it is looked at again.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from json import dumps
from shlex import split
from typing import Any, Self

from afmfs.errors import UnknownCommand

TIMEOUT_S = 30.0
"""How long a program may run unless its callback says otherwise."""

LONGEST_ID = 255

EVENTS = {
    "afmHomeConnected": "home is reached: at the mount, and each time after it was away",
    "afmHomeDisconnected": "home does not answer, or answers with errors",
    "afmFilesetUnmounted": "home's path or its marker is missing, or belongs to another cache",
    "afmCmdRequeued": "home refused a change, which is tried again later",
    "afmQueueDropped": "an administrator dropped an entry of the queue",
    "afmNeedsResync": "home was found changed behind the cache's back",
    "afmResyncStart": "a resync begins, asked for or automatic",
    "afmFailoverStart": "a failover begins",
    "afmTargetChanged": "home has another address: `failover --target-only`",
    "afmManualResyncComplete": "a resync, asked for or automatic, or a failover is done",
    "afmRecoveryStart": "what an unclean stop left behind is being settled",
    "afmRecoveryEnd": "all of it is settled",
    "afmRecoveryFail": "it ended with an inconsistency, or with changes that home refuses",
    "afmTrashRestored": "what was asked back from home's trash is there again",
    "afmTrashEmptied": "home's trash was emptied, as an administrator wanted",
    "afmEvictEnd": "an eviction down to a limit is done",
    "afmCacheFull": "a change was refused for want of room in the cache, the first for a while",
    "afmCacheFailed": "the cache's disk has failed: nothing more is taken",
    "afmJournalLost": "gateway.db was lost, damaged or an old copy; a recovery follows",
    "afmDamaged": "the cache is damaged, till a repair; or what a repair could not save",
    "afmGatewayEnded": "the gateway process died, and is started again",
    "afmCallbackFailed": "a callback's program failed, took too long, or could not be run",
    "afmFilesetExpired": "the cached data of a read-only fileset expired (from when that exists)",
    "afmFilesetUnexpired": "it is valid again (from when that exists)",
    "afmPrepopEnd": "a prefetch is done (from when that exists)",
}
"""What a program may be run for: the name of the event, and when it happens."""

VARIABLES = {
    "eventName": "the event",
    "eventTime": "when it happened (RFC 3339)",
    "fsName": "the device",
    "filesetName": "the fileset",
    "homeServer": "the host of home, or its path",
    "target": "home, as it was given",
    "reason": "why, as far as the event tells",
    "pathName": "what it is about, as far as the event tells",
    "cachePath": "the cache directory",
    "mountPoint": "the mount point",
    "gatewayName": "the host of the gateway",
    "detail": "all that the event tells (JSON)",
}
"""What a % in the parameters may be followed by."""

_VARIABLE = re.compile(r"%(%|[A-Za-z]+)")
_RESERVED = ("afm", "gpfs", "mm")


@dataclass(frozen=True, slots=True)
class Callback:
    """One program, the events that it runs for, and what it is given."""

    id: str
    command: str  # an absolute path
    events: tuple[str, ...]
    parms: str = ""  # as they were given; see `words`
    timeout: float = TIMEOUT_S  # s

    def words(self, values: Mapping[str, str]) -> list[str]:
        """The program and its arguments."""
        return [self.command, *(expand(word, values) for word in split(self.parms))]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        return cls(**{**fields, "events": tuple(fields["events"])})


def expand(word: str, values: Mapping[str, str]) -> str:
    """`word` with each %variable replaced by its value; %% is a percent sign, and what is no
    variable stays as it is."""

    def value(found: re.Match[str]) -> str:
        return "%" if found[1] == "%" else values.get(found[1], found[0])

    return _VARIABLE.sub(value, word)


def values_of(
    name: str, time: str, detail: Mapping[str, Any], about: Mapping[str, str]
) -> dict[str, str]:
    """What the variables stand for at one event. `about`: those that all events have in common."""
    found = {**dict.fromkeys(VARIABLES, ""), **about}
    found |= {"eventName": name, "eventTime": time, "detail": dumps(detail)}
    found |= {"reason": _text(detail.get("reason")), "pathName": _text(detail.get("path"))}
    return {key: _passable(value) for key, value in found.items()}


def _text(value: object) -> str:
    return "" if value is None else str(value)


def _passable(text: str) -> str:
    """What can be handed to a program: no NUL, and no surrogate that stands for no byte."""
    try:
        text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        text = text.encode("utf-8", "backslashreplace").decode()
    return text.replace("\0", "\\0")


def environment_of(values: Mapping[str, str]) -> dict[str, str]:
    """The same values as environment variables: %eventName is AFM_EVENT_NAME."""
    return {"AFM" + re.sub("^|(?=[A-Z])", "_", key).upper(): values[key] for key in VARIABLES}


def home_server(target: str) -> str:
    """The host of a target, or its path where it has none."""
    _, scheme, rest = target.partition("://")
    if not scheme or target.startswith("/"):
        return target
    host, slash, path = rest.partition("/")
    return host or slash + path


# -- what is refused -----------------------------------------------------------------------------


def checked(
    identity: str, command: str, events: str, parms: str = "", timeout: float = TIMEOUT_S
) -> Callback:
    """A callback of these words. UnknownCommand says what is wrong with them."""
    _check_id(identity)
    if not command.startswith("/"):
        raise UnknownCommand(f"{command}: the path of the program has to be absolute")
    if "\0" in command + parms:
        raise UnknownCommand("no program can be given a NUL")
    _check_parms(parms)
    if timeout <= 0:
        raise UnknownCommand("--timeout has to be more than 0 seconds")
    return Callback(identity, command, _known(events), parms, timeout)


def _check_id(identity: str) -> None:
    if not identity or len(identity) > LONGEST_ID:
        raise UnknownCommand(f"an ID has 1 to {LONGEST_ID} characters")
    if not identity.isprintable() or re.search(r"[\s:;,]", identity):
        raise UnknownCommand(f"{identity!r}: an ID has no blank, colon, semicolon or comma")
    if identity.startswith(_RESERVED):
        raise UnknownCommand(f"{identity}: an ID does not begin with {', '.join(_RESERVED)}")


def _known(text: str) -> tuple[str, ...]:
    """The events of a list with commas, each once, in AFM's spelling (its own tables vary)."""
    by_lower = {name.lower(): name for name in EVENTS}
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name.lower() not in by_lower:
            close = difflib.get_close_matches(name.lower(), by_lower)
            raise UnknownCommand(f"unknown event {name!r}; {_hint(by_lower[n] for n in close)}")
    return tuple(dict.fromkeys(by_lower[name.lower()] for name in names))


def _hint(close: Iterable[str]) -> str:
    found = list(close)
    if found:
        return f"did you mean {' or '.join(found)}?"
    return f"there are {', '.join(EVENTS)}"


def _check_parms(parms: str) -> None:
    try:
        words = split(parms)
    except ValueError as error:
        raise UnknownCommand(f"can't read --parms: {error}") from None
    for word in words:
        for name in _VARIABLE.findall(word):
            if name != "%" and name not in VARIABLES:
                close = difflib.get_close_matches(name, VARIABLES) or VARIABLES
                known = ", ".join(f"%{one}" for one in close)
                raise UnknownCommand(
                    f"--parms: %{name} stands for nothing (there is {known}); %% is a percent sign"
                )
