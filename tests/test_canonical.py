"""Canonical JSON: one spelling for one value, beside a second encoder that shares no code."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from unclone import canonical
from unclone.canonical import CanonicalError

sys.path.insert(0, str(Path(__file__).parent.parent / "spec"))

import canonical_json

LARGEST = 2**53 - 1
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
NAMES = st.text(st.characters(max_codepoint=127), max_size=6)
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(-LARGEST, LARGEST), TEXT)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4), max_leaves=20
)


def nested(levels: int) -> Any:
    value: Any = []
    for _ in range(levels - 1):
        value = [value]
    return value


@given(VALUES)
def test_the_two_encoders_agree_and_decode_inverts(value: Any) -> None:
    text = canonical.encode(value)
    assert text.decode("ascii") == canonical_json.encode(value)
    assert canonical.decode(text) == value
    assert canonical_json.decode(text) == value
    assert json.loads(text) == value


@given(VALUES, st.data())
def test_every_other_spelling_of_a_value_is_refused(value: Any, data: st.DataObject) -> None:
    text = canonical.encode(value)
    position = data.draw(st.integers(0, len(text)))
    inserted = data.draw(st.sampled_from([b" ", b"\n", b"\t"]))
    altered = text[:position] + inserted + text[position:]
    try:
        read = canonical.decode(altered)
    except CanonicalError:
        return
    # A blank inside a string makes another value, whose one spelling this is.
    assert inserted == b" "
    assert read != value


@given(st.binary(max_size=40))
def test_random_bytes_only_ever_raise_canonical_error(data: bytes) -> None:
    try:
        value = canonical.decode(data)
    except CanonicalError:
        return
    assert canonical.encode(value) == data


@given(st.text(st.sampled_from('{}[]",:0123456789-.eE+ \\untrfalsbN\ud800é'), max_size=30))
def test_random_json_like_text_agrees_with_the_second_reader(text: str) -> None:
    data = text.encode("utf-8", "surrogatepass")

    def read(module: Any, error: type[Exception]) -> Any:
        try:
            return module.decode(data)
        except error:
            return error.__name__

    ours, theirs = read(canonical, CanonicalError), read(canonical_json, canonical_json.NotCanonical)
    assert ours == theirs or (ours, theirs) == ("CanonicalError", "NotCanonical")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"b": 1, "a": [True, None]}, '{"a":[true,null],"b":1}'),
        ("\x7f", r'"\u007f"'),
        ('\b\t\n\f\r"\\/', r'"\b\t\n\f\r\"\\/"'),
        ("\x00\x1f", r'"\u0000\u001f"'),
        ("Ü€\U0001f916", r'"\u00dc\u20ac\ud83e\udd16"'),
        ({"A": 0, "_": 0, "a": 0, "": 0}, '{"":0,"A":0,"_":0,"a":0}'),
        (-LARGEST, "-9007199254740991"),
    ],
)
def test_known_spellings(value: Any, text: str) -> None:
    assert canonical.encode(value) == text.encode()
    assert canonical_json.encode(value) == text


@pytest.mark.parametrize(
    "value",
    [
        1.0,
        float("nan"),
        LARGEST + 1,
        -LARGEST - 1,
        b"x",
        {1: 2},
        {"é": 1},
        "\ud800",
        ["\udfff"],
        {"a": {1}},
        nested(17),
    ],
)
def test_values_without_a_canonical_form(value: Any) -> None:
    with pytest.raises(CanonicalError):
        canonical.encode(value)


def test_sixteen_levels_are_enough_and_the_limit() -> None:
    assert canonical.decode(canonical.encode(nested(16))) == nested(16)
    with pytest.raises(CanonicalError):
        canonical.decode(json.dumps(nested(17)).encode())
    with pytest.raises(CanonicalError):
        canonical.decode(b"[" * 100_000)


@pytest.mark.parametrize(
    "text",
    [
        b"", b" ", b"1.0", b"1e0", b"-0", b"01", b"NaN", b"Infinity", b'{"a":1,"a":1}', b'{"b":1,"a":1}', b'"\\u0041"',
        b'"\\/"', b'"\\u00DC"', b'"\xc3\x9c"', b'"\\ud800"', b"\xef\xbb\xbf1", b"1 ", b"[1,]", b'"', b"9" * 5000,
    ],
)  # fmt: skip
def test_other_spellings_are_refused(text: bytes) -> None:
    with pytest.raises(CanonicalError):
        canonical.decode(text)
    with pytest.raises(canonical_json.NotCanonical):
        canonical_json.decode(text)


@given(st.binary(max_size=80))
def test_base64_round_trip(data: bytes) -> None:
    assert canonical.b64decode(canonical.b64encode(data)) == data


@given(st.text(st.sampled_from("AQgw/+=-_ \n0é"), max_size=9))
def test_base64_has_one_spelling(text: str) -> None:
    try:
        data = canonical.b64decode(text)
    except CanonicalError:
        return
    assert canonical.b64encode(data) == text


@pytest.mark.parametrize("text", [None, 1, b"AAAA", "AAA", "AAB=", "AA==\n", "A-_A", "AA=A", "====", "ÄAAA"])
def test_base64_refused(text: Any) -> None:
    with pytest.raises(CanonicalError):
        canonical.b64decode(text)


@given(SCALARS, SCALARS)
def test_different_values_have_different_texts(one: Any, other: Any) -> None:
    assume(one != other or type(one) is not type(other))
    assert canonical.encode(one) != canonical.encode(other)
