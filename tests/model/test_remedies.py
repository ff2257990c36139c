from __future__ import annotations

import errno

import pytest

from afmfs.model import remedies


@pytest.mark.parametrize("code", sorted(errno.errorcode))
def test_there_is_something_to_do_about_every_error(code: int) -> None:
    assert remedies.of_away(code)
    assert remedies.of_refusal(code)


def test_what_is_full_is_not_what_is_broken() -> None:
    assert "room" in remedies.of_refusal(errno.ENOSPC)
    assert "quota" in remedies.of_refusal(errno.EDQUOT)
    assert "umount" in remedies.of_away(errno.ENOTCONN)
    assert remedies.of_away(errno.EIO) == remedies.SERVER
