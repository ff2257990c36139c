"""Directories, links and extended attributes."""
