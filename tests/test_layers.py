"""The layers of the code, its sizes, and what each layer may import."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

LAYERS = {"afmfs.model": 1, "afmfs.gateway": 2, "afmfs.cache": 2, "afmfs.admin": 3, "mount": 4}
"""Imports go downwards, or stay within one package. `afmfs` itself and its errors are below all."""

SHARED_MESSAGES = ("afmfs.cache", "afmfs.gateway.protocol")
"""The one import between the two processes' halves: the shape of their messages."""

ONLY_IN = {"pyfuse3": ("mount",), "trio": ("afmfs.cache", "mount")}

PURE = {"bisect", "collections", "dataclasses", "difflib", "enum", "errno", "functools"}
PURE |= {"heapq", "itertools", "math", "operator", "re", "stat", "struct", "typing"}
PURE |= {"__future__", "bitarray", "afmfs", "zlib"}
"""What the model may import: nothing that does I/O, has a clock or logs."""

PURE_NAMES = {"os.fsencode", "os.fsdecode", "pathlib.Path", "urllib.parse.unquote_to_bytes"}
PURE_NAMES |= {"fnmatch.fnmatchcase", "json.dumps", "shlex.split"}
"""Pure parts of modules that are not. (A Path is a value, as long as nobody asks the disk.)"""

FILE_LINES, FUNCTION_LINES = 600, 70


def sources() -> list[Path]:
    return sorted(path for top in ("afmfs", "mount") for path in (ROOT / top).rglob("*.py"))


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def layer_of(module: str) -> str | None:
    return next((name for name in LAYERS if f"{module}.".startswith(f"{name}.")), None)


def imports(path: Path) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}:{node.lineno}: absolute imports only"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def allowed(module: str, imported: str) -> bool:
    """Whether `module` may import `imported`."""
    top = imported.partition(".")[0]
    own, other = layer_of(module), layer_of(imported)
    if top in ONLY_IN:
        return own in ONLY_IN[top]
    if own == "afmfs.model" and top not in PURE and imported not in PURE_NAMES:
        return False
    if other is None or own == other:
        return True
    if own is None:
        return False  # afmfs.errors and afmfs itself stand below every layer
    user, shape = SHARED_MESSAGES
    return LAYERS[other] < LAYERS[own] or (own == user and f"{imported}.".startswith(f"{shape}."))


@pytest.mark.parametrize("path", sources(), ids=module_of)
def test_imports_go_down(path: Path) -> None:
    module = module_of(path)
    wrong = [f"{path}:{line}: {name}" for line, name in imports(path) if not allowed(module, name)]
    assert not wrong


@pytest.mark.parametrize("path", sources(), ids=module_of)
def test_sizes_fit_the_head(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= FILE_LINES
    long = [
        f"{path}:{node.lineno} {node.name}"
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno >= FUNCTION_LINES
    ]
    assert not long


def test_the_rules_would_notice() -> None:
    """The test above is not vacuous."""
    assert not allowed("afmfs.model.order", "os")
    assert not allowed("afmfs.model.order", "afmfs.cache.store.store")
    assert not allowed("afmfs.cache.store.store", "pyfuse3")
    assert not allowed("afmfs.cache.store.store", "afmfs.gateway.home.home")
    assert not allowed("afmfs.gateway.home.home", "trio")
    assert not allowed("afmfs.admin.afmctl", "mount.cli")
    assert not allowed("afmfs.errors", "afmfs.model.entry")
    assert allowed("afmfs.cache.home.link", "afmfs.gateway.protocol.encode")
    assert allowed("mount.operations", "afmfs.cache.fileset")
    assert {"os", "time", "logging", "sqlite3", "socket"} <= sys.stdlib_module_names - PURE
