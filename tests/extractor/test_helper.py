"""Hostile helper data: refused by name, or harmless; never a crash, never a large allocation."""

import contextlib
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unclone import canonical, extractor
from unclone.errors import RecordError
from unclone.records import HelperData


@pytest.fixture(scope="module")
def made():
    rng = np.random.default_rng(2)
    return {
        mode: extractor.generate(
            rng.integers(0, 2, (1, 8192), dtype=np.uint8), debias=mode, key_bits=64, error_rate=0.05
        )
        for mode in ("erasure", "pair-output", "none")
    }


@pytest.fixture(scope="module")
def reading():
    return np.random.default_rng(3).integers(0, 2, 8192, dtype=np.uint8)


def changed(helper, **fields):
    return HelperData(helper.scheme, {**helper.fields, **fields})


def without(helper, name):
    return HelperData(helper.scheme, {key: value for key, value in helper.fields.items() if key != name})


def flipped(text, bit):
    data = bytearray(canonical.b64decode(text))
    data[bit // 8] ^= 128 >> bit % 8
    return canonical.b64encode(bytes(data))


def test_unknown_scheme(made, reading):
    with pytest.raises(RecordError, match="code-offset-1"):
        extractor.reproduce(reading, HelperData("code-offset-2", made["erasure"].helper.fields))


@pytest.mark.parametrize("mode", ["erasure", "pair-output", "none"])
def test_every_field_is_required_and_no_other_is_taken(made, reading, mode):
    helper = made[mode].helper
    for name in helper.fields:
        with pytest.raises(RecordError):
            extractor.reproduce(reading, without(helper, name))
    with pytest.raises(RecordError, match="'extra'"):
        extractor.reproduce(reading, changed(helper, extra=1))


BAD = {
    "bits": [0, -1, 2**26 + 1, 2**60, True, "8192", None, 8192.0, [8192]],
    "distance": [-1, 0, 4097, 2**60, True, "1024", None],
    "debias": ["", "magic", None, 3, ["erasure"]],
    "levels": [
        [],
        [0],
        [0, 0],
        [1, 2],
        [0, 5, 5],
        [0, 9, 3],
        [0, 256],
        [0, True],
        [0, "1"],
        "01",
        None,
        list(range(9)),
    ],
    "classes": ["", "AAAA", "!!!!", None, 5, "A" * 10_000_000],
    "offset": ["", "AAAA", "====", None, ["AAAA"], "A" * 10_000_000],
    "code": [None, [], "polar", {}, {"name": "magic"}, {"name": "polar"}, {str(i): i for i in range(1000)}],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BAD.items() for value in values])
def test_bad_values_are_refused_by_name(made, reading, name, value):
    with pytest.raises(RecordError, match="helper data"):
        extractor.reproduce(reading, changed(made["erasure"].helper, **{name: value}))


def test_other_sizes_that_contradict_each_other(made, reading):
    helper = made["pair-output"].helper
    for fields in (
        {"retained": canonical.b64encode(bytes(len(canonical.b64decode(helper.fields["retained"]))))},
        {"retained": flipped(helper.fields["retained"], 3)},
        {"bits": 4096},
        {"debias": "none"},
        {"debias": "none", "distance": 0},
        {"levels": [0, 3, 9]},
    ):
        with pytest.raises(RecordError, match="helper data"):
            extractor.reproduce(reading, changed(helper, **fields))


def test_an_erased_symbol_has_no_offset(made, reading):
    helper = made["erasure"].helper
    classes = np.unpackbits(np.frombuffer(canonical.b64decode(helper.fields["classes"]), dtype=np.uint8))
    place = int(np.flatnonzero(classes == 0)[0])
    with pytest.raises(RecordError, match="erased symbol"):
        extractor.reproduce(reading, changed(helper, offset=flipped(helper.fields["offset"], place)))


@pytest.mark.parametrize(
    "code",
    [
        {"name": "polar", "n": 65536, "k": 1, "m": 16, "drop": "first", "info": "00" * 8191 + "01", "list": 1024},
        {"name": "repetition-reed-muller", "n": 65536, "k": 9, "m": 8, "repeat": 255, "blocks": 65536},
        {"name": "polar", "n": 2**40, "k": 1, "m": 40, "drop": "first", "info": "01", "list": 8},
    ],
)
def test_huge_codes_cost_no_memory(made, reading, code):
    tracemalloc.start()
    with pytest.raises(RecordError):
        extractor.reproduce(reading, changed(made["erasure"].helper, code=code))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 << 20


def test_a_huge_response_costs_no_memory(made, reading):
    tracemalloc.start()
    helper = changed(made["erasure"].helper, bits=1 << 26, distance=1024)
    with contextlib.suppress(RecordError):
        extractor.reproduce(reading, helper)
    with pytest.raises(RecordError):
        extractor.reproduce(reading, changed(made["none"].helper, bits=1 << 26))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 << 20


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(name=st.sampled_from([*BAD, "retained"]), value=json_values, mode=st.sampled_from(["erasure", "pair-output"]))
def test_fuzzed_fields_raise_nothing_else(made, reading, name, value, mode):
    try:
        candidates = extractor.reproduce(reading, changed(made[mode].helper, **{name: value}))
    except RecordError:
        return
    assert all(made[mode].secret != candidate for candidate in candidates)


@settings(max_examples=100, deadline=None)
@given(fields=st.dictionaries(st.sampled_from([*BAD, "retained", "x"]), json_values))
def test_fuzzed_records_raise_nothing_else(reading, fields):
    with pytest.raises(RecordError):
        extractor.reproduce(reading, HelperData("code-offset-1", fields))
