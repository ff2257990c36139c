"""cache.db: its tables and rows, its disk, and who may open it."""
