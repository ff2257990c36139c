"""Paths of any bytes as text that JSON can hold."""

from __future__ import annotations


def path_fields(field: str, path: bytes | None) -> dict[str, str | None]:
    """The fields of a path in a line of JSON: bytes that are not UTF-8 are surrogates (U+DC80 +
    byte - 0x80), and `<field>_hex` then has all the bytes. null where the path is not known."""
    if path is None:
        return {field: None}
    try:
        return {field: path.decode()}
    except UnicodeDecodeError:
        text = path.decode("utf-8", "surrogateescape")
        return {field: text, f"{field}_hex": path.hex()}
