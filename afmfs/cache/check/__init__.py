"""Checking a cache, and mending what can be mended without inventing data.

`walk` goes through everything in pages and yields findings; each carries its repair along, which
`repair` lets it do. On a cache that is mounted the same walk reads beside the mount process.
"""
