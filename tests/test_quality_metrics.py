"""Figures of merit against their definitions, written out the slow way, and against known cases."""

from __future__ import annotations

from itertools import combinations
from math import comb, log2

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from unclone.errors import ParameterError
from unclone.puf.simulated import SimulatedSRAM
from unclone.quality import metrics
from unclone.quality.structure import autocorrelation, constant_block, phase_bias, repeated_block
from unclone.quality.tails import binomial_upper, chi_square_upper


def random_bits(seed: int, *shape: int, ones: float = 0.5) -> np.ndarray:
    return (np.random.default_rng(seed).random(shape) < ones).astype(np.uint8)


def differing(a: np.ndarray, b: np.ndarray) -> float:
    return sum(int(x) != int(y) for x, y in zip(a, b, strict=True)) / len(a)


@pytest.mark.parametrize("bits", [1, 7, 64, 100, 513])
@pytest.mark.parametrize("rows", [2, 3, 6])
def test_figures_are_their_definitions(rows: int, bits: int) -> None:
    data = random_bits(rows * 1000 + bits, rows, bits, ones=0.6)
    pairs = [differing(a, b) for a, b in combinations(data, 2)]
    assert metrics.intra_distances(data) == pytest.approx(pairs)
    assert metrics.inter_distances(data) == pytest.approx(pairs)
    assert metrics.bit_error_rate(data) == pytest.approx(np.mean(pairs))
    assert metrics.uniqueness(data) == pytest.approx(np.mean(pairs))
    # Hori's form: bits that differ, over all pairs, times 4 / (N^2 L).
    assert metrics.uniqueness_hori(data) == pytest.approx(4 * sum(pairs) / rows**2)
    shares = [sum(map(int, column)) / rows for column in data.T]
    assert metrics.bit_aliasing(data) == pytest.approx(shares)
    assert metrics.steadiness(data) == pytest.approx(1 + np.mean([log2(max(p, 1 - p)) for p in shares]))
    assert metrics.alias_entropy(data) == pytest.approx(np.mean([-log2(max(p, 1 - p)) for p in shares]))
    reference = [int(p > 0.5) for p in shares]
    assert metrics.reference_of(data).tolist() == reference
    wrong = np.mean([differing(row, np.array(reference)) for row in data])
    assert metrics.correctness(data) == pytest.approx(1 - 2 * wrong)
    share = data.mean()
    assert metrics.randomness(data) == pytest.approx(-log2(max(share, 1 - share)))
    assert metrics.uniformity(data) == pytest.approx([row.mean() for row in data])


@pytest.mark.parametrize("rows", [2, 3, 4, 7])
def test_leave_one_out_is_the_majority_of_the_others(rows: int) -> None:
    data = random_bits(rows, rows, 200)
    for i, distance in enumerate(metrics.leave_one_out(data)):
        share = np.delete(data, i, axis=0).mean(axis=0)
        expected = np.where(share == 0.5, 0.5, (share > 0.5) != data[i]).mean()
        assert distance == pytest.approx(expected)
    assert metrics.reliability(data) == pytest.approx(1 - metrics.leave_one_out(data).mean())


def test_diffuseness_is_the_distance_of_words() -> None:
    response = random_bits(1, 1000)
    words = response[:896].reshape(7, 128)
    total = sum(int((a != b).sum()) for a, b in combinations(words, 2))
    assert metrics.diffuseness(response) == pytest.approx(4 * total / (7**2 * 128))
    assert metrics.diffuseness(response[:255]) is None


def test_extremes() -> None:
    same = np.tile(random_bits(1, 256), (5, 1))
    assert metrics.bit_error_rate(same) == 0
    assert metrics.steadiness(same) == metrics.correctness(same) == metrics.reliability(same) == 1
    opposite = np.stack([same[0], same[0] ^ 1])
    assert metrics.uniqueness(opposite) == 1
    assert metrics.randomness(np.ones((1, 8), dtype=np.uint8)) == 0


@pytest.mark.parametrize("devices", [2, 3, 10, 101])
def test_alias_entropy_of_fair_cells(devices: int) -> None:
    exact = -sum(comb(devices, k) / 2**devices * log2(max(k, devices - k) / devices) for k in range(devices + 1))
    assert metrics.alias_entropy_fair(devices) == pytest.approx(exact)


