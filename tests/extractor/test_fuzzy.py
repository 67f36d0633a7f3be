import json
from itertools import pairwise

import numpy as np
import pytest

from unclone import canonical, extractor
from unclone.errors import EnrollmentError, ParameterError
from unclone.records import HelperData

MODES = ["erasure", "pair-output", "classic", "none"]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("code", ["polar", "repetition"])
@pytest.mark.parametrize("readings", [1, 5])
def test_the_secret_comes_back(chip, mode, code, readings):
    unit = chip(32768, 0.05, seed=1)
    made = extractor.generate(
        unit.read(readings), debias=mode, code=code, error_rate=0.08 if code == "repetition" else 0.1, failure=1e-6
    )
    assert made.report.residual_entropy_millibits >= 128_000
    assert made.report.failure_log10_milli <= -6000
    assert made.helper.fields["debias"] == mode
    for reading in unit.read(20):
        assert made.secret in extractor.reproduce(reading, made.helper)
    assert made.secret in extractor.reproduce(unit.read(5), made.helper)


def test_failure_rate_is_below_the_prediction(chip, not_above):
    """Designed for 1e-2 at the true noise on a small memory, so that failures could be seen."""
    unit = chip(2048, 0.12, seed=5)
    fails = trials = 0
    for _ in range(15):
        made = extractor.generate(unit.read(1), error_rate=0.12, failure=0.1, key_bits=64)
        predicted = 10 ** (made.report.failure_log10_milli / 1000)
        readings = unit.read(100)
        found = extractor.reproduce_many(list(readings), [made.helper] * 100)
        fails += sum(made.secret not in candidates for candidates in found)
        trials += 100
    assert not_above(fails, trials, predicted)


@pytest.mark.parametrize("mode", MODES)
def test_foreign_chips_are_refused(chip, mode):
    made = extractor.generate(chip(32768, 0.03, seed=1).read(3), debias=mode, error_rate=0.1)
    rng = np.random.default_rng(3)
    foreign = rng.integers(0, 2, (200, 32768), dtype=np.uint8)
    for candidates in extractor.reproduce_many(list(foreign), [made.helper] * 200):
        assert made.secret not in candidates


def test_the_number_of_candidates_tells_nothing(chip):
    unit = chip(16384, 0.05, seed=1)
    made = extractor.generate(unit.read(1))
    genuine = extractor.reproduce(unit.read(1), made.helper)
    foreign = extractor.reproduce(chip(16384, 0.05, seed=2).read(1), made.helper)
    other_length = extractor.reproduce(np.zeros((1, 100), dtype=np.uint8), made.helper)
    assert len(genuine) == len(foreign) == len(other_length) == 8
    assert {len(x) for x in genuine + foreign + other_length} == {len(made.secret)}
    assert made.secret not in foreign + other_length


def test_helper_data_is_canonical_json_and_survives_it(chip):
    unit = chip(16384, 0.05, seed=1)
    for mode in MODES:
        made = extractor.generate(unit.read(3), debias=mode, error_rate=0.1)
        text = canonical.encode(dict(made.helper.fields))
        again = HelperData(made.helper.scheme, canonical.decode(text))
        assert made.secret in extractor.reproduce(unit.read(1), again)
        assert len(text) < 16_000
        assert json.loads(text)["code"]["name"] == "polar"


def test_batches_give_what_single_calls_give(chip):
    units = [chip(16384, 0.05, seed=seed) for seed in range(6)]
    made = [extractor.generate(unit.read(1), key_bits=bits) for unit, bits in zip(units, [128, 192] * 3, strict=True)]
    readings = [unit.read(1) for unit in units]
    batch = extractor.reproduce_many(readings, [x.helper for x in made])
    assert batch == [extractor.reproduce(r, x.helper) for r, x in zip(readings, made, strict=True)]
    assert all(x.secret in candidates for x, candidates in zip(made, batch, strict=True))
    with pytest.raises(ParameterError, match="1 sets of readings for 2"):
        extractor.reproduce_many(readings[:1], [made[0].helper] * 2)


def test_secrets_are_fresh_and_never_shown(chip):
    readings = chip(16384, 0.05, seed=1).read(1)
    one, two = extractor.generate(readings), extractor.generate(readings)
    assert one.secret != two.secret
    assert "<secret>" in repr(one)
    assert one.secret.hex() not in repr(one)
    seeded = [extractor.generate(readings, rng=np.random.default_rng(4)).secret for _ in range(2)]
    assert seeded[0] == seeded[1]


@pytest.mark.parametrize("period", [16, 24, 32, 64])
@pytest.mark.parametrize("readings", [1, 5])
def test_lane_biased_memories_carry_a_key(chip, lane_shares, period, readings):
    unit = chip(16384, 0.08, ones=lane_shares(16384, period), seed=9)
    made = extractor.generate(unit.read(readings))
    assert made.helper.fields["debias"] in ("erasure", "pair-output")
    assert made.helper.fields["distance"] % period == 0
    assert made.report.residual_entropy_millibits >= 128_000
    assert made.report.raw_entropy_millibits < 2 * made.report.debiased_entropy_millibits * 0.5
    for reading in unit.read(20):
        assert made.secret in extractor.reproduce(reading, made.helper)


