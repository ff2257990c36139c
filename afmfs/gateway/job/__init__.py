"""Resync, failover and recovery: the priority queue, from its planning to its end."""