def test_the_figures_of_a_simulated_fleet_are_the_models() -> None:
    fleet = np.stack([SimulatedSRAM(seed, bits=8192, bias=0.6, noise_seed=1).evaluate() for seed in range(40)])
    # 780 pairs are not independent, but each device's cells are: the mean lies well within the spread of one pair.
    assert metrics.uniqueness(fleet) == pytest.approx(2 * 0.6 * 0.4, abs=0.01)
    readings = SimulatedSRAM(1, bits=65536, noise_seed=1)
    assert metrics.bit_error_rate(np.stack([readings.evaluate() for _ in range(9)])) == pytest.approx(0.06, abs=0.003)


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros(8, dtype=np.uint8),
        np.zeros((1, 8), dtype=np.int64),
        np.full((2, 8), 2, dtype=np.uint8),
        np.zeros((2, 0), dtype=np.uint8),
        np.zeros((0, 8), dtype=np.uint8),
    ],
)
def test_other_arrays_are_refused(bad: np.ndarray) -> None:
    for figure in (metrics.uniformity, metrics.reference_of, metrics.randomness):
        with pytest.raises(ParameterError):
            figure(bad)
    with pytest.raises(ParameterError, match="cannot be compared"):
        metrics.distances(random_bits(1, 2, 8), random_bits(1, 2, 9))
    with pytest.raises(ParameterError, match="2 or more"):
        metrics.bit_error_rate(random_bits(1, 1, 8))


@settings(deadline=None)
@given(trials=st.integers(1, 100_000), part=st.floats(0, 1), probability=st.floats(1e-6, 1 - 1e-6))
def test_binomial_tail_is_scipys(trials: int, part: float, probability: float) -> None:
    count = round(part * trials)
    expected = stats.binom.logsf(count - 1, trials, probability)
    if np.isfinite(expected) and expected > -600:
        assert binomial_upper(count, trials, probability) == pytest.approx(expected, rel=1e-6, abs=1e-6)


@settings(deadline=None)
@given(statistic=st.floats(0.01, 3000), freedom=st.integers(1, 600))
def test_chi_square_tail_is_scipys(statistic: float, freedom: int) -> None:
    expected = stats.chi2.logsf(statistic, freedom)
    if expected > -600:
        assert chi_square_upper(statistic, freedom) == pytest.approx(expected, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("period", [2, 3, 8, 16, 32, 64, 257, 512])
def test_a_periodic_bias_is_found_with_its_period(period: int) -> None:
    shares = np.random.default_rng(period).permutation(np.linspace(0.2, 0.8, period))
    response = (np.random.default_rng(1).random(1 << 16) < np.resize(shares, 1 << 16)).astype(np.uint8)
    found = phase_bias(response)
    assert found.period == period
    assert found.log_probability < np.log(1e-9)
    assert np.abs(np.array(found.shares) - shares).max() < 6 * np.sqrt(0.25 * period / (1 << 16))


def test_no_structure_is_found_in_independent_cells() -> None:
    """At 1e-9 a search, none of 4 searches in 200 responses goes off: one would have a chance below 1e-6."""
    for seed in range(200):
        ones = (0.5, 0.35, 0.7, 0.9)[seed % 4]
        response = random_bits(seed, (512, 1000, 4096, 16384)[seed // 4 % 4], ones=ones)
        assert phase_bias(response).period == 1
        assert constant_block(response) is None
        assert repeated_block(response) is None
        coefficients, limit = autocorrelation(response)
        assert np.abs(coefficients).max() < limit


def test_no_blocks_are_found_in_lane_biased_cells() -> None:
    for seed in range(60):
        period = (8, 16, 32)[seed % 3]
        shares = np.resize(np.repeat([0.9, 0.1], period // 2), 16384)
        response = (np.random.default_rng(seed).random(16384) < shares).astype(np.uint8)
        assert phase_bias(response).period == period
        assert constant_block(response, period) is None
        assert repeated_block(response, period) is None
        coefficients, limit = autocorrelation(response, period)
        assert np.abs(coefficients).max() < limit


@pytest.mark.parametrize("length", [80, 128, 1024, 8000])
def test_blocks_are_found_where_they_are(length: int) -> None:
    response = random_bits(length, 16384)
    constant = response.copy()
    constant[100 : 100 + length] = 1
    found = constant_block(constant)
    assert found is not None
    assert found.start <= 100
    assert found.start + found.length >= 100 + length
    assert found.length <= length + 40
    twice = response.copy()
    twice[8192 : 8192 + length] = response[37 : 37 + length]
    copied = repeated_block(twice)
    assert copied is not None
    assert copied.lag == 8192 - 37
    assert copied.start <= 8192
    assert copied.length >= length


def test_autocorrelation_is_the_textbooks() -> None:
    response = random_bits(4, 300)
    centred = response - response.mean()
    expected = [(centred[lag:] * centred[:-lag]).sum() / (centred**2).sum() for lag in range(1, 300)]
    assert autocorrelation(response)[0] == pytest.approx(expected)
    coefficients, _ = autocorrelation(np.resize(np.array([0, 1], dtype=np.uint8), 64), 2)
    assert not coefficients.any()
