"""Repetition with Reed-Muller against brute force and its failure bound."""

import itertools

import numpy as np
import pytest

from unclone.errors import ParameterError
from unclone.extractor.codes import RepetitionReedMuller, from_spec


def test_decodes_to_the_likeliest_word():
    code = RepetitionReedMuller(3, 2, 2)
    rng = np.random.default_rng(0)
    llr = (0.8 + rng.normal(size=(60, code.n))).astype(np.float32)
    found = code.decode(llr)
    assert found.shape == (60, 1, code.k)
    every = code.encode(np.array(list(itertools.product((0, 1), repeat=code.k)), dtype=np.uint8))
    best = (llr @ (1 - 2 * every.T.astype(np.float32))).max(axis=1)
    reached = (llr * (1 - 2 * code.encode(found[:, 0]).astype(np.float32))).sum(axis=1)
    np.testing.assert_allclose(reached, best, rtol=1e-5)


def test_normative_vector():
    code = RepetitionReedMuller(2, 2, 2)
    words = code.encode(np.eye(6, dtype=np.uint8))
    np.testing.assert_array_equal(words[0], [1] * 8 + [0] * 8)
    np.testing.assert_array_equal(words[1], [0, 0, 1, 1, 0, 0, 1, 1] + [0] * 8)
    np.testing.assert_array_equal(words[5], [0] * 8 + [0, 0, 0, 0, 1, 1, 1, 1])
    assert code.spec() == {"name": "repetition-reed-muller", "n": 16, "k": 6, "m": 2, "repeat": 2, "blocks": 2}


def test_linear():
    code = from_spec(RepetitionReedMuller(5, 3, 4).spec())
    a, b = np.random.default_rng(1).integers(0, 2, (2, 50, code.k), dtype=np.uint8)
    np.testing.assert_array_equal(code.encode(a ^ b), code.encode(a) ^ code.encode(b))


def test_failure_bound_holds_and_is_near():
    code = RepetitionReedMuller(5, 3, 4)
    rng = np.random.default_rng(2)
    words = 20000
    sent = rng.integers(0, 2, (words, code.k), dtype=np.uint8)  # not all zero: ties go to the first word
    llr = 1 - 2 * (code.encode(sent) ^ (rng.random((words, code.n)) < 0.25)).astype(np.float32)
    failed = (code.decode(llr)[:, 0] != sent).any(axis=1).mean()
    bound = code.failure_bound(0.25)
    assert 0.005 < failed <= bound < 4 * failed
    assert code.failure_bound(0.1) < code.failure_bound(0.2) < bound
    assert RepetitionReedMuller(9, 4, 2).failure_bound(0.01) < 1e-100


@pytest.mark.parametrize("sizes", [(0, 1, 1), (11, 1, 1), (5, 0, 1), (5, 256, 1), (5, 1, 0), (10, 200, 60)])
def test_refuses_sizes(sizes):
    with pytest.raises(ParameterError):
        RepetitionReedMuller(*sizes)
