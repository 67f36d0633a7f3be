import numpy as np
import pytest

from unclone.extractor.structure import find_copy, find_period, find_repetition, pair_distances


def iid(bits, seed, share=0.5):
    return (np.random.default_rng(seed).random(bits) < share).astype(np.uint8)


@pytest.mark.parametrize("period", [2, 8, 16, 24, 32, 64, 100])
def test_finds_the_period_of_a_balanced_lane_bias(period, lane_shares):
    shares = lane_shares(16384, period)
    response = (np.random.default_rng(2).random(16384) < shares).astype(np.uint8)
    found = find_period(response)
    assert period % found == 0
    assert found > 1
    assert np.array_equal(np.resize(shares[:found], period), shares[:period])


def test_finds_no_period_in_independent_cells():
    assert [find_period(iid(8192, seed, 0.5 + 0.05 * (seed % 5))) for seed in range(20)] == [1] * 20


@pytest.mark.parametrize("lag", [1024, 3000, 8192])
@pytest.mark.parametrize("inverted", [0, 1])
def test_finds_an_aliased_memory(lag, inverted):
    response = np.resize(iid(lag, 1), 16384)
    response[lag : 2 * lag] ^= inverted
    found = find_repetition(response)
    assert found is not None
    assert found.lag % lag == 0


def test_finds_a_copied_stretch_with_noise_anywhere():
    missed = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        response = iid(8192, seed, 0.5 + 0.1 * (seed % 3))
        start, to = int(rng.integers(0, 3000)), int(rng.integers(4000, 7600))
        response[to : to + 512] = response[start : start + 512] ^ (rng.random(512) < 0.05)
        found = find_copy(response)
        missed += found is None or found.lag != to - start
    assert missed <= 4


def test_independent_cells_are_no_copies(lane_shares):
    for seed in range(60):
        share = lane_shares(8192, 32, seed=seed) if seed % 2 else 0.5 + 0.04 * (seed % 7)
        response = (np.random.default_rng(seed).random(8192) < share).astype(np.uint8)
        period = find_period(response)
        assert find_copy(response, period) is None
        assert find_repetition(response, period) is None


def test_silicon_is_no_copy(scum, uno):
    for readings in scum.values():
        response = readings[0]
        assert find_repetition(response, find_period(response)) is None
        assert find_copy(response, find_period(response)) is None
    for readings in uno["reads"]:
        assert find_repetition(readings[-1]) is None
        assert find_copy(readings[-1]) is None


@pytest.mark.parametrize("bits", [64, 1000, 4096, 8192, 262144])
@pytest.mark.parametrize("period", [1, 3, 24, 64, 500])
def test_pair_distances_are_multiples_of_the_period_that_fit(bits, period):
    for distance in pair_distances(bits, period):
        assert distance % period == 0
        assert 2 * distance <= bits
