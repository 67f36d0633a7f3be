"""The design search: bounds, the table of measured codes, predictions against simulation, refusals."""

from math import comb

import numpy as np
import pytest
from scipy import stats

from unclone.errors import ParameterError
from unclone.extractor.bounds import capacity_and_dispersion, finite_length_bound
from unclone.extractor.catalogue import Measured, measured_codes
from unclone.extractor.codes import from_spec
from unclone.extractor.codes.construction import bit_error_rates
from unclone.extractor.design import METHOD_BOUND, METHOD_SMALL, METHOD_SPLITTING, design
from unclone.extractor.prediction import construct, rare_failure


def readings_channel(ber=0.15, readings=16):
    """Maes' heterogeneous cells, seen in so many readings: error rates and shares of four classes of cells.

    ``ber`` is between two single readings; the class is published, the next single reading is what comes.
    """
    rho = np.cos(np.pi * ber)
    ones = stats.norm.cdf(np.sqrt(rho / (1 - rho)) * stats.norm.ppf((np.arange(20000) + 0.5) / 20000))
    counts = np.arange(readings + 1)
    seen = stats.binom.pmf(counts[:, None], readings, ones)
    share, wrong = seen.mean(axis=1), (seen * np.where(2 * counts[:, None] >= readings, 1 - ones, ones)).mean(axis=1)
    lead = np.abs(2 * counts - readings)
    classes = [(lead <= 4), (lead > 4) & (lead <= 10), (lead > 10) & (lead < readings), lead == readings]
    return [wrong[c].sum() / share[c].sum() for c in classes], [share[c].sum() for c in classes]


def failures(code, error, words, seed, weight=None):
    """Failures among so many random words, by decoding what was really encoded."""
    rng = np.random.default_rng(seed)
    error = np.atleast_1d(error)
    failed = 0
    for start in range(0, words, 2000):
        count = min(2000, words - start)
        sent = rng.integers(0, 2, (count, code.k), dtype=np.uint8)
        p = error[rng.choice(error.size, (count, code.n), p=weight)]
        got = code.encode(sent) ^ (rng.random(p.shape) < p)
        found = code.decode(((1 - 2 * got.astype(float)) * np.log((1 - p) / p)).astype(np.float32))
        failed += int((~(found == sent[:, None]).all(axis=2).any(axis=1)).sum())
    return failed


def test_bounds_of_the_literature():
    assert [finite_length_bound(128, 1e-9, p) for p in (0.05, 0.10, 0.15, 0.20, 0.25)] == [311, 465, 673, 984, 1494]


def test_capacity():
    assert capacity_and_dispersion(0.5) == (0.0, 0.0)
    assert capacity_and_dispersion(0.0) == (1.0, 0.0)
    c, v = capacity_and_dispersion(0.11)
    assert c == pytest.approx(0.5, abs=1e-3)
    assert v == pytest.approx(0.11 * 0.89 * np.log2(0.89 / 0.11) ** 2)
    erasure = capacity_and_dispersion([0.0, 0.5], [3, 1])
    assert erasure == pytest.approx((0.75, 0.1875))


def test_knowing_the_cells_needs_fewer_bits():
    error, weight = readings_channel()
    assert finite_length_bound(128, 1e-9, error, weight) < finite_length_bound(128, 1e-9, float(np.dot(error, weight)))


@pytest.mark.parametrize(
    ("error", "weight"),
    [(0.6, None), (-0.1, None), ([0.1, 0.2], [1]), ([0.1], [-1]), ([0.1], [0]), ("x", None), ([], [])],
)
def test_refuses_mixtures(error, weight):
    with pytest.raises(ParameterError):
        finite_length_bound(128, 1e-9, error, weight)


def test_density_evolution_on_erasures_is_exact():
    z = np.array([0.3])
    for _ in range(5):
        z = np.stack([2 * z - z * z, z * z], axis=1).reshape(-1)
    rates = bit_error_rates(5, 32, "first", np.array([0.0, 0.5]), np.array([0.7, 0.3]))
    np.testing.assert_allclose(rates, z / 2, rtol=1e-6, atol=1e-12)


def test_density_evolution_bounds_successive_cancellation():
    rates = bit_error_rates(4, 16, "first", np.array([0.11]), np.array([1.0]))
    # Position 15 is 16 repetitions; half a failure for a tie.
    exact = sum(comb(16, i) * 0.11**i * 0.89 ** (16 - i) * (0.5 if i == 8 else 1) for i in range(8, 17))
    assert exact * (1 - 1e-9) < rates[15] < 1.3 * exact
    assert rates[0] == pytest.approx((1 - 0.78**16) / 2, rel=1e-6)
    lost = bit_error_rates(4, 12, "first", np.array([0.11]), np.array([1.0]))
    assert (lost[:4] == 0.5).all()


@pytest.mark.parametrize(("p", "words"), [(0.16, 12000), (0.13, 40000)])
def test_splitting_agrees_with_simulation(p, words):
    code, _ = construct(256, 64, 4, 0.13)
    found = rare_failure(code, p, words=500, runs=3, seed=2)
    low, high = 10 ** (found.log10 - 3 * found.error), 10 ** (found.log10 + 3 * found.error)
    failed = failures(code, p, words, 3)
    assert failed > 5
    assert stats.binom.cdf(failed, words, low) > 1e-3, "fails less than predicted"
    assert stats.binom.sf(failed - 1, words, high) > 1e-3, "fails more than predicted"


