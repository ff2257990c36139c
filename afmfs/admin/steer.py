"""Carrying out one command of afmctl: at a mount, through its control directory, or offline.

What only some commands need is loaded by these: a `getstate` starts in a third of the time.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from afmfs.admin.access import Access
from afmfs.admin.find import Fileset, Found, explain, find
from afmfs.admin.request import Failure, Request, control, emit, stream
from afmfs.admin.state import show_state
from afmfs.errors import UnknownCommand

_AT_MOUNT = {
    "resync": "afmfs.admin.resync:resync_command",
    "failover": "afmfs.admin.resync:failover_command",
    "evict": "afmfs.admin.evict:evict_command",
    "verify": "afmfs.admin.verify:verify_command",
    "check": "afmfs.admin.check:check_mounted",
}
"""Commands that are more than a line for the control file."""

_WAITS = "afmfs.admin.flush:flush_command"
_UNMOUNTED = "afmfs.admin.unmounted:unmounted_command"


def run(request: Request, connect: Callable[[], Access] = Access) -> None:
    """Carry out a request. Failure, NotFound or UnknownCommand says why not."""
    with connect() as access:
        found = find(request.device, request.fileset, access)
        if found.cache is not None:
            _loaded(_UNMOUNTED)(request, found.cache)
        elif request.command.name == "getstate":
            _getstate(request, found)
        else:
            _at_mount(request, _single(found), access)


def _loaded(name: str) -> Callable[..., None]:
    module, _, function = name.partition(":")
    command: Callable[..., None] = getattr(import_module(module), function)
    return command


def _single(found: Found) -> Fileset:
    """The one fileset that is meant."""
    if not found.filesets:
        raise Failure("; ".join(found.silent.values()))
    if len(found.filesets) + len(found.silent) > 1:
        names = ", ".join(f.status.fileset for f in found.filesets)
        raise UnknownCommand(f"several filesets there, name one with -j: {names}")
    return found.filesets[0]


def _getstate(request: Request, found: Found) -> None:
    """Every fileset that answers; those that don't are named, and make the command fail."""
    if found.filesets:
        show_state(request, [f.status for f in found.filesets])
    if found.silent:
        raise Failure("; ".join(found.silent.values()))


def _at_mount(request: Request, fileset: Fileset, access: Access) -> None:
    mount, name = fileset.mount, request.command.name
    try:
        if name == "queue":
            stream(access.chunks(mount.path("queue")))
        elif name in _AT_MOUNT:
            _loaded(_AT_MOUNT[name])(request, mount, access)
        elif "--wait" in request.flags:
            _loaded(_WAITS)(request, mount, access)
        else:
            emit(control(request, mount, access))
    except BrokenPipeError:  # whoever reads our output has seen enough
        raise
    except OSError as error:
        raise Failure(explain(error, mount)) from error
