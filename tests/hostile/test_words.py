"""Words that make no sense: to mount.afmfs, to the control file, in lists of paths."""

from __future__ import annotations

import errno
import os
import pty
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from pyfuse3 import FUSEError

from afmfs.admin.request import visible
from afmfs.cache.command.commands import TABLE
from afmfs.errors import AfmError
from afmfs.model import tunables
from afmfs.model.target import parse_target
from afmfs.model.tunables import BadOption, MountOptions
from mount import cli
from mount.control import ControlDirectory, Conversation
from tests.harness.fake_gateway import open_office
from tests.harness.mounting import REPOSITORY, Mount

EXAMPLES = int(os.environ.get("AFMFS_FUZZ_EXAMPLES", "60"))

# -- options ---------------------------------------------------------------------------------------

names = st.sampled_from(
    [word for one in tunables.TABLE for word in (one.name, *one.synonyms, "no" + one.name)]
    + sorted(tunables.KERNEL | tunables.DROPPED | tunables.REFUSED.keys())
    + ["ro", "x-anything", "", "=", "cache size", "\uff43ache"]
)
given_values = st.one_of(
    st.text(max_size=12),
    st.sampled_from(
        ["", "0", "-1", "1e9", "9" * 5000, "1" + "0" * 400, "nan", "inf", "\u0663", "\u00b2", "4k"]
        + ["1K", "16M", "17M", "50%", "101%", "1_0", " 1", "yes", "No", '"a,b"', "\\,", "..", "/"]
        + ["/dev/null", "\udcff", "\0", "\n"]
    ),
)  # fmt: skip
words = st.one_of(names, st.builds("{}={}".format, names, given_values), st.text(max_size=10))


@settings(max_examples=3 * EXAMPLES, deadline=None)
@given(st.lists(words, max_size=5))
def test_options_are_taken_or_refused_in_a_sentence(some: list[str]) -> None:
    try:
        found = tunables.parse([",".join(some)])
    except BadOption as error:
        assert "limit" not in str(error) and len(str(error)) < 8000
        return
    assert isinstance(found, MountOptions)
    assert tunables.Tunables().updated(found.tunables).to_dict()


@given(st.one_of(st.text(), st.builds("file://{}".format, st.text(max_size=20))))
def test_any_target(text: str) -> None:
    try:
        path = parse_target(text)
    except AfmError:
        return
    assert path.startswith(b"/") and b"\0" not in path and b"//" not in path[:-1]


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.lists(st.one_of(words, st.sampled_from(["-o", "-f", "--", "-ocache=x"])), max_size=4))
def test_any_command_line_of_mount(some: list[str]) -> None:
    """Nothing is there to be mounted on, so that none of them gets further than that."""
    given = [word for word in some if "\0" not in word]
    with pytest.raises(SystemExit) as caught:
        cli.main(["/nowhere/home", "/nowhere/to mount", *given])
    assert caught.value.code in (0, cli.USAGE, cli.FAILED)  # 0: --help is among them


# -- commands --------------------------------------------------------------------------------------

flags = sorted({f for one in TABLE.values() for f in (*one.flags, *one.values)})
command_words = st.one_of(
    st.sampled_from(sorted(TABLE)),
    st.sampled_from(flags),
    st.builds("{}={}".format, st.sampled_from(flags), given_values),
    st.sampled_from(["--", "..", "/", ".", "f", "f/", "'", '"', "\\", "#", "\udcff", "x" * 300]),
    given_values,
)
lines = st.one_of(
    st.builds(
        lambda name, rest: " ".join([name, *rest]),
        st.sampled_from(sorted(TABLE)), st.lists(command_words, max_size=4),
    ),
    st.text(max_size=40),
)  # fmt: skip


def as_bytes(line: str) -> bytes:
    return line.encode("utf-8", "surrogatepass")


