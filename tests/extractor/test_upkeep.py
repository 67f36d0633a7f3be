import numpy as np
import pytest

from unclone import canonical, extractor
from unclone.errors import EnrollmentError, ParameterError
from unclone.extractor.codebook import load_code


@pytest.mark.parametrize("mode", ["erasure", "pair-output", "classic", "none"])
def test_measure_counts_what_was_flipped(chip, mode):
    """Readings with a known number of flipped cells: the counts must be those."""
    response = chip(32768, 0.05, seed=1).read(1)
    made = extractor.generate(response, debias=mode, error_rate=0.1)
    clean = extractor.measure(response, made.helper, made.secret)
    assert (clean.errors, clean.erasures, clean.error_rate) == (0, 0, 0.0)
    flips = np.random.default_rng(1).random(response.shape) < 0.1
    noisy = extractor.measure(response ^ flips, made.helper, made.secret)
    assert noisy.error_rate == pytest.approx(0.1, abs=0.025)
    paired = mode in ("erasure", "pair-output")
    assert noisy.erasures == pytest.approx(0.18 * noisy.symbols if paired else 0, abs=0.05 * noisy.symbols)
    assert noisy.errors == pytest.approx((0.01 if paired else 0.1) * noisy.symbols, abs=0.03 * noisy.symbols)
    assert clean.failure_log10 < noisy.failure_log10 < 0
    assert noisy.margin < clean.margin
    assert noisy.margin == pytest.approx(noisy.reach / noisy.error_rate)


def test_cells_that_flickered_at_enrolment_do_not_pass_for_noise(chip):
    unit = chip(32768, 0.05, seed=2)
    alone, averaged = (extractor.generate(unit.read(count), error_rate=0.1) for count in (1, 9))
    later = unit.read(8)
    rates = [extractor.measure(later, made.helper, made.secret).error_rate for made in (alone, averaged)]
    assert rates[1] == pytest.approx(rates[0], abs=0.015)


def test_margin_shrinks_below_one_when_the_noise_outgrows_the_code(chip):
    unit = chip(4096, 0.04, seed=4)
    response = unit.read(1)
    made = extractor.generate(response, error_rate=0.15)
    margins = []
    for rate in (0.02, 0.1, 0.2, 0.3):
        flips = np.random.default_rng(1).random(response.shape) < rate
        margins.append(extractor.measure(response ^ flips, made.helper, made.secret).margin)
    assert margins == sorted(margins, reverse=True)
    assert margins[0] > 4
    assert margins[-1] < 1


def test_reach_meets_the_failure_that_was_asked_about(chip):
    unit = chip(8192, 0.05, seed=4)
    made = extractor.generate(unit.read(1))
    reading = unit.read(1)
    near, far = (extractor.measure(reading, made.helper, made.secret, failure=f).reach for f in (1e-12, 1e-3))
    assert 0.15 < near < far < 0.4


def test_measure_refuses_what_does_not_fit(chip):
    unit = chip(8192, 0.05, seed=4)
    made = extractor.generate(unit.read(1))
    for readings, secret, failure in (
        (unit.read(1)[:, :100], made.secret, 1e-9),
        (unit.read(1), made.secret[:-1], 1e-9),
        (unit.read(1), made.secret, 0.0),
    ):
        with pytest.raises(ParameterError):
            extractor.measure(readings, made.helper, secret, failure=failure)


@pytest.mark.parametrize("mode", ["erasure", "pair-output"])
@pytest.mark.parametrize("readings", [1, 5])
def test_refreshed_helper_data_opens_its_own_secret_on_the_aged_chip(chip, mode, readings):
    unit = chip(16384, 0.05, seed=1)
    made = extractor.generate(unit.read(readings), debias=mode)
    unit.skew += np.random.default_rng(2).normal(size=len(unit.skew)) * 2.0  # heavy ageing
    again = extractor.regenerate(unit.read(readings), made.helper)
    assert again.secret != made.secret
    assert again.report.residual_entropy_millibits >= 128_000
    for name in ("bits", "distance", "debias", "code"):
        assert again.helper.fields[name] == made.helper.fields[name]
    assert again.helper.fields.get("retained") == made.helper.fields.get("retained")
    for reading in unit.read(30):
        assert again.secret in extractor.reproduce(reading, again.helper)
        assert made.secret not in extractor.reproduce(reading, again.helper)


