"""The field by its definition, sharing by the second implementation and by exact counts."""

from __future__ import annotations

import json
import secrets
import sys
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unclone.errors import ParameterError
from unclone.machine.sharing import combine, inverse, multiply, split

sys.path.insert(0, str(Path(__file__).parent.parent.parent / "spec"))

import check_machine

SPEC = Path(__file__).parent.parent.parent / "spec"
CASES: list[dict[str, Any]] = json.loads((SPEC / "vectors" / "sharing.json").read_text())
ALL = np.arange(256, dtype=np.uint8)


def schoolbook(a: int, b: int) -> int:
    """Multiply as polynomials, then divide by the field's."""
    product = 0
    for bit in range(8):
        product ^= (a << bit) if b >> bit & 1 else 0
    for bit in range(14, 7, -1):
        product ^= (0x11B << (bit - 8)) if product >> bit & 1 else 0
    return product


def test_every_product() -> None:
    table = multiply(ALL[:, None], ALL[None])
    assert table.tolist() == [[schoolbook(a, b) for b in range(256)] for a in range(256)]
    assert table.tolist() == [[check_machine.multiply(a, b) for b in range(256)] for a in range(256)]
    assert table[0x57, 0x83] == 0xC1  # FIPS 197, section 4.2


def test_the_field_axioms_hold_everywhere() -> None:
    table = multiply(ALL[:, None], ALL[None])
    assert np.array_equal(table, table.T)
    assert np.array_equal(table[1], ALL)
    for a in range(0, 256, 5):  # (a b) c = a (b c), and a (b + c) = a b + a c, for all b, c
        assert np.array_equal(table[table[a]], table[a][table])
        assert np.array_equal(table[a][ALL[:, None] ^ ALL[None]], table[a][:, None] ^ table[a][None])


def test_every_inverse() -> None:
    assert np.array_equal(multiply(ALL, inverse(ALL)), [0] + [1] * 255)
    assert int(inverse(np.uint8(0x53))) == 0xCA


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['need']}-of-{len(case['shares'])}")
def test_vectors(case: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = iter(bytes.fromhex(row) for row in case["coefficients"])
    monkeypatch.setattr(secrets, "token_bytes", lambda count: next(drawn))
    secret, shares = bytes.fromhex(case["secret"]), {int(x): bytes.fromhex(s) for x, s in case["shares"].items()}
    assert [bytes(share) for share in split(secret, case["need"], list(shares))] == list(shares.values())
    for chosen in list(combinations(shares, case["need"]))[:20]:
        assert combine({x: shares[x] for x in chosen}) == secret


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_any_group_of_enough_and_more_gives_the_secret(data: st.DataObject) -> None:
    secret = data.draw(st.binary(min_size=1, max_size=40))
    indices = data.draw(st.lists(st.integers(1, 255), min_size=1, max_size=12, unique=True))
    need = data.draw(st.integers(1, len(indices)))
    shares = dict(zip(indices, split(secret, need, indices), strict=True))
    group = data.draw(st.permutations(indices))[: data.draw(st.integers(need, len(indices)))]
    picked = {x: bytes(shares[x]) for x in group}
    assert combine(picked) == check_machine.combine(picked) == secret


def test_one_share_less_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    # Exact: over all coefficients of a polynomial, every secret gives every pair of shares equally often.
    for secret in (0, 1, 0x80, 0xFF):
        seen = {bytes(_with(monkeypatch, secret, [c])[0]) for c in range(256)}
        assert len(seen) == 256  # 2 of n: one share
    rows = np.array(list(product(range(256), repeat=2)), dtype=np.uint8).T
    for secret in (0, 0xA5):  # 3 of n: two shares, all 65,536 polynomials at once, one in each byte
        drawn = iter(rows)
        monkeypatch.setattr(secrets, "token_bytes", lambda count, drawn=drawn: next(drawn).tobytes())
        pair = split(bytes([secret]) * 65536, 3, [7, 200, 3])[:2]
        values = np.frombuffer(pair[0], np.uint8).astype(int) * 256 + np.frombuffer(pair[1], np.uint8)
        assert np.array_equal(np.sort(values), np.arange(65536))


def _with(monkeypatch: pytest.MonkeyPatch, secret: int, coefficients: list[int]) -> list[bytearray]:
    drawn = iter(coefficients)
    monkeypatch.setattr(secrets, "token_bytes", lambda count: bytes([next(drawn)]) * count)
    return split(bytes([secret]), len(coefficients) + 1, [9, 11, 12])


def test_every_byte_and_every_call_draws_afresh() -> None:
    first, second = (split(bytes(64), 2, [1, 2]) for _ in range(2))
    assert first[0] != second[0]
    assert len(set(first[0])) > 30  # equal bytes of the secret do not give equal bytes of a share


@pytest.mark.parametrize(
    ("secret", "need", "indices"),
    [
        (b"x", 0, [1]),
        (b"x", 3, [1, 2]),
        (b"x", 1, []),
        (b"x", 1, [0]),
        (b"x", 1, [256]),
        (b"x", 1, [1, 1]),
        (b"", 1, [1]),
    ],
)
def test_bad_arguments_of_split(secret: bytes, need: int, indices: list[int]) -> None:
    with pytest.raises(ParameterError):
        split(secret, need, indices)


@pytest.mark.parametrize("shares", [{}, {0: b"a"}, {1: b"a", 2: b"ab"}, {256: b"a"}])
def test_bad_shares(shares: dict[int, bytes]) -> None:
    with pytest.raises(ParameterError):
        combine(shares)
