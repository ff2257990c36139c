"""Names and paths of any bytes: which are names, and paths as text that JSON can hold."""

from __future__ import annotations

_NO_NAMES = frozenset({b"", b".", b".."})


def is_name(name: bytes) -> bool:
    """Whether it is a single component of a path: an absolute name would leave home altogether."""
    return name not in _NO_NAMES and b"/" not in name


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
