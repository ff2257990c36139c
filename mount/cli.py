"""`mount.afmfs TARGET MOUNTPOINT`: the command line, as mount(8) and people use it."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import click

from afmfs import __version__
from afmfs.errors import AfmError
from afmfs.model import tunables
from afmfs.model.tunables import MountOptions

USAGE, FAILED = 1, 32  # mount(8)'s exit codes

HELP = f"""Mount a cache of TARGET at MOUNTPOINT.

TARGET is the home: a path, or file:///PATH. A cache remembers its home, TARGET may then be "none".

\b
Options of -o:
{tunables.describe()}
and mount(8)'s generic ones (ro, nosuid, nodev, noexec, _netdev, nofail, x-...).

\b
Exit status: 0 mounted, 1 usage, 2 system error, 4 bug, 8 interrupted, 32 mount failure.
"""


@click.command(help=HELP, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("target")
@click.argument("mountpoint")
@click.option("-o", "lists", multiple=True, metavar="OPTION,...", help="Mount options, see below.")
@click.option("-f", "--foreground", is_flag=True, help="Stay in the foreground, log to stderr.")
@click.option("-v", "--verbose", is_flag=True, help="Log more.")
@click.option("-r", "--read-only", is_flag=True, help="As -o ro.")
@click.option("-w", "--rw", is_flag=True, hidden=True)
@click.option("-s", "sloppy", is_flag=True, hidden=True)
@click.option("-n", "no_mtab", is_flag=True, hidden=True)
@click.option("-N", "namespace", hidden=True)  # mount(8) has entered it
@click.option("-t", "fstype", hidden=True)
@click.version_option(__version__, prog_name="mount.afmfs")
def command(
    target: str,
    mountpoint: str,
    lists: Sequence[str],
    foreground: bool,
    verbose: bool,
    read_only: bool,
    **_of_mount8: object,
) -> int:
    options = tunables.parse([*lists, *(["ro"] if read_only else [])])
    for warning in options.warnings:
        _say(f"warning: {warning}")
    return _mount(target, Path(mountpoint), options, foreground=foreground, verbose=verbose)


def _mount(
    target: str, mountpoint: Path, options: MountOptions, *, foreground: bool, verbose: bool
) -> int:
    from mount import daemon  # the event loop and FUSE, which a usage error does not need
    from mount.mountpoint import check

    # The table of mounts knows the path without links; nothing below depends on our directory.
    point = Path(os.path.realpath(mountpoint))
    check(point)
    if options.cache is not None:
        options = replace(options, cache=Path(os.path.abspath(options.cache)))
    request = daemon.Request(None if target == "none" else target, point, options, verbose)
    run = daemon.in_foreground if foreground else daemon.in_background
    return run(request, daemon.RealEngine())


def _say(message: str) -> None:
    text = f"mount.afmfs: {message}\n"
    sys.stderr.write(text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace"))


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point. Ends the process with an exit code of mount(8)."""
    try:
        code = command.main(arguments, prog_name="mount.afmfs", standalone_mode=False)
    except click.ClickException as error:
        _say(f"{error.format_message()} (mount.afmfs --help)")
        code = USAGE
    except tunables.BadOption as error:
        _say(str(error))
        code = USAGE
    except AfmError as error:
        _say(str(error))
        code = FAILED
    except (click.Abort, KeyboardInterrupt):
        code = 8
    sys.exit(code)
