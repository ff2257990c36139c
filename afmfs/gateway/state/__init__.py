"""What is known: the cache's tables as the gateway reads them, and its own journal."""