def test_splitting_agrees_with_simulation_on_a_mixture():
    error, weight = [0.35, 0.02], [0.4, 0.6]
    code, bound = construct(256, 90, 4, error, weight)
    found = rare_failure(code, error, weight, words=500, runs=3)
    failed = failures(code, error, 20000, 4, weight) / 20000
    assert failed < bound
    assert abs(np.log10(failed) - found.log10) < 3 * found.error + 0.1


def test_splitting_is_reproducible():
    code, _ = construct(128, 40, 4, 0.1)
    assert rare_failure(code, 0.1, words=100, runs=2) == rare_failure(code, 0.1, words=100, runs=2)
    with pytest.raises(ParameterError):
        rare_failure(code, 0.1, words=5)


def test_table_is_sound():
    codes = measured_codes()
    assert codes
    for entry in codes:
        code = from_spec(entry.code)
        assert code.spec() == entry.code
        rates, logs = zip(*entry.points, strict=True)
        assert list(rates) == sorted(rates)
        assert list(logs) == sorted(logs)
        assert logs[0] < -9 < -3 < logs[-1] <= 0


def test_between_points():
    entry = Measured({}, ((0.1, -9.0), (0.2, -4.0), (0.3, -1.0)))
    assert entry.log_failure(0.05) == -9.0
    assert entry.log_failure(0.15) == pytest.approx(-(2.5**2))
    assert entry.log_failure(0.2) == pytest.approx(-4.0)
    assert entry.log_failure(0.31) == 0.0


def test_targets():
    hard = design(0.15, 128, 1e-9)
    assert hard.response_bits <= 900
    assert hard.method == METHOD_SPLITTING
    error, weight = readings_channel()
    soft = design(error, 128, 1e-9, weight=weight)
    assert soft.response_bits <= 700
    assert soft.method == METHOD_BOUND
    strong = design(0.25, 256, 1e-9, max_response_bits=8192)
    assert strong.response_bits <= 8192
    for found in (hard, soft, strong):
        code = from_spec(found.code)
        assert code.n == found.response_bits
        assert code.k >= found.key_bits
        assert found.predicted_failure <= 1e-9
        assert found.bound_bits < found.response_bits
        assert found.helper_bytes == -(-code.n // 8)


@pytest.mark.parametrize("ber", [0.01, 0.05, 0.15, 0.25])
def test_a_stricter_target_never_shortens(ber):
    lengths = [design(ber, 128, failure).response_bits for failure in (1e-3, 1e-4, 1e-6, 1e-9)]
    assert lengths == sorted(lengths)


def test_most_reliable_within_a_budget():
    few, many = design(0.15, 128, 1e-9), design(0.15, 128, 1e-9, max_response_bits=4096, prefer="failure")
    assert many.response_bits > few.response_bits
    assert many.predicted_failure < few.predicted_failure
    assert many.list_size <= 8


def test_margin_raises_the_rate():
    assert design(0.15, margin=0.2).response_bits == design(0.18).response_bits


def test_small_alternative():
    found = design(0.1, 128, 1e-6, family="repetition-reed-muller")
    assert found.method == METHOD_SMALL
    assert found.code["name"] == "repetition-reed-muller"
    assert found.predicted_failure <= 1e-6


@pytest.mark.parametrize(
    "arguments",
    [
        {"error": 0.0},
        {"error": 0.5},
        {"error": 0.15, "key_bits": 63},
        {"error": 0.15, "key_bits": 128.0},
        {"error": 0.15, "key_bits": True},
        {"error": 0.15, "failure": 0.5},
        {"error": 0.15, "failure": 0.0},
        {"error": 0.15, "margin": -0.1},
        {"error": 0.15, "margin": float("nan")},
        {"error": 0.15, "max_response_bits": 600},
        {"error": 0.15, "max_response_bits": 680},
        {"error": 0.15, "prefer": "failure"},
        {"error": 0.15, "prefer": "speed"},
        {"error": 0.15, "family": "bch"},
        {"error": 0.49},
    ],
)
def test_refusals(arguments):
    with pytest.raises(ParameterError):
        design(**arguments)


def test_prediction_of_the_default_design_holds_in_simulation():
    found = design(0.15, 128, 1e-9)
    code = from_spec(found.code)
    entry = next(e for e in measured_codes() if e.code == found.code)
    # At the noise where it fails about once in a hundred words.
    p = float(np.interp(-2.0, [y for _, y in entry.points], [x for x, _ in entry.points]))
    failed, predicted = failures(code, p, 1200, 9), 10 ** entry.log_failure(p)
    assert stats.binom.sf(failed - 1, 1200, predicted) > 1e-4, "fails more often than predicted"
    assert failed > 0


@pytest.mark.slow
@pytest.mark.parametrize("index", range(len(measured_codes())))
def test_every_prediction_of_the_table_holds_in_simulation(index):
    entry = measured_codes()[index]
    code = from_spec(entry.code)
    for target, words in ((-2.0, 4000), (-3.0, 20000)):
        p = float(np.interp(target, [y for _, y in entry.points], [x for x, _ in entry.points]))
        failed, predicted = failures(code, p, words, index), 10 ** entry.log_failure(p)
        assert stats.binom.sf(failed - 1, words, predicted) > 1e-4, (p, failed, predicted)


@pytest.mark.slow
def test_a_million_keys_at_a_quarter_noise():
    found = design(0.25, 256, 1e-9, max_response_bits=8192, prefer="failure")
    assert found.predicted_failure < 1e-9
    assert failures(from_spec(found.code), 0.25, 1_000_000, 11) == 0
