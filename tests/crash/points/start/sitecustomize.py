"""The interpreter imports this at its start where the directory is in PYTHONPATH."""

from tests.crash.points.seams import install

install()
