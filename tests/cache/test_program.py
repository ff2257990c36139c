"""Programs of the administrator's: which are safe, how they start, how they end."""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from afmfs.cache.callback import program
from afmfs.cache.callback.program import Checker, Output, Program
from afmfs.errors import AfmError
from tests.harness.programs import SECONDS, Fifo, script

OURS = {0, os.geteuid()}
OTHER = 12345
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="gives files away")


async def run(*words: str, **variables: str) -> tuple[int | None, bytes]:
    """Run a program to its end."""
    running = Program(words, variables)
    with trio.fail_after(SECONDS):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(running.output.collect)
            await running.ended()
            nursery.cancel_scope.cancel()
    return running.close(), running.output.kept


# -- what is safe --------------------------------------------------------------------------------


def a_file(base: Path) -> Path:
    return script(base / "file", "")


def through_a_link(base: Path) -> Path:
    (base / "link").symlink_to(script(base / "file", ""))
    return base / "link"


def through_a_linked_directory(base: Path) -> Path:
    (base / "dir").mkdir()
    script(base / "dir/file", "")
    (base / "link").symlink_to("dir")
    return base / "link/../link/./file"


def below_a_sticky_directory(base: Path) -> Path:
    (base / "dir").mkdir()
    (base / "dir").chmod(0o1777)
    return script(base / "dir/file", "")


@pytest.mark.parametrize(
    "make", [a_file, through_a_link, through_a_linked_directory, below_a_sticky_directory]
)
async def test_safe(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    await Checker(OURS).check(str(make(tmp_path)))


async def test_what_the_system_brings_along_is_safe() -> None:
    await Checker({0}).check("/bin/true")


def of_another(base: Path) -> Path:
    file = a_file(base)
    os.chown(file, OTHER, -1)
    return file


def in_anothers_directory(base: Path) -> Path:
    (base / "dir").mkdir()
    file = script(base / "dir/file", "")
    os.chown(base / "dir", OTHER, -1)
    return file


def through_anothers_link(base: Path) -> Path:
    link = through_a_link(base)
    os.chown(link, OTHER, -1, follow_symlinks=False)
    return link


def by_way_of_anothers_directory(base: Path) -> Path:
    """Two links: what is written and what it means are safe, what lies between is not."""
    (base / "theirs").mkdir()
    (base / "theirs/link").symlink_to(a_file(base))
    os.chown(base / "theirs", OTHER, -1)
    (base / "link").symlink_to("theirs/link")
    return base / "link"


def writable_for_the_group(base: Path) -> Path:
    file = a_file(base)
    file.chmod(0o775)
    return file


def writable_for_all(base: Path) -> Path:
    file = a_file(base)
    file.chmod(0o757)
    return file


def in_a_writable_directory(base: Path) -> Path:
    (base / "dir").mkdir()
    file = script(base / "dir/file", "")
    (base / "dir").chmod(0o775)
    return file


def not_executable(base: Path) -> Path:
    file = a_file(base)
    file.chmod(0o644)
    return file


def a_directory(base: Path) -> Path:
    return base


def a_fifo(base: Path) -> Path:
    os.mkfifo(base / "fifo", 0o755)
    return base / "fifo"


def nothing(base: Path) -> Path:
    return base / "nothing"


def a_circle(base: Path) -> Path:
    (base / "a").symlink_to("b")
    (base / "b").symlink_to("a")
    return base / "a"


@pytest.mark.parametrize(
    ("make", "code", "says"),
    [
        pytest.param(of_another, errno.EPERM, "belongs to user 12345", marks=as_root),
        pytest.param(in_anothers_directory, errno.EPERM, "dir belongs to", marks=as_root),
        pytest.param(through_anothers_link, errno.EPERM, "link belongs to", marks=as_root),
        pytest.param(by_way_of_anothers_directory, errno.EPERM, "theirs belongs to", marks=as_root),
        (writable_for_the_group, errno.EPERM, "written by its group or by others (mode 0775)"),
        (writable_for_all, errno.EPERM, "chmod go-w"),
        (in_a_writable_directory, errno.EPERM, "dir can be written"),
        (not_executable, errno.EACCES, "can't be executed"),
        (a_directory, errno.EINVAL, "not a regular file"),
        (a_fifo, errno.EINVAL, "not a regular file"),
        (nothing, errno.ENOENT, "No such file"),
        (a_circle, errno.ELOOP, "symbolic links"),
    ],
)
async def test_refused(tmp_path: Path, make: Callable[[Path], Path], code: int, says: str) -> None:
    with pytest.raises(AfmError) as refused:
        await Checker(OURS).check(str(make(tmp_path)))
    assert refused.value.errno == code
    assert says in str(refused.value)


# -- how it starts -------------------------------------------------------------------------------


async def test_it_is_given_nothing_of_ours(tmp_path: Path) -> None:
    tell = tmp_path / "tell.py"
    tell.write_text(
        f"#!{sys.executable} -IS\n"
        "import json, os, resource, signal, sys\n"
        "ignored = [s.name for s in signal.valid_signals()"
        " if signal.getsignal(s) == signal.SIG_IGN and s not in (signal.SIGPIPE, signal.SIGXFSZ)]\n"
        "with open('/proc/self/status') as status:\n"
        "    mask = [line.split()[1] for line in status if line.startswith('SigIgn')]\n"
        "print(json.dumps([sys.argv, dict(os.environ), os.getcwd(), sys.stdin.read(),"
        " sorted(map(int, os.listdir('/proc/self/fd')))[:-1], os.getsid(0) == os.getpid(),"
        " resource.getrlimit(resource.RLIMIT_NOFILE)[0], os.umask(0), ignored]))\n"
    )
    tell.chmod(0o755)
    kept = os.open("/", os.O_RDONLY)  # and would be inherited
    os.set_inheritable(kept, True)
    try:
        status, output = await run(str(tell), "a b", "", "\udcff", AFM_REASON="why\nso")
    finally:
        os.close(kept)
    assert status == 0, output
    argv, environment, directory, given, fds, leader, files, mask, ignored = json.loads(output)
    assert argv == [str(tell), "a b", "", "\udcff"]
    environment.pop("LC_CTYPE", None)  # the test's own interpreter sets it
    assert set(environment) == {"PATH", "LANG", "HOME", "AFM_REASON"}
    assert environment["AFM_REASON"] == "why\nso"
    assert (directory, given, fds, leader) == ("/", "", [0, 1, 2], True)
    assert files <= 1024
    assert (mask, ignored) == (0o022, [])


async def test_signals_that_python_ignores_are_not_ignored() -> None:
    status, output = await run("/bin/cat", "/proc/self/status")
    ignored = next(line for line in output.decode().splitlines() if line.startswith("SigIgn"))
    assert (status, int(ignored.split()[1], 16)) == (0, 0)


ARGUMENT = st.binary(max_size=20).filter(lambda text: b"\0" not in text)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.one_of(ARGUMENT, st.sampled_from([b"$(touch x)", b"; rm", b"", b"-n"]))))
def test_arguments_arrive_as_they_are(arguments: list[bytes]) -> None:
    words = ["/usr/bin/printf", "%s\\0", *map(os.fsdecode, arguments)]
    _, output = trio.run(run, *words)
    assert output.split(b"\0")[:-1] == (arguments or [b""])


