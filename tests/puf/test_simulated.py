"""The simulated SRAM behaves as its model says."""

from __future__ import annotations

import time
from statistics import NormalDist

import numpy as np
import pytest
from scipy import stats

from unclone.errors import ParameterError, SourceError
from unclone.puf import PUF, open_source
from unclone.puf.simulated import SimulatedSRAM, noise_for

BITS = 65536


def read(source: PUF, count: int) -> np.ndarray:
    return np.stack([source.evaluate() for _ in range(count)])


def inside(successes: int, trials: int, probability: float) -> bool:
    """Neither tail of the binomial distribution is below 1e-9."""
    low, high = stats.binom.cdf(successes, trials, probability), stats.binom.sf(successes - 1, trials, probability)
    return min(low, high) > 1e-9


@pytest.mark.parametrize("bias", [0.3, 0.5, 0.65])
@pytest.mark.parametrize("ber", [0.02, 0.06, 0.15, 0.25])
def test_error_rate_and_bias_are_as_asked_for(ber: float, bias: float) -> None:
    one, two = read(SimulatedSRAM(1, bits=BITS, ber=ber, bias=bias, noise_seed=1), 2)
    # Cells are independent, so whether a cell differs is one draw of probability ber.
    assert inside(int((one != two).sum()), BITS, ber)
    assert inside(int(one.sum()), BITS, bias)


def test_errors_are_heterogeneous_as_in_the_model() -> None:
    """The share of cells with k ones of N follows the integral over the hidden skew (Maes 2013, equation 4)."""
    count, sigma = 15, noise_for(0.06, 0.5)
    ones = read(SimulatedSRAM(3, bits=BITS, noise_seed=2), count).sum(axis=0)
    skew = stats.norm.ppf((np.arange(20_000) + 0.5) / 20_000)
    expected = stats.binom.pmf(np.arange(count + 1)[:, None], count, stats.norm.cdf(skew / sigma)).mean(axis=1)
    observed = np.bincount(ones, minlength=count + 1)
    statistic = ((observed - BITS * expected) ** 2 / (BITS * expected)).sum()
    assert stats.chi2.sf(statistic, count) > 1e-6


def test_error_rate_of_the_model_in_closed_form() -> None:
    """E[2 p (1 - p)] = arctan(sigma sqrt(sigma^2 + 2)) / pi for no bias (orthant probability of two readings)."""
    sigma = noise_for(0.1, 0.5)
    correlation = 1 / (1 + sigma**2)
    assert np.arccos(correlation) / np.pi == pytest.approx(0.1, abs=2e-4)


def test_the_same_seed_is_the_same_chip_and_another_is_not() -> None:
    one, again, other = (SimulatedSRAM(seed, bits=BITS).evaluate() for seed in (1, 1, 2))
    assert inside(int((one != again).sum()), BITS, 0.06)
    assert inside(int((one != other).sum()), BITS, 0.5)


def test_readings_are_fresh_unless_their_noise_is_seeded() -> None:
    chips = [SimulatedSRAM(1, noise_seed=seed) for seed in (5, 5, 6)]
    first = [read(chip, 2) for chip in chips]
    assert np.array_equal(first[0], first[1])
    assert not np.array_equal(first[0], first[2])
    assert not np.array_equal(first[0][0], first[0][1])
    assert not np.array_equal(SimulatedSRAM(1).evaluate(), SimulatedSRAM(1).evaluate())


def test_lanes_are_biased_and_the_whole_is_balanced() -> None:
    response = SimulatedSRAM(1, bits=BITS, lanes=8, lane_bias=0.3, noise_seed=1).evaluate()
    lanes = response.reshape(-1, 8).sum(axis=0)
    assert all(inside(int(ones), BITS // 8, 0.8 if lane % 2 == 0 else 0.2) for lane, ones in enumerate(lanes.tolist()))


@pytest.mark.parametrize("change", [{"temperature": -25.0}, {"temperature": 75.0}, {"age": 10.0}])
def test_errors_grow_away_from_where_it_was_enrolled(change: dict[str, float]) -> None:
    enrolled = read(SimulatedSRAM(1, bits=BITS, ber=0.02, noise_seed=1), 9).mean(axis=0) > 0.5
    there = SimulatedSRAM(1, bits=BITS, ber=0.02, noise_seed=2).evaluate()
    elsewhere = SimulatedSRAM(1, bits=BITS, ber=0.02, noise_seed=2, **change).evaluate()
    assert (elsewhere != enrolled).mean() > 1.5 * (there != enrolled).mean()
    assert (elsewhere != enrolled).mean() < 0.15


def test_no_noise_is_no_noise() -> None:
    chip = SimulatedSRAM(1, ber=0.0)
    assert np.array_equal(chip.evaluate(), chip.evaluate())
    assert noise_for(0.0, 0.5) == 0.0
    assert NormalDist().cdf(0) == 0.5


def test_the_address_gives_what_the_class_gives() -> None:
    uri = "sim:sram?seed=7&bits=4096&ber=0.1&bias=0.6&lanes=4&lane_bias=0.1&temperature=60&age=2&noise_seed=3"
    chip = SimulatedSRAM(
        7, bits=4096, ber=0.1, bias=0.6, lanes=4, lane_bias=0.1, temperature=60.0, age=2.0, noise_seed=3
    )
    assert np.array_equal(open_source(uri).evaluate(), chip.evaluate())
    assert open_source(uri).kind == "sim:sram"
    assert open_source("sim:sram?seed=1").evaluate().shape == (16384,)


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("sim:sram", "needs a seed"),
        ("sim:dram?seed=1", "no simulator 'dram'"),
        ("sim:sram?seed=1&sede=2", "unknown option sede"),
        ("sim:sram?seed=1&ber=0.6", "outside"),
        ("sim:sram?seed=1&ber=0.49", "out of reach"),
        ("sim:sram?seed=x", "not a number"),
        ("sim:sram?seed=-1", "outside"),
        ("sim:sram?seed=1&bits=0", "outside"),
        ("sim:sram?seed=1&bias=0.99", "leaves"),
        ("sim:sram?seed=1&ber=nan", "outside"),
    ],
)
def test_bad_addresses_say_what_is_wrong(uri: str, words: str) -> None:
    with pytest.raises(SourceError, match=words):
        open_source(uri)


def test_bad_arguments() -> None:
    with pytest.raises(ParameterError, match="bits"):
        SimulatedSRAM(1, bits=0)


def test_a_thousand_chips_take_seconds() -> None:
    noise_for(0.06, 0.5)
    start = time.perf_counter()
    for seed in range(100):
        read(SimulatedSRAM(seed), 9)
    assert time.perf_counter() - start < 3.0
