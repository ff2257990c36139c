"""The gateway process's half: the only one that touches home, and the only writer of gateway.db."""
