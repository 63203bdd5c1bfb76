from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mediant.checkpoint.strict_json import fields, mapping, parse, whole_numbers
from mediant.errors import CheckpointError

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(VALUES)
def test_sound_json_is_read_as_json(value: Any) -> None:
    try:
        data = json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return
    assert parse(data, "it") == value


@given(st.binary(max_size=60))
def test_any_bytes_give_a_value_or_a_sentence(data: bytes) -> None:
    try:
        value = parse(data, "it")
    except CheckpointError:
        return
    assert json.loads(data) == value


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"{}x",
        b"\xff",
        b'{"a":1,"a":1}',
        b'[{"a":{"b":1,"b":2}}]',
        b"NaN",
        b"[-Infinity]",
        b"1e999",
        b"-1e999",
        b"9" * 5000,
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"\xef\xbb\xbf{}",
    ],
)
def test_what_is_not_strict_json_is_refused(text: bytes) -> None:
    with pytest.raises(CheckpointError, match=r"^it is "):
        parse(text, "it")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "it is not a JSON object"),
        ({}, "lacks the field 'n'"),
        ({"n": 1, "m": 2}, "has the unknown field 'm'"),
        ({"n": True}, "'n' is of the wrong kind: True"),
        ({"n": 1.0}, "'n' is of the wrong kind"),
        ({"n": "1"}, "'n' is of the wrong kind"),
        ({"n": None}, "'n' is of the wrong kind"),
        ({"\x1b[2J": 1}, "cannot be printed"),
    ],
)
def test_fields_of_another_kind_are_refused(value: Any, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        fields(value, {"n": int}, "it")


@pytest.mark.parametrize("text", ["a\n", "\x1b[2J", "\ud800", "\u202e"])
def test_texts_that_steer_a_terminal_are_refused(text: str) -> None:
    with pytest.raises(CheckpointError, match="cannot be printed"):
        fields({"t": text}, {"t": str}, "it")
    with pytest.raises(CheckpointError, match="cannot be printed"):
        mapping({text: 1}, "it")


def test_one_of_several_kinds() -> None:
    kinds = {"n": (int, type(None))}
    assert fields({"n": None}, kinds, "it") == {"n": None}
    assert fields({"n": 3}, kinds, "it") == {"n": 3}


@pytest.mark.parametrize("value", [None, 3, {}, [1.0], [True], [-1], ["1"], [None]])
def test_only_whole_numbers_from_0_are_whole_numbers(value: Any) -> None:
    assert whole_numbers([0, 5], "it") == (0, 5)
    with pytest.raises(CheckpointError, match="whole numbers from 0"):
        whole_numbers(value, "it")
