"""A second user on the mount gets what the kernel's own file systems would give them."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from afmfs import mountinfo
from afmfs.admin import find
from afmfs.admin.access import Access
from tests.conftest import MakeMount
from tests.harness.mounting import REPOSITORY
from tests.harness.trees import differences, snapshot
from tests.hostile.somebody import OURS, THEIRS, prepare, prepare_lists

pytestmark = [
    pytest.mark.mounted,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs to become another user"),
]


def outcomes(directory: Path, *lists: str) -> dict[str, object]:
    """What another user's calls give there."""
    uid, groups = THEIRS, str(OURS)
    words = [str(uid), str(uid), groups, directory, *lists]
    run = subprocess.run(
        [sys.executable, "-m", "tests.hostile.somebody", *words],
        cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    found: dict[str, object] = json.loads(run.stdout)
    return found


KERNEL = {"write to set-id without x": "100666 0:0 1 25 / 102666 0:0 1 25"}
"""Set-group-ID without execution by the group says nothing about who executes. Since Linux 6.2
local file systems drop it too when another user writes; FUSE's half in the kernel does not."""


def compared(one: dict[str, object], two: dict[str, object]) -> list[str]:
    found = {name: f"{one[name]} / {two[name]}" for name in one if one[name] != two[name]}
    return [f"{name}: {said}" for name, said in found.items() if KERNEL.get(name) != said]


@pytest.mark.parametrize("options", [(), ("xattrs",), ("writeback",)], ids=str)
def test_each_call_does_what_it_does_on_a_local_file_system(
    tmp_path: Path, home: Path, make_mount: MakeMount, options: tuple[str, ...]
) -> None:
    plain = tmp_path / "plain"
    plain.mkdir()
    prepare(str(plain))
    prepare(str(home))
    mount = make_mount(home, "allow_other", "async_delay=0", *options)
    assert compared(outcomes(plain), outcomes(mount.point)) == []
    mount.flush()
    assert modes(differences(snapshot(plain), snapshot(home), ignore=["mtime"])) == []


def test_access_lists_are_what_they_are_elsewhere(
    tmp_path: Path, home: Path, make_mount: MakeMount
) -> None:
    plain = tmp_path / "plain"
    plain.mkdir()
    try:
        prepare_lists(str(plain))
    except OSError:
        pytest.skip("no access lists here")
    prepare_lists(str(home))
    mount = make_mount(home, "allow_other", "async_delay=0", "xattrs")
    expected = outcomes(plain, "lists")
    assert compared(expected, outcomes(mount.point, "lists")) == []
    mount.flush()
    assert outcomes(home, "lists") == outcomes(plain, "lists"), "they are at home, too"


def test_without_access_lists_nobody_gets_more_than_by_them(
    tmp_path: Path, home: Path, make_mount: MakeMount
) -> None:
    try:
        prepare_lists(str(home))
    except OSError:
        pytest.skip("no access lists here")
    mount = make_mount(home, "allow_other")
    found, by_lists = outcomes(mount.point, "lists"), outcomes(home, "lists")
    for name, said in found.items():
        if name.startswith(("read ", "write ", "chmod ")):
            assert said in ("EACCES", "EPERM") or said == by_lists[name], name


def modes(found: list[str]) -> list[str]:
    return [line for line in found if not line.startswith("b'set-id-no-x': mode ")]


def as_another(script: str, *words: object, uid: int = THEIRS) -> subprocess.CompletedProcess[str]:
    """Run a shell script as another user, from the directory that comes first."""
    directory, *rest = map(str, words)
    enter = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "sh", "-c", script]
    return subprocess.run(
        [*enter, "sh", *rest],
        cwd=directory, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_nobody_else_looks_in_where_they_are_not_let_in(
    home: Path, make_mount: MakeMount, tmp_path: Path
) -> None:
    (home / "public").mkdir(0o777)
    (home / "public/file").write_text("public")
    mount = make_mount(home)
    open_to_all(tmp_path, mount.point)
    run = as_another(
        "ls mnt; cat mnt/public/file; echo x >mnt/public/new; stat mnt/.afm", mount.base
    )
    assert run.stdout == ""
    assert run.stderr.lower().count("permission denied") == 4, run.stderr
    assert os.listdir(mount.point / "public") == ["file"]


def open_to_all(*places: Path) -> None:
    """Nothing above a place keeps others from it: what they meet is what is tested."""
    for place in places:
        for above in [place, *place.parents]:
            if above.stat().st_uid == os.getuid() and "pytest" in str(above):
                above.chmod(0o755)


STEERING = ("cat mnt/.afm/control", "echo stop >mnt/.afm/control", "ls mnt/.afm",
            "cat mnt/.afm/state", "cat mnt/.afm/queue", "cat mnt/.afm/events",
            "cat mnt/.afm/report", "stat mnt/.afm/control")  # fmt: skip


MOUNTINFO = b"""\
30 1 0:50 / /mnt/roots rw,nosuid - fuse.afmfs afmfs rw,user_id=0,group_id=0,allow_other
31 1 0:51 / /home/eve/trap rw,nosuid - fuse.afmfs afmfs rw,user_id=1001,group_id=1001
32 1 0:52 / /home/eve/user_id=0, rw - fuse.afmfs user_id=0,x rw,user_id=1001,group_id=0
"""


def test_nobody_else_answers_in_the_place_of_a_mount(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whoever mounts something of their own under a device's name gets none of its commands."""
    (tmp_path / "mountinfo").write_bytes(MOUNTINFO)
    monkeypatch.setattr(mountinfo, "TABLE", str(tmp_path / "mountinfo"))
    asked: list[str] = []

    class Deaf(Access):
        def read(self, path: str, *, timeout: float = 1) -> bytes:
            asked.append(path)
            raise PermissionError(errno.EACCES, "denied", path)

    with Deaf() as access:
        find.find("afmfs", None, access)
        (tmp_path / "cache.db").touch()
        find.find(str(tmp_path), None, access)
        assert asked == ["/mnt/roots/.afm/status.json"] * 2
        find.find("/home/eve/trap", None, access)  # named so, it is meant
    assert asked[2:] == ["/home/eve/trap/.afm/status.json"]


AFMCTL_AS_ANOTHER = """
import os
from afmfs.admin.afmctl import main
os.setgroups([])
os.setresgid(1001, 1001, 1001)
os.setresuid(1001, 1001, 1001)
main()
"""


def test_nobody_else_steers(home: Path, make_mount: MakeMount, tmp_path: Path) -> None:
    mount = make_mount(home, "allow_other")
    open_to_all(tmp_path, mount.base)
    for one in STEERING:
        run = as_another(one, mount.base)
        assert (run.returncode != 0, run.stdout) == (True, ""), one
        assert "denied" in run.stderr.lower(), f"{one}: {run.stderr}"
    run = subprocess.run(
        [sys.executable, "-c", AFMCTL_AS_ANOTHER, str(mount.point), "stop"],
        cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert run.returncode == 1 and "only root and the mount's owner" in run.stderr, run.stderr
    assert "Traceback" not in run.stderr
    assert mount.status()["state"] != "Stopped"


def test_what_is_handed_over_open_can_be_used_but_no_more(
    home: Path, make_mount: MakeMount
) -> None:
    """Root's descriptor of `.afm` is root's: through it another user still opens nothing."""
    mount = make_mount(home, "allow_other")
    afm = os.open(mount.point / ".afm", os.O_RDONLY | os.O_DIRECTORY)
    script = "import os,sys\nos.setresuid(1001,1001,1001)\nos.open('control',os.O_RDWR,dir_fd=%d)"
    try:
        run = subprocess.run(
            [sys.executable, "-c", script % afm],
            pass_fds=[afm], capture_output=True, text=True, check=False,
        )  # fmt: skip
    finally:
        os.close(afm)
    assert "PermissionError" in run.stderr


def test_nobody_else_reads_the_cache(home: Path, make_mount: MakeMount, tmp_path: Path) -> None:
    (home / "secret").write_text("secret")
    (home / "secret").chmod(0o600)
    mount = make_mount(home, "allow_other")
    (mount.point / "secret").read_text()
    (mount.point / "new").write_text("secret")
    open_to_all(tmp_path, mount.base)
    run = as_another("ls cache; cat cache/cache.db; cat cache/lock; find cache -type f", mount.base)
    assert run.stdout in ("", "cache\n") and run.stderr.lower().count("permission denied") >= 4
    assert (mount.cache.stat().st_mode & 0o777, mount.cache.stat().st_uid) == (0o700, os.getuid())
    for path in [mount.cache, *mount.cache.rglob("*")]:
        assert not path.lstat().st_mode & 0o077, f"{path} is open to others"
    mount.unmount()
    mount.cache.chmod(0o755)  # somebody's mistake: mended at the next mount
    mount.mount("none")
    assert mount.cache.stat().st_mode & 0o777 == 0o700


def test_there_is_no_socket_to_connect_to(home: Path, make_mount: MakeMount) -> None:
    """Mount and gateway talk over a pair without a name; neither listens anywhere."""
    mount = make_mount(home)
    assert mount.process is not None
    ours = [mount.process.pid, *(gateway.pid for gateway in mount.gateways())]
    assert len(ours) == 2
    held = {os.readlink(f"/proc/{pid}/fd/{fd}") for pid in ours for fd in descriptors(pid)}
    lines = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:]]
    sockets = {f"socket:[{words[6]}]": words for words in lines}
    assert any(name in sockets for name in held), "the test sees their sockets"
    for name in held & sockets.keys():
        words = sockets[name]
        assert len(words) == 7, f"it has a name: {words}"
        assert not int(words[3], 16) & 0x10000, f"it listens: {words}"
    assert not [name for name in held if name.startswith("socket:") and name not in sockets]


def descriptors(pid: int) -> list[str]:
    return os.listdir(f"/proc/{pid}/fd")
