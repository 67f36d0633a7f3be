"""Specifications come from public helper data: whatever is not one must be refused, cheaply."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unclone.errors import ParameterError
from unclone.extractor.codes import PolarCode, RepetitionReedMuller, from_spec
from unclone.extractor.prediction import construct

CODES = [construct(100, 40, 4, 0.05)[0], construct(70, 50, 1, 0.02)[0], RepetitionReedMuller(4, 3, 5)]
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.integers(-2, 70),
    st.floats(),
    st.text(max_size=40),
    st.text("0123456789abcdef", max_size=64),
    st.lists(st.integers(0, 1), max_size=4),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)


@pytest.mark.parametrize("code", CODES)
def test_round_trip_through_json(code):
    spec = code.spec()
    assert all(type(value) in (int, str) for value in spec.values())
    again = from_spec(json.loads(json.dumps(spec)))
    assert again.spec() == spec
    bits = np.random.default_rng(0).integers(0, 2, (20, code.k), dtype=np.uint8)
    np.testing.assert_array_equal(again.encode(bits), code.encode(bits))


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(CODES), st.data())
def test_one_changed_value(code, data):
    spec = code.spec()
    key = data.draw(st.sampled_from(sorted(spec)))
    value = data.draw(VALUES)
    try:
        made = from_spec({**spec, key: value})
    except ParameterError:
        return
    assert made.spec() == {**spec, key: value}, "accepted means understood in full"


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from(["name", "n", "k", "m", "drop", "info", "list", "repeat", "blocks"]), VALUES))
def test_anything(spec):
    with pytest.raises(ParameterError):
        from_spec(spec)


@pytest.mark.parametrize("code", CODES)
def test_missing_and_surplus_keys(code):
    spec = code.spec()
    for key in spec:
        with pytest.raises(ParameterError):
            from_spec({name: value for name, value in spec.items() if name != key})
    with pytest.raises(ParameterError):
        from_spec({**spec, "more": 1})


@pytest.mark.parametrize(
    "change",
    [
        {"n": 1 << 40},
        {"m": 40},
        {"list": 1 << 30},
        {"m": 16, "n": 65536, "list": 1024, "info": "f" * 16384, "k": 65536},
        {"n": True},
        {"info": "zz" * 16},
        {"info": "FF" * 16},
        {"info": "0" * 32},
        {"info": b"00"},
        {"drop": 1},
    ],
)
def test_absurd_polar(change):
    with pytest.raises(ParameterError):
        from_spec({**CODES[0].spec(), **change})


@pytest.mark.parametrize("spec", [None, 1, "polar", [], {"name": "reed-solomon"}, {"name": ["polar"]}])
def test_not_a_specification(spec):
    with pytest.raises(ParameterError):
        from_spec(spec)


def test_short_codes_pad_their_mask():
    made = PolarCode([0, 0, 0, 1], 4)
    assert made.spec()["info"] == "10"
    with pytest.raises(ParameterError):
        from_spec({**made.spec(), "info": "18", "k": 2})
