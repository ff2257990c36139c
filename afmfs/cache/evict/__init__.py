"""Freeing what home has as well, so that there is room."""
