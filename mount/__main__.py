"""`python -m mount` is `mount.afmfs`."""

from __future__ import annotations

from mount.cli import main

main()
