import numpy as np
import pytest

from unclone.errors import ParameterError
from unclone.extractor.soft import (
    cell_score,
    error_rate_between,
    estimate_error_rate,
    field_log_odds,
    skew_spread,
)


@pytest.mark.parametrize("rate", [0.02, 0.05, 0.15, 0.3])
def test_closed_form_of_the_error_rate_agrees_with_simulation(chip, rate, not_above):
    cells = 200_000
    a, b = chip(cells, rate, seed=3).read(2)
    differ = int((a != b).sum())
    assert not_above(differ, cells, rate)
    assert not_above(cells - differ, cells, 1 - rate)


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.4])
def test_spread_inverts_the_error_rate(rate):
    assert error_rate_between(skew_spread(rate), 1.0) == pytest.approx(rate, abs=1e-12)


def test_estimate_is_unbiased_and_its_bound_holds(chip, not_above):
    misses = 0
    estimates = []
    for seed in range(200):
        unit = chip(4096, 0.06, seed=seed)
        readings = unit.read(4)
        rate = estimate_error_rate(readings.sum(axis=0).astype(np.int64), 4)
        true = float((2 * _phi(unit.skew) * (1 - _phi(unit.skew))).mean())
        misses += rate.upper < true
        estimates.append(rate.estimate)
    assert np.mean(estimates) == pytest.approx(0.06, abs=0.001)
    assert not_above(misses, 200, 0.001)


def _phi(x):
    from scipy.stats import norm

    return norm.cdf(x)


def test_no_difference_seen_still_leaves_a_bound():
    rate = estimate_error_rate(np.full(1000, 3, dtype=np.int64), 3)
    assert rate.estimate == 0.0
    assert rate.upper == pytest.approx(np.log(1000) / 1000)


def test_one_reading_measures_no_error_rate():
    with pytest.raises(ParameterError, match="two readings"):
        estimate_error_rate(np.ones(10, dtype=np.int64), 1)


@pytest.mark.parametrize("rate", [0.05, 0.15, 0.25])
def test_one_reading_gives_the_log_odds_of_the_design_rate(rate):
    odds = field_log_odds(1, 0.04, rate)
    assert odds[1] == pytest.approx(np.log((1 - rate) / rate), rel=1e-3)


@pytest.mark.parametrize("readings", [1, 2, 3, 9, 16, 100])
def test_log_odds_are_antisymmetric_to_the_last_bit_and_rise(readings):
    odds = field_log_odds(readings, 0.05, 0.15)
    assert np.all(np.diff(odds) > 0)
    assert np.abs(odds + odds[::-1]).max() < 1e-12


def test_log_odds_predict_what_field_readings_do(chip, not_above):
    """Of the cells with the same count, the predicted share is 1 in the field, with the noise that was designed for."""
    unit = chip(400_000, 0.05, seed=5)
    counts = unit.read(5).sum(axis=0)
    spread = unit.spread
    noise = np.sqrt(spread**4 / (np.cos(np.pi * 0.15) ** 2 * (1 + spread**2)) - spread**2)
    field = unit.read(1, noise=noise)[0]
    predicted = 1 / (1 + np.exp(-field_log_odds(5, 0.05, 0.15)))
    for count in range(6):
        cells = counts == count
        ones = int(field[cells].sum())
        assert not_above(ones, int(cells.sum()), predicted[count] * 1.01 + 1e-3)
        assert not_above(int(cells.sum()) - ones, int(cells.sum()), (1 - predicted[count]) * 1.01 + 1e-3)


def test_scores_of_one_reading_are_plus_and_minus_one_and_more_readings_count_more():
    assert cell_score(np.array([0, 1]), 1).tolist() == [-1.0, 1.0]
    three = cell_score(np.array([0, 1, 2, 3]), 3)
    assert three[3] > 1.0
    assert three[3] < 3.0
    assert three == pytest.approx(-three[::-1])
