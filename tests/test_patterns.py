"""The ``finite`` patterns: the rule of the specification, and every value that a masked word can take.

A masked word is ``word XOR (any bits AND pattern)``, so its possible exponent fields follow from the word and the
pattern alone; for words of 8 and 16 bits the tests go through all of them.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unclone.errors import UnsupportedError
from unclone.patterns import FLOATS, INTEGERS, FloatKind, finite_pattern

Words = np.ndarray[Any, np.dtype[Any]]
NUMPY = {
    "float64": np.dtype("<f8"),
    "float32": np.dtype("<f4"),
    "float16": np.dtype("<f2"),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float8_e4m3fn": np.dtype(ml_dtypes.float8_e4m3fn),
    "float8_e5m2": np.dtype(ml_dtypes.float8_e5m2),
}
SMALL = ["float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"]


def words_of(values: Any, dtype: str) -> Words:
    return np.asarray(values, dtype=NUMPY[dtype]).view(f"<u{NUMPY[dtype].itemsize}").reshape(-1)


def pattern_of(dtype: str, words: Words, blocks: int = 1) -> int:
    kind = FLOATS[dtype]
    data = words.astype(f"<u{kind.nbytes}").view(np.uint8)
    step = max(kind.nbytes, -(-len(data) // blocks // kind.nbytes) * kind.nbytes)
    parts = [data[start : start + step] for start in range(0, len(data), step)]
    made = finite_pattern(dtype, parts)
    assert len(made) == kind.nbytes
    return int.from_bytes(made, "little")


def exponents(words: Words, kind: FloatKind) -> Words:
    return (words.astype(np.uint64) >> np.uint64(kind.mantissa)) & np.uint64((1 << kind.exponent) - 1)


def rule(kind: FloatKind, words: Words) -> int:
    """Section 5 of bound-model.md, word for word."""
    fields = [int(field) for field in exponents(words, kind)]
    finite = [field for field in fields if field < 2**kind.exponent - 1]
    top = max(finite, default=0)
    limit = min(max(kind.bias, top + 3), 2**kind.exponent - 2)
    lowest = max(j for j in range(min(kind.exponent, 5) + 1) if top | (2**j - 1) <= limit)
    sign = 8 * kind.nbytes - 1
    pattern = (1 << kind.mantissa) - 1 | ((1 << lowest) - 1) << kind.mantissa
    return pattern | (1 << sign if any(int(word) >> sign for word in words) else 0)


def word_lists(dtype: str) -> st.SearchStrategy[Words]:
    kind = FLOATS[dtype]
    every = st.integers(0, 2 ** (8 * kind.nbytes) - 1)
    # Weights as they come: moderate exponents, now and then only positive.
    usual = st.builds(
        lambda field, mantissa, sign: sign << (8 * kind.nbytes - 1) | field << kind.mantissa | mantissa,
        st.integers(max(0, kind.bias - 12), kind.bias),
        st.integers(0, (1 << kind.mantissa) - 1),
        st.integers(0, 1),
    )
    positive = every.map(lambda word: word & (1 << (8 * kind.nbytes - 1)) - 1)
    lists = st.one_of(st.lists(items, max_size=9) for items in (every, usual, positive))
    return lists.map(lambda words: np.array(words, dtype=f"<u{kind.nbytes}"))


@pytest.mark.parametrize("dtype", sorted(FLOATS))
@given(st.data(), st.integers(1, 4))
@settings(max_examples=150, deadline=None)
def test_the_rule_of_the_specification(dtype: str, data: st.DataObject, blocks: int) -> None:
    words = data.draw(word_lists(dtype))
    assert pattern_of(dtype, words, blocks) == rule(FLOATS[dtype], words)


@pytest.mark.parametrize("dtype", sorted(FLOATS))
@given(st.data())
@settings(max_examples=150, deadline=None)
def test_masked_finite_words_stay_finite_and_within_the_bound(dtype: str, data: st.DataObject) -> None:
    kind, words = FLOATS[dtype], data.draw(word_lists(dtype))
    pattern = pattern_of(dtype, words)
    fields = [int(field) for field in exponents(words, kind)]
    finite = [field for field in fields if field < 2**kind.exponent - 1]
    free = pattern >> kind.mantissa & ((1 << kind.exponent) - 1)
    for field in finite:
        largest = field | free
        assert largest < 2**kind.exponent - 1, "no infinity and no NaN"
        assert largest <= max(kind.bias, max(finite) + 3), "below 2, or below sixteen times the largest"


@pytest.mark.parametrize("dtype", SMALL)
def test_every_word_under_every_keystream(dtype: str) -> None:
    """All words of a tensor whose largest has exponent field ``top``, against all masks of the pattern."""
    kind, real = FLOATS[dtype], NUMPY[dtype]
    everything = np.arange(2 ** (8 * kind.nbytes), dtype=f"<u{kind.nbytes}")
    fields = exponents(everything, kind)
    for top in range(2**kind.exponent - 1):
        words = everything[fields <= top]
        pattern = np.array(pattern_of(dtype, words), dtype=words.dtype)
        # The words a masked word can become: the clear bits stay, the others are free.
        kept = np.unique(words & ~pattern)
        largest = kept | (pattern & np.array((1 << (8 * kind.nbytes - 1)) - 1, dtype=words.dtype))
        values = np.abs(largest.view(real).astype(np.float64))
        assert np.isfinite(values).all()
        bound = max(2.0, 16 * 2.0 ** (top - kind.bias) if top else 2.0)
        assert values.max() < bound
        if len(kept) * 2 ** int(pattern).bit_count() <= 2**20:
            spread = everything[everything & ~pattern == 0]
            reached = (kept[:, None] ^ spread[None, :]).view(real).astype(np.float64)
            assert np.isfinite(reached).all()


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_random_weights_under_random_keystreams(dtype: str) -> None:
    rng, real = np.random.default_rng(5), NUMPY[dtype]
    for scale in (1e-30, 1e-3, 0.3, 1.0, 3.0, 1e4, 1e30):
        values = (rng.normal(0, scale, 20_000)).astype(real)
        words = words_of(values, dtype)
        pattern = np.array(pattern_of(dtype, words), dtype=words.dtype)
        stream = np.frombuffer(rng.bytes(words.nbytes), dtype=words.dtype)
        masked = (words ^ (stream & pattern)).view(real).astype(np.float64)
        assert np.isfinite(masked).all()
        largest = 2.0 ** np.floor(np.log2(np.abs(values.astype(np.float64)).max()))
        assert np.abs(masked).max() < max(2.0, 16 * largest)
        # The signs are a fair coin: with 20,000 words, 600 off the middle is more than eight standard deviations.
        assert abs(int((masked < 0).sum()) - 10_000) < 600


@pytest.mark.parametrize("dtype", sorted(FLOATS))
def test_the_sign_is_masked_unless_no_word_has_it(dtype: str) -> None:
    kind = FLOATS[dtype]
    one, sign = kind.bias << kind.mantissa, 1 << (8 * kind.nbytes - 1)
    words = np.array([one, 0], dtype=f"<u{kind.nbytes}")
    assert not pattern_of(dtype, words) & sign
    for negative in (one | sign, sign, (1 << kind.exponent) - 1 << kind.mantissa | sign):
        assert pattern_of(dtype, np.array([one, negative, 0], dtype=words.dtype), blocks=3) & sign


@pytest.mark.parametrize("dtype", sorted(FLOATS))
def test_infinities_and_nans_do_not_count(dtype: str) -> None:
    kind = FLOATS[dtype]
    special = ((1 << kind.exponent) - 1) << kind.mantissa
    usual = [kind.bias << kind.mantissa, (kind.bias - 1) << kind.mantissa | 1]
    kinds = f"<u{kind.nbytes}"
    plain = pattern_of(dtype, np.array(usual, dtype=kinds))
    assert pattern_of(dtype, np.array([*usual, special, special | 1], dtype=kinds)) == plain
    assert pattern_of(dtype, np.array([special | 1], dtype=kinds)) == pattern_of(dtype, np.array([0], dtype=kinds))


def test_known_patterns() -> None:
    assert pattern_of("float32", words_of([0.5, -0.25], "float32")) == 0x8FFFFFFF
    assert pattern_of("float32", words_of([0.0], "float32")) == 0x0FFFFFFF
    assert pattern_of("float32", words_of([1.0], "float32")) == 0x0FFFFFFF
    assert pattern_of("float32", words_of([-2.0, 3.0], "float32")) == 0x81FFFFFF
    assert pattern_of("bfloat16", words_of([1e38], "bfloat16")) == 0x00FF
    assert pattern_of("float16", words_of([65504.0], "float16")) == 0x03FF
    assert finite_pattern("float32", []) == b"\xff\xff\xff\x0f"


@pytest.mark.parametrize("dtype", sorted(INTEGERS))
def test_integers_are_masked_whole(dtype: str) -> None:
    assert finite_pattern(dtype, [np.zeros(8, dtype=np.uint8)]) == b"\xff"


def test_unknown_dtype() -> None:
    with pytest.raises(UnsupportedError, match="float128"):
        finite_pattern("float128", [])
