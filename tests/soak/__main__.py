"""scripts/soak: programs on a mount for an hour, and home going away at random."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

import click

from tests.harness.sshd import available
from tests.soak.soak import Soak


@click.command()
@click.option("--minutes", default=60.0, show_default=True, help="How long they work.")
@click.option("--workers", default=16, show_default=True, help="How many programs.")
@click.option("--seed", type=int, help="Which work and weather; random unless given.")
@click.option("--directory", type=click.Path(path_type=Path), help="Where; a temporary one.")
def main(minutes: float, workers: int, seed: int | None, directory: Path | None) -> None:
    """Work on a mount of a home behind sshfs that goes away at random. At the end memory,
    descriptors and threads must have been flat, no operation on cached files slower than a second,
    and both trees equal. Exit status 1 if not."""
    if missing := available():
        raise click.ClickException(missing)
    seed = random.randrange(1 << 30) if seed is None else seed
    click.echo(f"--seed {seed}")
    with tempfile.TemporaryDirectory(prefix="soak-", dir=directory) as base:
        report = Soak(Path(base), seed, workers).run(minutes * 60, calm=40, storm=20)
    for line in report.lines():
        click.echo(line)
    raise SystemExit(1 if report.faults else 0)


if __name__ == "__main__":
    main()
