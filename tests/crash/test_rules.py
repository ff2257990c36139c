"""The table of crash rules is complete, and what it names is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.crash.rules import RULES, Rule

ROOT = Path(__file__).resolve().parents[2]

# The rules of crash-rules.md by their names there; the last is a sentence without one.
_NAMES = """
new-blob-first overwrite-entry-first overwrite-durable in-place-mark point-drains number-at-start
point-recorded clean-drop-per-block destroy-waits evict-waits truncate-new-generation
shrink-keeps-generation reclaim-numbered reclaim-locks reclaim-skips reclaim-sync evict-clean-only
fetch-not-valid fetch-unchanged fetch-not-truncated home-valid home-valid-by-retired
in-flight in-flight-durable durable-before-batch home-sync outcome-after-durable outcome-durable
forget-after-durable batch-cut doubt-cut doubt doubt-adopts-type names-executed fetch-waits-doubt
connection stamp-before-mark
recovery-is-one recovery-takes-over drop-clean drop-fresh-dirty recovery-zeros numbers-unique
"""
NAMES = _NAMES.split()
WITHOUT_A_NAME = "newer bytes, never newer sizes"


def test_every_rule_has_its_row() -> None:
    assert {rule.name for rule in RULES} == {*NAMES, WITHOUT_A_NAME}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.name} {rule.where}")
def test_it_is_kept_where_the_table_says(rule: Rule) -> None:
    """The text that keeps it stands once in the file, and in the function that is named."""
    text = (ROOT / rule.place).read_text()
    assert text.count(rule.fault.old) == 1
    compile(text.replace(rule.fault.old, rule.fault.new), rule.place, "exec")
    first, last = lines_of(text, rule.where)
    at = text[: text.index(rule.fault.old)].count("\n") + 1
    assert first <= at <= last
    assert rule.fault.tests
    for test in rule.fault.tests:
        file, _, name = test.partition("::")
        assert re.search(rf"def {name}\(", (ROOT / file).read_text()), test


def test_every_name_is_said_where_the_rule_is_kept() -> None:
    """Who changes the code finds the rule; a name of a part stands for it."""
    code = "".join(path.read_text() for path in (ROOT / "afmfs").rglob("*.py"))
    assert not [name for name in NAMES if name not in code]


def lines_of(text: str, where: str) -> tuple[int, int]:
    """First and last line of a function, by its qualified name."""
    node: ast.AST = ast.parse(text)
    for part in where.split("."):
        inner = [n for n in ast.iter_child_nodes(node) if getattr(n, "name", "") == part]
        assert inner, f"there is no {where}"
        node = inner[-1]
    assert isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    assert node.end_lineno is not None
    return node.lineno, node.end_lineno