async def test_what_can_not_be_executed_says_so(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.write_text("\x7fELF but no program")
    empty.chmod(0o755)
    status, output = await run(str(empty))
    assert (status, output) == (127, os.fsencode(f"{empty}: Exec format error\n"))


# -- how it ends ---------------------------------------------------------------------------------


async def test_it_ends_with_its_children(tmp_path: Path) -> None:
    with closing(Fifo(tmp_path / "life")) as life:
        stubborn = script(
            tmp_path / "stubborn",
            f"""
            exec 3>{life.path}
            trap '' TERM
            sh -c "trap '' TERM; sleep 1000" &
            echo up >&3
            wait
            sleep 1000
            """,
        )
        running = Program([str(stubborn)], {})
        try:
            assert await life.line() == b"up\n"
            assert not await running.ends_within(0)
            assert await running.end()
        finally:
            assert running.close() == -9
        assert await life.line() == b""


async def test_it_is_asked_first(tmp_path: Path) -> None:
    with closing(Fifo(tmp_path / "life")) as life:
        polite = script(
            tmp_path / "polite",
            f"""
            exec 3>{life.path}
            trap 'echo bye >&3; exit 3' TERM
            echo up >&3
            sleep 1000 & wait
            """,
        )
        running = Program([str(polite)], {})
        try:
            assert await life.line() == b"up\n"
            assert await running.end()
        finally:
            assert running.close() == 3
        assert await life.line() == b"bye\n"
        assert await life.line() == b""


async def test_what_it_leaves_behind_ends_with_it(tmp_path: Path) -> None:
    with closing(Fifo(tmp_path / "life")) as life:
        hasty = script(tmp_path / "hasty", f"exec 3>{life.path}; echo up >&3; sleep 1000 &")
        assert await run(str(hasty)) == (0, b"")
        assert await life.line() == b"up\n"
        assert await life.line() == b""


async def test_its_output_is_bounded(tmp_path: Path) -> None:
    loud = script(tmp_path / "loud", "yes | head -c 1000000; echo; printf 'a\\033[31mb\\377'")
    running = Program([str(loud)], {})
    with trio.fail_after(SECONDS):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(running.output.collect)
            await running.ended()
            nursery.cancel_scope.cancel()
    assert running.close() == 0
    assert len(running.output.kept) == program.OUTPUT
    lines = running.output.lines()
    assert len(lines) == program.LINES + 1
    assert lines[-1] == "... (1000009 bytes in all)"


def test_output_for_a_log_is_printable() -> None:
    output = Output(-1, b"a\x1b[31mb\xff\nc\td", 12)
    assert output.lines() == ["a\\x1b[31mb\\xff", "c\\td"]