@pytest.mark.parametrize("noise", [0.10, 0.15, 0.20, 0.25])
@pytest.mark.parametrize("readings", [1, 7])
def test_noisy_memories_of_one_kibibyte(chip, noise, readings):
    unit = chip(8192, noise, seed=int(noise * 100))
    made = extractor.generate(unit.read(readings))
    found = extractor.reproduce_many(list(unit.read(100)), [made.helper] * 100)
    assert all(made.secret in candidates for candidates in found)


def test_more_readings_at_reconstruction_withstand_more_noise(chip):
    unit = chip(8192, 0.2, seed=3)
    made = extractor.generate(unit.read(1), error_rate=0.25)
    single = [made.secret in extractor.reproduce(unit.read(1, noise=6.0), made.helper) for _ in range(20)]
    nine = [made.secret in extractor.reproduce(unit.read(9, noise=6.0), made.helper) for _ in range(20)]
    assert sum(nine) > sum(single)
    assert all(nine)


def test_several_enrolment_readings_lower_the_predicted_failure(chip):
    unit = chip(8192, 0.15, seed=3)
    found = [extractor.generate(unit.read(n), error_rate=0.25, failure=1e-3).report for n in (1, 4, 16)]
    figures = [report.failure_log10_milli for report in found]
    assert all(b < a for a, b in pairwise(figures))


@pytest.mark.parametrize(
    ("readings", "message"),
    [
        (np.zeros((3, 8192), dtype=np.uint8), "constant"),
        (np.ones((1, 8192), dtype=np.uint8), "constant"),
        (np.resize(np.random.default_rng(1).integers(0, 2, 1024, dtype=np.uint8), (1, 8192)), "repeats itself"),
        (np.random.default_rng(1).integers(0, 2, (3, 8192), dtype=np.uint8), "not one and the same device"),
        (np.random.default_rng(1).integers(0, 2, (1, 512), dtype=np.uint8), "cannot carry the key"),
        (np.random.default_rng(1).integers(0, 2, (1, 32), dtype=np.uint8), "32 bits cannot carry"),
    ],
)
def test_memories_that_cannot_carry_a_key_are_refused_with_the_figure(readings, message):
    with pytest.raises(EnrollmentError, match=message):
        extractor.generate(readings)


def test_old_data_in_the_first_reading_is_refused(chip):
    readings = chip(8192, 0.05, seed=1).read(9)
    readings[0] = np.random.default_rng(1).integers(0, 2, 8192)
    with pytest.raises(EnrollmentError, match=r"reading 0 differs from the majority in (49|50|51)\.\d%"):
        extractor.generate(readings)
    extractor.generate(readings[1:])


def test_noise_above_the_design_is_refused_with_both_figures(chip):
    readings = chip(8192, 0.12, seed=1).read(4)
    with pytest.raises(EnrollmentError, match=r"1[12]\.\d\d% of the bits, more than the error_rate of 5\.00%"):
        extractor.generate(readings, error_rate=0.05)


def test_too_strong_a_bias_is_refused_with_the_figure(chip):
    with pytest.raises(EnrollmentError, match="symbols are too few for a key of 128 bits"):
        extractor.generate(chip(8192, 0.05, ones=0.98, seed=1).read(3))
    with pytest.raises(EnrollmentError, match="residual min-entropy"):
        extractor.generate(chip(8192, 0.05, ones=0.7, seed=1).read(3), debias="none")


@pytest.mark.parametrize(
    "arguments",
    [
        {"key_bits": 63},
        {"key_bits": 513},
        {"failure": 0.0},
        {"failure": 0.5},
        {"failure": float("nan")},
        {"error_rate": 0.0},
        {"error_rate": 0.5},
        {"debias": "magic"},
        {"code": "magic"},
        {"selection": "magic"},
        {"reliability": np.ones(3)},
        {"reliability": np.full(8192, 0.3)},
        {"reliability": np.full(8192, 0.9), "reliability_readings": 0},
    ],
)
def test_arguments_out_of_range(chip, arguments):
    with pytest.raises(ParameterError):
        extractor.generate(chip(8192, seed=1).read(1), **arguments)


@pytest.mark.parametrize(
    "readings",
    [
        np.zeros((2, 8192)),
        np.zeros((0, 8192), dtype=np.uint8),
        np.full((1, 8192), 2, dtype=np.uint8),
        np.zeros((2, 2, 64), dtype=np.uint8),
        np.zeros((101, 64), dtype=np.uint8),
    ],
)
def test_readings_that_are_no_bits(chip, readings):
    made = extractor.generate(chip(8192, seed=1).read(1))
    for call in (lambda: extractor.generate(readings), lambda: extractor.reproduce(readings, made.helper)):
        with pytest.raises(ParameterError):
            call()