@settings(max_examples=max(5, EXAMPLES // 8), deadline=None)
@given(st.lists(st.one_of(lines.map(as_bytes), st.binary(max_size=40)), max_size=20))
def test_any_line_for_the_control_file(some: list[bytes]) -> None:
    async def scene(base: Path) -> None:
        async with open_office() as office, office.fileset(base) as fileset:
            directory = ControlDirectory(fileset, os.getuid())
            for line in some:
                control = Conversation(directory, fileset)
                with trio.fail_after(20):
                    try:
                        assert await control.write(0, line) == len(line)
                    except AfmError as error:
                        assert error.errno in errno.errorcode
                    reply = await control.read(0, 1 << 20)
                assert reply, "each gets an answer, which may be read"
                assert b"Traceback" not in reply and b"Error(" not in reply
            fileset.status()

    with tempfile.TemporaryDirectory() as base:
        trio.run(scene, Path(base))


async def test_too_long_a_line(tmp_path: Path) -> None:
    async with open_office() as office, office.fileset(tmp_path) as fileset:
        control = Conversation(ControlDirectory(fileset, os.getuid()), fileset)
        with pytest.raises(FUSEError):
            await control.write(0, b"getstate " + b"x" * (32 << 10))
        with pytest.raises(AfmError):
            await control.write(0, b"queue " + b"'" * 30_000)
        assert await control.write(0, b"getstate\n") == 9


# -- lists of paths --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mount(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mount]:
    base = tmp_path_factory.mktemp("words")
    home = base / "home"
    home.mkdir()
    for name in (b"plain", b"new\nline", b"\xff\xfe", b"\x1b[31mred", b" ", b"-o", b"'"):
        Path(os.fsdecode(os.fsencode(home) + b"/" + name)).write_bytes(b"0123456789")
    mount = Mount(home, base / "fs")
    mount.mount()
    for path in mount.point.iterdir():
        path.read_bytes()
    yield mount
    mount.terminate()
    assert not mount.watchdog_fired


LISTS: dict[str, bytes] = {
    "noise": os.urandom(3000).replace(b"/", b"x"),
    "nothing": b"",
    "only ends of lines": b"\n\n\r\n\n",
    "only NULs": bytes(100),
    "a long line": b"x" * 200_000,
    "a deep path": b"x/" * 20_000 + b"x\n",
    "what leads out": b"../../etc/passwd\n/etc/passwd\n",
    "quotes and options": b"'\n-o\n--file=x\n\"\n$(reboot)\n;\n#\n*\n",
    "the control directory": b".afm\n.afm/control\n",
    "a directory": b".\n/\n",
}


@pytest.mark.mounted
@pytest.mark.parametrize("what", LISTS)
def test_a_list_that_is_none(mount: Mount, tmp_path: Path, what: str) -> None:
    (tmp_path / "list").write_bytes(LISTS[what])
    run = mount.afmctl("evict", "--list-file", str(tmp_path / "list"), timeout=60)
    assert run.returncode in (0, 1, 2) and "Traceback" not in run.stderr, run.stderr[-2000:]
    assert len(run.stderr) < 10 * len(LISTS[what]) + 4000
    assert mount.status()["state"] in ("Active", "Inactive")


@pytest.mark.mounted
def test_a_list_of_any_names_ended_by_nuls(mount: Mount, tmp_path: Path) -> None:
    names = sorted(os.listdir(os.fsencode(mount.point)))
    for name in names:
        (mount.point / os.fsdecode(name)).read_bytes()
    (tmp_path / "list").write_bytes(b"\0".join(names))
    run = mount.afmctl("evict", "--list-file", str(tmp_path / "list"))
    assert (run.returncode, run.stdout) == (0, f"evict: {len(names)} files, 70 bytes freed\n"), run


@pytest.mark.mounted
@pytest.mark.parametrize("name", ["/", "/nowhere", "/dev/zero", ""])
def test_what_is_no_list_at_all(mount: Mount, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run = mount.afmctl("evict", "--list-file", name, timeout=60)
    assert run.returncode in (1, 2) and "Traceback" not in run.stderr, run.stderr[-2000:]


@pytest.mark.mounted
def test_a_terminal_obeys_no_name(mount: Mount) -> None:
    """Anybody may name a file at home, and root's terminal is to survive it."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "afmfs.admin.afmctl", str(mount.point)]
    path = f"{mount.point}/\x1b[31mred/none"
    try:
        subprocess.run(
            [*command, "cached", path], cwd=REPOSITORY, stdout=theirs, stderr=theirs, check=False
        )
        said = os.read(ours, 65536)
    finally:
        os.close(ours)
        os.close(theirs)
    assert b"red" in said and b"\x1b" not in said, said
    assert visible("a\x1b[31m\udcff\n") == "a\\x1b[31m\\xff\n"
