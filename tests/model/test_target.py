from __future__ import annotations

import os

import pytest

from afmfs.errors import Refused
from afmfs.model.target import parse_target


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("/home", b"/home"),
        ("/", b"/"),
        ("//a///b/./c//", b"/a/b/c"),
        ("/a/../b", b"/a/../b"),
        ("/per%20cent", b"/per%20cent"),
        ("file:///a%20b/%C3%A9%FF", b"/a b/\xc3\xa9\xff"),
        ("FILE:///a", b"/a"),
        ("file://localhost/a", b"/a"),
        (os.fsdecode(b"/raw\xff"), b"/raw\xff"),
        ("/looks/like:/this", b"/looks/like:/this"),
    ],
)
def test_paths(text: str, path: bytes) -> None:
    assert parse_target(text) == path


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("nfs://server/export", "nfs:// is not supported yet"),
        ("s3://bucket", "not supported yet"),
        ("file://server/a", "another host"),
        ("file://", "absolute"),
        ("relative", "absolute"),
        ("server:/export", "absolute"),
        ("", "absolute"),
        ("/nul\0", "absolute"),
        ("file:///nul%00", "absolute"),
    ],
)
def test_refused(text: str, says: str) -> None:
    with pytest.raises(Refused, match=says):
        parse_target(text)
