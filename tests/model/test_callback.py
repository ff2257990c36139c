"""What a callback's program is given: values never make two words of one, nor are they read."""

from __future__ import annotations

import json
import os
import re
import shlex
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from afmfs.errors import UnknownCommand
from afmfs.model.callback import (
    EVENTS,
    VARIABLES,
    Callback,
    checked,
    environment_of,
    expand,
    home_server,
    values_of,
)

ROOT = Path(__file__).resolve().parents[2]

# What a value may hold: blanks, quotes, newlines, percent signs with and without names of
# variables behind them, and bytes that are not UTF-8.
VALUE = st.one_of(
    st.text(alphabet=" \t\n'\"\\%$;&|`<>*()abR\udcff\0é"),
    st.sampled_from(["%reason", "%%", "%detail %target", "$(touch x)", "; rm -rf /", ""]),
    st.binary().map(os.fsdecode),
)
VALUES = st.fixed_dictionaries({key: VALUE for key in VARIABLES})
LITERAL = st.text(alphabet=" \t\n'\"\\$;-_x1").filter(lambda text: "%" not in text)
PIECE = st.one_of(
    LITERAL.map(lambda text: (text, None)), st.sampled_from([*VARIABLES]).map(lambda v: ("", v))
)
WORD = st.lists(PIECE, max_size=5)


def written(word: list[tuple[str, str | None]]) -> str:
    """As it is given; a letter after a variable would be a part of its name."""
    text = ""
    for literal, variable in word:
        after_name = re.search("%[A-Za-z]+$", text) and literal[:1].isalpha()
        text += f"%{variable}" if variable else "_" * bool(after_name) + literal
    return text


def meant(word: list[tuple[str, str | None]], values: dict[str, str]) -> str:
    text, named = "", False
    for literal, variable in word:
        if variable:
            text, named = text + values[variable], True
        elif literal:
            text, named = text + "_" * (named and literal[0].isalpha()) + literal, False
    return text


@given(st.lists(WORD), VALUES)
def test_every_value_stays_in_its_word(
    words: list[list[tuple[str, str | None]]], values: dict[str, str]
) -> None:
    parms = shlex.join(map(written, words))
    callback = checked("n", "/bin/true", "afmHomeConnected", parms)
    assert callback.words(values) == ["/bin/true", *(meant(word, values) for word in words)]


@given(VALUES)
def test_nothing_in_a_value_is_expanded(values: dict[str, str]) -> None:
    assert expand("%reason%target", values) == values["reason"] + values["target"]


@pytest.mark.parametrize(
    ("word", "expanded"),
    [
        ("%reason", "why"),
        ("x%reason.", "xwhy."),
        ("%reasons", "%reasons"),
        ("%eventname", "%eventname"),
        ("100%", "100%"),
        ("100%%", "100%"),
        ("%%reason", "%reason"),
        ("%%%reason", "%why"),
        ("%20", "%20"),
        ("% reason", "% reason"),
    ],
)
def test_expand(word: str, expanded: str) -> None:
    assert expand(word, {"reason": "why"}) == expanded


def test_values() -> None:
    about = {"fsName": "fs1", "target": "/home/\udcff"}
    detail = {"reason": "a\0b", "path": "dir/\udcff\n", "entry": 7}
    values = values_of("afmCmdRequeued", "T", detail, about)
    assert set(values) == set(VARIABLES)
    assert (values["eventName"], values["eventTime"]) == ("afmCmdRequeued", "T")
    assert (values["fsName"], values["target"]) == ("fs1", "/home/\udcff")
    assert (values["reason"], values["pathName"]) == ("a\\0b", "dir/\udcff\n")
    assert json.loads(values["detail"]) == detail
    assert values["gatewayName"] == ""


@given(st.dictionaries(st.sampled_from(["reason", "path", "x"]), st.text() | st.integers()))
def test_values_can_be_handed_to_a_program(detail: dict[str, str | int]) -> None:
    for value in values_of("e", "t", detail, {}).values():
        assert b"\0" not in value.encode("utf-8", "surrogateescape")


def test_environment() -> None:
    found = environment_of({key: key for key in VARIABLES})
    assert found["AFM_EVENT_NAME"] == "eventName"
    assert found["AFM_FS_NAME"] == "fsName"
    assert found["AFM_TARGET"] == "target"
    assert len(found) == len(VARIABLES)


@pytest.mark.parametrize(
    ("target", "host"),
    [
        ("/srv/home", "/srv/home"),
        ("/srv/a://b", "/srv/a://b"),
        ("nfs://c26c3apv2/gpfs/homefs1", "c26c3apv2"),
        ("gpfs:///remote/fs", "/remote/fs"),
    ],
)
def test_home_server(target: str, host: str) -> None:
    assert home_server(target) == host


def test_a_callback_comes_back_from_json() -> None:
    one = checked("n", "/x y", "afmHomeConnected,afmQueueDropped", "%reason 'a b'", 2.5)
    assert Callback.from_dict(json.loads(json.dumps(one.to_dict()))) == one


def test_events_as_afm_spells_them_here_and_there() -> None:
    found = checked("n", "/x", "afmprepopend, afmfilesetunmounted,afmPrepopEnd")
    assert found.events == ("afmPrepopEnd", "afmFilesetUnmounted")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("", "/x", "afmHomeConnected"), "1 to 255"),
        (("a" * 256, "/x", "afmHomeConnected"), "1 to 255"),
        (("a b", "/x", "afmHomeConnected"), "no blank"),
        (("a:b", "/x", "afmHomeConnected"), "no blank"),
        (("a;b", "/x", "afmHomeConnected"), "no blank"),
        (("a,b", "/x", "afmHomeConnected"), "no blank"),
        (("a\nb", "/x", "afmHomeConnected"), "no blank"),
        (("afmX", "/x", "afmHomeConnected"), "does not begin"),
        (("gpfsX", "/x", "afmHomeConnected"), "does not begin"),
        (("mmX", "/x", "afmHomeConnected"), "does not begin"),
        (("n", "x", "afmHomeConnected"), "absolute"),
        (("n", "", "afmHomeConnected"), "absolute"),
        (("n", "/x\0", "afmHomeConnected"), "NUL"),
        (("n", "/x", ""), "unknown event ''; there are afmHomeConnected"),
        (("n", "/x", "afmHomeConected"), "did you mean afmHomeConnected"),
        (("n", "/x", "afmHomeConnected,nothing"), "unknown event 'nothing'; there are"),
        (("n", "/x", "afmHomeConnected", "'"), "can't read --parms"),
        (("n", "/x", "afmHomeConnected", "%reson"), "there is %reason)"),
        (("n", "/x", "afmHomeConnected", "x%Y"), "%% is a percent sign"),
        (("n", "/x", "afmHomeConnected", "", 0.0), "more than 0"),
    ],
)
def test_refused(words: tuple[str, ...], says: str) -> None:
    with pytest.raises(UnknownCommand) as refused:
        checked(*words)  # type: ignore[arg-type]
    assert says in str(refused.value)


def test_the_longest_id() -> None:
    assert checked("é" * 255, "/x", "afmHomeConnected").id == "é" * 255


def test_every_event_that_is_recorded_is_known() -> None:
    found = set()
    for path in (ROOT / "afmfs").rglob("*.py"):
        if path.name not in ("tunables.py", "callback.py"):
            found.update(re.findall(r'"(afm[A-Z]\w+)"', path.read_text()))
    assert {"afmHomeConnected", "afmCmdRequeued", "afmManualResyncComplete"} < found
    assert found <= set(EVENTS)
