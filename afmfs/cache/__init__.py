"""The mount process's half: the only writer of cache.db and of the blobs. It never touches home."""