@pytest.mark.parametrize("mode", ["classic", "none"])
def test_forms_that_would_leak_together_are_refused(chip, mode):
    unit = chip(32768, 0.05, seed=1)
    made = extractor.generate(unit.read(1), debias=mode, error_rate=0.1)
    with pytest.raises(EnrollmentError, match=f"'{mode}' cannot be refreshed"):
        extractor.regenerate(unit.read(1), made.helper)


def test_refresh_refuses_a_larger_key_and_another_length(chip):
    unit = chip(16384, 0.05, seed=1)
    made = extractor.generate(unit.read(1))
    with pytest.raises(EnrollmentError, match="144 bits, too few for a key of 192"):
        extractor.regenerate(unit.read(1), made.helper, key_bits=192)
    with pytest.raises(ParameterError, match="8192 bits"):
        extractor.regenerate(unit.read(1)[:, :8192], made.helper)


def test_two_enrolments_leave_every_secret_possible():
    """Theorem 2, executed on a toy: with both sets of helper data every first secret fits exactly one second secret."""
    rng = np.random.default_rng(1)
    n, k = 12, 4
    generator = np.concatenate([np.eye(k, dtype=np.uint8), rng.integers(0, 2, (k, n - k), dtype=np.uint8)], axis=1)
    words = ((np.arange(16)[:, None] >> np.arange(k)) & 1) @ generator % 2
    signs, drift = rng.integers(0, 2, n, dtype=np.uint8), rng.integers(0, 2, n, dtype=np.uint8)
    first_alive, second_alive = rng.random(n) < 0.8, rng.random(n) < 0.8
    one, two = words[5] ^ signs, words[11] ^ signs ^ drift
    # The attacker knows the drift (worst case), both offsets where they are published, and the code.
    fits = np.zeros(16, dtype=int)
    both = first_alive & second_alive
    for i, first in enumerate(words):
        for second in words:
            fits[i] += np.array_equal((one ^ first)[both], (two ^ drift ^ second)[both])
    assert fits.min() == fits.max() >= 1


def test_erasure_enrolments_of_one_device_use_one_code_and_one_layout(chip):
    """Independent enrolments, without the old helper data, at another noise, temperature and number of readings."""
    unit = chip(16384, 0.05, seed=1)
    helpers = [
        extractor.generate(unit.read(1)).helper.fields,
        extractor.generate(unit.read(7)).helper.fields,
        extractor.generate(unit.read(3, noise=2.0), error_rate=0.2, failure=1e-6).helper.fields,
    ]
    for name in ("bits", "distance", "debias", "code"):
        assert all(fields[name] == helpers[0][name] for fields in helpers)


def test_a_smaller_key_uses_a_subcode(chip):
    unit = chip(16384, 0.05, seed=1)
    small, large = (
        load_code(extractor.generate(unit.read(1), key_bits=bits).helper.fields["code"]) for bits in (128, 256)
    )
    info = [np.unpackbits(np.frombuffer(bytes.fromhex(code.spec()["info"]), dtype=np.uint8)) for code in (small, large)]
    assert small.n == large.n
    assert np.all(info[1][info[0] == 1] == 1)


def test_offsets_of_many_enrolments_are_fair_and_independent_of_each_other(chip, not_above):
    unit = chip(16384, 0.05, ones=0.7, seed=1)
    offsets, alive = [], []
    for _ in range(12):
        fields = extractor.generate(unit.read(1)).helper.fields
        offsets.append(np.unpackbits(np.frombuffer(canonical.b64decode(fields["offset"]), dtype=np.uint8)))
        alive.append(np.unpackbits(np.frombuffer(canonical.b64decode(fields["classes"]), dtype=np.uint8)))
    for a, b, live in zip(offsets, offsets[1:], alive[1:], strict=False):
        ones = int(b[live == 1].sum())
        assert not_above(ones, int(live.sum()), 0.5)
        assert not_above(int(live.sum()) - ones, int(live.sum()), 0.5)
        both = (live == 1) & (alive[0] == 1)
        same = int((a ^ b)[both].sum())
        assert 0.4 < same / both.sum() < 0.6
