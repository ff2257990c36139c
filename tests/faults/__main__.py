"""scripts/faults: plant each fault in a copy of the code, and see its tests turn red."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import click

from tests.crash.rules import RULES
from tests.faults.planted import PLANTED, Fault
from tests.power.faults import FAULTS as POWER

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("afmfs", "mount", "tests", "pyproject.toml", "README.md", "scripts")
PATIENCE = 600.0
ALL = (*PLANTED, *POWER, *(rule.fault for rule in RULES))


def plant(fault: Fault, root: Path) -> None:
    path = root / fault.file
    text = path.read_text()
    assert text.count(fault.old) == 1, f"{fault.name}: {text.count(fault.old)} such places"
    path.write_text(text.replace(fault.old, fault.new))


def copy(root: Path) -> None:
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, root / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, root / name)


def red(root: Path, tests: tuple[str, ...]) -> list[str]:
    """The first test that fails, or none."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
    environment = {"AFMFS_ROUNDS": "5", **os.environ, "PYTHONPATH": str(root)}
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    run = subprocess.run(
        command, cwd=root, env=environment, capture_output=True, text=True, timeout=PATIENCE
    )
    assert run.returncode in (0, 1), f"pytest can't run these: {run.stdout}{run.stderr}"
    lines = run.stdout.splitlines()
    return [line.split()[1] for line in lines if line.startswith(("FAILED", "ERROR"))]


@click.command()
@click.argument("words", nargs=-1)
def main(words: tuple[str, ...]) -> None:
    """Plant the faults whose names hold one of WORDS, or all. Exit status 1 if one is unseen."""
    chosen = [f for f in ALL if not words or any(word in f.name for word in words)]
    unseen = 0
    for fault in chosen:
        with tempfile.TemporaryDirectory(prefix="fault-") as directory:
            root = Path(directory)
            copy(root)
            plant(fault, root)
            found = red(root, fault.tests)
        unseen += not found
        click.echo(f"{fault.name}: {found[0] if found else 'NOT SEEN'}")
    click.echo(f"{len(chosen) - unseen} of {len(chosen)} faults turned a test red")
    raise SystemExit(1 if unseen else 0)


if __name__ == "__main__":
    main()
