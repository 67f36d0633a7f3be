"""Every scheme gives the exact weights back, changes what the pirate reads, and leaves its input alone."""

from __future__ import annotations

import numpy as np
import pytest

from unclone.lab.contracts import Scheme, Weights
from unclone.lab.schemes import SCHEMES


def _weights() -> Weights:
    rng = np.random.default_rng(7)
    return {
        "a.weight": rng.normal(0, 0.1, (48, 64)).astype(np.float32),
        "a.bias": rng.normal(0, 0.1, 48).astype(np.float32),
        "b.weight": rng.normal(0, 0.1, (10, 48)).astype(np.float32),
    }


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=list(SCHEMES))
def test_unlocking_is_exact(scheme: Scheme) -> None:
    weights, before = _weights(), _weights()
    locked = scheme.lock(weights, 3)
    again = scheme.unlock(locked)
    assert all(again[name].tobytes() == before[name].tobytes() for name in before)
    assert all(weights[name].tobytes() == before[name].tobytes() for name in before)
    assert any(locked.weights[name].tobytes() != before[name].tobytes() for name in before)
    assert {name: (v.shape, v.dtype) for name, v in again.items()} == {
        name: (v.shape, v.dtype) for name, v in before.items()
    }


def test_public_patterns_cover_every_change() -> None:
    for name in ("unclone", "unclone-all"):
        weights = _weights()
        locked = SCHEMES[name].lock(weights, 4)
        for tensor, value in weights.items():
            changed = value.view(np.uint32) ^ locked.weights[tensor].view(np.uint32)
            pattern = locked.info["patterns"][tensor]
            assert not np.any(changed & np.uint32(~pattern & 0xFFFFFFFF))
            assert np.bitwise_or.reduce(changed, axis=None) == pattern
