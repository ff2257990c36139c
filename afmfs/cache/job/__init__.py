"""Resync, failover and recovery as the cache asks for them."""
