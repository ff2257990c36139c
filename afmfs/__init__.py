"""afmfs: a cache that is the single writer of its home. The engine, with no FUSE in it."""

__version__ = "0.1.0"
