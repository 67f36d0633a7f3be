"""Spread over seeds, and exact bounds."""

from __future__ import annotations

import pytest
from scipy.stats import binom

from unclone.errors import ParameterError
from unclone.lab.statistics import binomial_bounds, compare


def test_an_attack_that_beats_its_baseline_in_every_seed_gains() -> None:
    outcome = compare([0.80, 0.81, 0.82], [0.60, 0.61, 0.62])
    assert outcome.gain == pytest.approx(0.2)
    assert outcome.spread == pytest.approx((0.01**2 + 0.01**2) ** 0.5)
    assert outcome.gains


def test_a_difference_within_the_spread_is_no_gain() -> None:
    assert not compare([0.60, 0.70, 0.65], [0.58, 0.68, 0.63]).gains


def test_the_spread_is_never_below_the_sampling_error_of_the_test_set() -> None:
    same = compare([0.52, 0.52], [0.50, 0.50], samples=100)
    assert same.spread == pytest.approx((0.52 * 0.48 / 100 + 0.5 * 0.5 / 100) ** 0.5)
    assert not same.gains
    assert compare([0.52, 0.52], [0.50, 0.50], samples=1_000_000).gains


def test_no_score_is_nothing_to_compare() -> None:
    with pytest.raises(ParameterError, match="no score"):
        compare([], [0.5])


@pytest.mark.parametrize(("hits", "trials"), [(0, 1000), (3, 50), (25, 25), (500, 1000)])
def test_bounds_leave_exactly_the_tails_outside(hits: int, trials: int) -> None:
    low, high = binomial_bounds(hits, trials)
    if hits:
        assert binom.sf(hits - 1, trials, low) == pytest.approx(0.025)
    if hits < trials:
        assert binom.cdf(hits, trials, high) == pytest.approx(0.025)
    assert low <= hits / trials <= high


def test_a_proportion_has_trials() -> None:
    with pytest.raises(ParameterError):
        binomial_bounds(0, 0)
    with pytest.raises(ParameterError):
        binomial_bounds(3, 2)
