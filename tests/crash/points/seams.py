"""Crash points come into a process from outside, when its interpreter starts."""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.crash.points import names
from tests.crash.points.board import VARIABLE, Board

START = Path(__file__).parent / "start"


def environment(board: Path) -> dict[str, str]:
    """What a process needs in its environment to have crash points."""
    root = Path(__file__).resolve().parents[3]
    return {VARIABLE: str(board), "PYTHONPATH": f"{START}:{root}"}


def install() -> None:
    """Called by the interpreter before the program begins."""
    place, words = os.environ.get(VARIABLE), sys.orig_argv
    if place is None or "-m" not in words:
        return
    module = words[words.index("-m") + 1]
    if module == "mount":
        _in_mount(Board(Path(place)))
    elif module == "afmfs.gateway.process":
        _in_gateway(Board(Path(place)))


def _in_mount(board: Board) -> None:
    board.enlist("mount")
    for name, where in names.MOUNT_CALLS.items():
        _replace(where, functools.partial(_surround, board, name))
    _tear_blob_writes(board)
    _name_transactions(board)
    _let_rare_things_happen()


def _in_gateway(board: Board) -> None:
    board.enlist("gateway")
    for name, where in names.GATEWAY_CALLS.items():
        _replace(where, functools.partial(_surround, board, name))
    syscalls = importlib.import_module("afmfs.gateway.home.syscalls")
    for module, calls in ((os, names.AT_HOME), (syscalls, names.AT_HOME_TOO)):
        for call in calls:
            setattr(module, call, _surround(board, f"home {call}", getattr(module, call)))
    _tear_home_writes(board)
    _see_creations(board)
    _name_journal_changes(board)


def _replace(where: str, wrap: Callable[[Any], Any]) -> None:
    module, _, qualified = where.partition(":")
    owner = importlib.import_module(module)
    *path, last = qualified.split(".")
    for part in path:
        owner = getattr(owner, part)
    setattr(owner, last, wrap(getattr(owner, last)))


def _surround(board: Board, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
    before, after = f"{name}: before", f"{name}: after"

    @functools.wraps(call)
    def at_once(*words: Any, **named: Any) -> Any:
        board.reach(before)
        result = call(*words, **named)
        board.reach(after)
        return result

    @functools.wraps(call)
    async def awaited(*words: Any, **named: Any) -> Any:
        board.reach(before)
        result = await call(*words, **named)
        board.reach(after)
        return result

    return awaited if inspect.iscoroutinefunction(call) else at_once


def _tear_blob_writes(board: Board) -> None:
    (torn, _) = names.TORN

    def wrap(call: Callable[..., None]) -> Callable[..., None]:
        def write(blobs: Any, inode: Any, offset: int, data: bytes | memoryview) -> None:
            if board.fires(torn):
                call(blobs, inode, offset, memoryview(data)[: len(data) // 2])
                board.die(torn)
            call(blobs, inode, offset, data)

        return write

    _replace("afmfs.cache.content.blobs:Blobs.write", wrap)


def _tear_home_writes(board: Board) -> None:
    (_, torn), call = names.TORN, os.pwrite

    def pwrite(fd: int, data: bytes | memoryview, offset: int) -> int:
        if board.fires(torn):
            call(fd, memoryview(data)[: len(data) // 2], offset)
            board.die(torn)
        return call(fd, data, offset)

    os.pwrite = pwrite  # type: ignore[assignment]


def _see_creations(board: Board) -> None:
    call = os.open
    made = _surround(board, "home create", call)

    def opened(path: Any, flags: int, *words: Any, **named: Any) -> int:
        return (made if flags & os.O_CREAT else call)(path, flags, *words, **named)

    os.open = opened


def _name_transactions(board: Board) -> None:
    from afmfs.cache.store.store import Store

    labels: list[str] = []
    written = ["other"]

    def labelled(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(call)
        def inside(*words: Any, **named: Any) -> Any:
            labels.append(name)
            try:
                return call(*words, **named)
            finally:
                labels.pop()

        return inside

    for where, name in names.COMMITS.items():
        _replace(where, functools.partial(labelled, name))
    put, save, leave = Store.put, Store.save, Store.__exit__

    def seen_put(store: Store, key: str, value: Any) -> None:
        if key == "durable_entry":
            written[0] = "point"
        put(store, key, value)

    def seen_save(store: Store, inode: Any, **changes: Any) -> None:
        if "synced" in changes:
            written[0] = "fsync"
        save(store, inode, **changes)

    def seen_exit(store: Store, kind: Any, exc: Any, trace: Any) -> None:
        name = labels[-1] if labels else written[0]
        written[0] = "other"
        if kind is None:
            board.reach(f"commit {name}: before")
        leave(store, kind, exc, trace)
        if kind is None:
            board.reach(f"commit {name}: after")

    for attribute, call in (("put", seen_put), ("save", seen_save), ("__exit__", seen_exit)):
        setattr(Store, attribute, call)


def _name_journal_changes(board: Board) -> None:
    import threading

    from afmfs.gateway.state.journal import Journal

    inside, real = threading.local(), Journal._transaction

    @contextmanager
    def transaction(journal: Journal) -> Iterator[Any]:
        name = getattr(inside, "name", "")
        with real(journal) as db:
            yield db
            if name:
                board.reach(f"journal {name}: before")
        if name:
            board.reach(f"journal {name}: after")

    def named(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(call)
        def noted(*words: Any, **values: Any) -> Any:
            inside.name = name
            try:
                return call(*words, **values)
            finally:
                inside.name = ""

        return noted

    call = Journal.transaction

    @contextmanager
    def of_others(journal: Journal) -> Iterator[Any]:
        inside.name = "transaction"
        try:
            with call(journal) as db:
                yield db
        finally:
            inside.name = ""

    for name in names.JOURNAL:
        setattr(Journal, name, named(name, getattr(Journal, name)))
    for name, change in (("_transaction", transaction), ("transaction", of_others)):
        setattr(Journal, name, change)


def _let_rare_things_happen() -> None:
    """Within the seconds that a life lasts here."""
    from afmfs.cache.content import blobs
    from afmfs.cache.home import link
    from afmfs.cache.store import checkpoint, disk, inodes

    disk.LOG = 192 << 10  # bytes of log from which on there are checkpoints
    checkpoint.POLL_S = 0.05
    blobs.OPEN_BLOBS = 6
    inodes.IN_MEMORY = 24
    link.RESTART_S = (0.02,) * len(link.RESTART_S)  # type: ignore[assignment]
