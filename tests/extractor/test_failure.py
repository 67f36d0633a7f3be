"""The predicted failure against what decoding does."""

import numpy as np
import pytest

from unclone.extractor.codebook import bhattacharyya, failure_log10, load_code, polar_code, reed_muller_code
from unclone.extractor.codes.construction import bit_error_rates
from unclone.extractor.prediction import rare_failure


def pairs(rate, ones=0.5):
    """Channel of pairs at one enrolment reading."""
    falls, rises = rate / (2 * ones), rate / (2 * (1 - ones))
    right, wrong = (1 - falls) * (1 - rises), falls * rises
    decisive = 2 * ones * (1 - ones) * (right + wrong)
    return [(decisive, wrong / (right + wrong)), (1 - decisive, 0.5)]


def simulate(code, channel, words, rng):
    weights, errors = (np.array(x) for x in zip(*channel, strict=True))
    part = rng.choice(len(weights), (words, code.n), p=weights / weights.sum())
    size = np.log((1 - errors) / np.maximum(errors, 1e-12))[part]
    llr = np.where(rng.random(part.shape) < errors[part], -size, size).astype(np.float32)
    return int((~(code.decode(llr) == 0).all(axis=2).any(axis=1)).sum())


@pytest.mark.parametrize(("length", "bits", "rate"), [(512, 80, 0.17), (1024, 144, 0.2), (2048, 144, 0.29)])
def test_simulated_failures_are_not_above_the_prediction(length, bits, rate, not_above):
    code, channel, rng = polar_code(length, bits), pairs(rate), np.random.default_rng(1)
    predicted = failure_log10(code, channel)
    failed = sum(simulate(code, channel, 500, rng) for _ in range(6))
    assert predicted < -0.3
    assert not_above(failed, 3000, 10**predicted)


def test_simple_code_fails_no_more_often_than_predicted(not_above):
    code = reed_muller_code(1024, 80)
    channel, rng = pairs(0.12), np.random.default_rng(1)
    predicted = failure_log10(code, channel)
    assert -6 < predicted < 0
    assert not_above(simulate(code, channel, 2000, rng), 2000, 10**predicted)


@pytest.mark.slow
@pytest.mark.parametrize("union", [-2.2, -5.0, -9.0])
@pytest.mark.parametrize(
    ("length", "bits", "ones"), [(512, 80, 0.5), (1024, 144, 0.5), (2048, 144, 0.8), (3072, 144, 0.7), (4096, 272, 0.5)]
)
def test_the_list_gains_more_than_is_counted_on(length, bits, ones, union):
    """At the rate at which the union bound is 10**union, splitting must not find more than is predicted."""
    code = polar_code(length, bits)
    info = np.unpackbits(np.frombuffer(bytes.fromhex(code.spec()["info"]), dtype=np.uint8)).astype(bool)

    def bound(rate):
        weights, errors = (np.array(x) for x in zip(*pairs(rate, ones), strict=True))
        with np.errstate(divide="ignore"):
            rates = bit_error_rates(code.spec()["m"], code.n, "first", errors, weights, info[: 1 << code.spec()["m"]])
        return np.log10(rates[info[: 1 << code.spec()["m"]]].sum())

    low, high = 0.001, 0.4
    for _ in range(12):
        middle = (low + high) / 2
        low, high = (middle, high) if bound(middle) <= union else (low, middle)
    channel = pairs(low, ones)
    found = rare_failure(code, [e for _, e in channel], [w for w, _ in channel], words=200, runs=2)
    predicted = failure_log10(code, channel)
    assert predicted <= 1.4 * union
    assert found.log10 + 2 * found.error <= predicted


def test_prediction_is_monotone_and_bounded():
    code = polar_code(1024, 144)
    figures = [failure_log10(code, pairs(rate)) for rate in (0.001, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.45)]
    assert figures == sorted(figures)
    assert figures[-1] == 0.0
    assert min(figures) >= -300.0
    assert failure_log10(code, [(1.0, 0.0)]) < -200


def test_too_little_capacity_promises_nothing():
    assert failure_log10(polar_code(512, 144), pairs(0.3)) == 0.0
    assert polar_code(200, 144) is None
    assert polar_code(100, 64) is None
    assert reed_muller_code(50, 64) is None


def test_bhattacharyya_of_the_ends():
    assert bhattacharyya([(1.0, 0.0)]) == 0.0
    assert bhattacharyya([(1.0, 0.5)]) == 1.0
    assert bhattacharyya([(0.5, 0.5), (0.5, 0.0)]) == 0.5


def test_codes_are_loaded_once():
    spec = polar_code(1024, 144).spec()
    assert load_code(spec) is load_code(dict(spec))
