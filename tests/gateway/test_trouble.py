from __future__ import annotations

import errno
import os
import stat

import pytest

from afmfs.gateway.home.trouble import (
    HomeAway,
    Inconsistent,
    MayEnd,
    Trouble,
    Unrepresentable,
    Verb,
    classify,
)
from afmfs.model.properties import Properties

LOCAL = Properties()
POOR = Properties(
    hard_links=False,
    symlinks=False,
    fifos=False,
    sockets=False,
    devices=False,
    owners=False,
    modes=False,
    xattrs=False,
    raw_names=False,
)


def judged(code: int, verb: Verb, kind: int = 0, properties: Properties = LOCAL) -> Trouble:
    return classify(
        OSError(code, os.strerror(code)), b"a/b", verb, kind=kind, properties=properties
    )


@pytest.mark.parametrize("verb", Verb)
@pytest.mark.parametrize(
    "code",
    [
        errno.EIO,
        errno.ENOTCONN,
        errno.ETIMEDOUT,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.ENODEV,
        errno.ECONNABORTED,
        errno.EKEYEXPIRED,
    ],
)
def test_away_whatever_was_tried(code: int, verb: Verb) -> None:
    found = judged(code, verb)
    assert isinstance(found, HomeAway)
    assert found.state == "Disconnected"
    assert "a/b" in found.reason


@pytest.mark.parametrize("verb", Verb)
@pytest.mark.parametrize(
    "code",
    [
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EACCES,
        errno.EROFS,
        errno.EMLINK,
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOMEM,
        errno.EBUSY,
        errno.EPERM,
        errno.EBADF,
        99_999,
    ],
)
def test_may_end_where_home_can_do_it(code: int, verb: Verb) -> None:
    for kind in (0, stat.S_IFREG, stat.S_IFLNK, stat.S_IFIFO):
        found = judged(code, verb, kind)
        assert isinstance(found, MayEnd)
        assert found.errno == code


@pytest.mark.parametrize("verb", Verb)
@pytest.mark.parametrize(
    "code",
    [
        errno.ENOENT,
        errno.EEXIST,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.ENOTEMPTY,
        errno.ELOOP,
        errno.EXDEV,
        errno.ESTALE,
    ],
)
def test_inconsistent(code: int, verb: Verb) -> None:
    found = judged(code, verb)
    assert isinstance(found, Inconsistent)
    assert found.path == b"a/b"


def test_the_root_gone_stale_is_away() -> None:
    assert isinstance(classify(OSError(errno.ESTALE, ""), b"", Verb.READ), HomeAway)


def test_a_fifo_in_the_way_is_not_away() -> None:
    assert isinstance(judged(errno.ENXIO, Verb.READ), Inconsistent)
    assert isinstance(judged(errno.ENXIO, Verb.WRITE), HomeAway)


@pytest.mark.parametrize("code", [errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL])
@pytest.mark.parametrize(
    "kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK]
)
def test_types_that_home_was_seen_to_refuse(code: int, kind: int) -> None:
    assert isinstance(judged(code, Verb.MAKE, kind, POOR), Unrepresentable)
    assert isinstance(judged(code, Verb.MAKE, kind, LOCAL), MayEnd)


def test_files_and_directories_can_always_be_made_some_day() -> None:
    for kind in (stat.S_IFREG, stat.S_IFDIR):
        assert isinstance(judged(errno.EPERM, Verb.MAKE, kind, POOR), MayEnd)


def test_hard_links() -> None:
    assert isinstance(judged(errno.EPERM, Verb.LINK, stat.S_IFREG, POOR), Unrepresentable)
    assert isinstance(judged(errno.EPERM, Verb.LINK, stat.S_IFREG, LOCAL), MayEnd)


@pytest.mark.parametrize("verb", [Verb.MAKE, Verb.LINK, Verb.MOVE])
def test_names(verb: Verb) -> None:
    for code in (errno.ENAMETOOLONG, errno.EILSEQ):
        assert isinstance(judged(code, verb), Unrepresentable)
    assert isinstance(judged(errno.EINVAL, verb, properties=POOR), Unrepresentable)
    # a home that takes every byte means something else by EINVAL
    assert isinstance(judged(errno.EINVAL, verb), MayEnd)


@pytest.mark.parametrize(
    ("verb", "code"),
    [
        (Verb.WRITE, errno.EFBIG),
        (Verb.ATTR, errno.EOPNOTSUPP),
        (Verb.OWNER, errno.EINVAL),
        (Verb.XATTR, errno.EOPNOTSUPP),
        (Verb.XATTR, errno.E2BIG),
    ],
)
def test_what_waiting_does_not_change(verb: Verb, code: int) -> None:
    found = judged(code, verb)
    assert isinstance(found, Unrepresentable)
    assert found.errno == code


def test_owners_and_modes_by_what_was_probed() -> None:
    for verb in (Verb.OWNER, Verb.ATTR):
        assert isinstance(judged(errno.EPERM, verb, properties=POOR), Unrepresentable)
        assert isinstance(judged(errno.EPERM, verb, properties=LOCAL), MayEnd)


def test_an_error_without_a_number_is_an_input_output_error() -> None:
    assert isinstance(classify(OSError("odd"), b"x", Verb.READ), HomeAway)


def test_properties_cross_the_socket() -> None:
    assert Properties.from_dict(POOR.to_dict()) == POOR
    assert Properties.from_dict({"of a later version": 1, "name_max": 143}).name_max == 143
