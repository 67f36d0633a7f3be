"""Arbiter PUFs: the additive delay model against a stage-by-stage race, noise by its formula, entropy by counting."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest
from scipy import stats

import unclone
from unclone.errors import EnrollmentError, ParameterError, ReconstructionError, SourceError
from unclone.puf.arbiter import ArbiterPUF, error_rate_for, parity_features
from unclone.puf.challenges import ScheduledPUF, expand_challenges

KEYED = "sim:arbiter?seed=7"


def race(straight: np.ndarray, crossed: np.ndarray, challenge: np.ndarray) -> float:
    """Delay difference of two signals that run through the stages; a crossed stage exchanges their lanes."""
    difference = 0.0
    for passes, exchanges, bit in zip(straight, crossed, challenge, strict=True):
        difference = -difference + exchanges if bit else difference + passes
    return float(difference)


def test_the_linear_model_is_a_race_through_the_stages() -> None:
    rng = np.random.default_rng(1)
    stages = 16
    straight, crossed = rng.normal(size=stages), rng.normal(size=stages)
    # Lim 2005, section II: weights from the stages' delay differences, for the features of `parity_features`.
    half_sum, half_difference = (straight + crossed) / 2, (straight - crossed) / 2
    weights = np.concatenate([half_difference, [0.0]])
    weights[1:] += half_sum
    challenges = expand_challenges(b"race", 200, stages)
    expected = [race(straight, crossed, challenge) for challenge in challenges]
    assert np.allclose(parity_features(challenges) @ weights, expected, atol=1e-5)


def test_features_by_their_definition() -> None:
    challenges = expand_challenges(b"features", 20, 9)
    signs = 1 - 2.0 * challenges.astype(float)
    for row, phi in zip(signs, parity_features(challenges), strict=True):
        assert phi.tolist() == [*(math.prod(row[i:]) for i in range(9)), 1.0]


def test_an_xor_of_chains_is_the_xor_of_their_answers() -> None:
    puf = ArbiterPUF(3, stages=32, k=5, noisiness=0.0)
    challenges = expand_challenges(b"", 40_000, 32)  # more than one block
    chains = puf.delays(challenges) < 0
    assert np.array_equal(puf.evaluate(challenges), np.bitwise_xor.reduce(chains, axis=1))


@pytest.mark.parametrize(("k", "noisiness"), [(1, 0.05), (1, 0.3), (4, 0.05), (6, 0.01)])
def test_noise_follows_its_formula(k: int, noisiness: float) -> None:
    wrong, total, chips, bits = 0, 0, 40, 2000
    rates = []
    for seed in range(chips):
        puf = ArbiterPUF(seed, stages=64, k=k, noisiness=noisiness, noise_seed=1)
        challenges = expand_challenges(seed.to_bytes(2, "big"), bits, 64)
        differs = puf.evaluate(challenges) ^ puf.evaluate(challenges)
        wrong, total = wrong + int(differs.sum()), total + bits
        rates.append(differs.mean())
    # Chips differ a little (their weights are few), so the spread between chips is the yardstick.
    spread = np.std(rates, ddof=1) / math.sqrt(chips)
    assert abs(wrong / total - error_rate_for(noisiness, k)) < 5 * spread


def test_chips_are_unlike_and_balanced() -> None:
    challenges = expand_challenges(b"chips", 4096, 64)
    answers = [ArbiterPUF(seed, k=4, noisiness=0.0).evaluate(challenges) for seed in range(12)]
    for number, one in enumerate(answers):
        for other in answers[:number]:
            assert stats.binomtest(int((one ^ other).sum()), 4096, 0.5).pvalue > 1e-9
    again = ArbiterPUF(3, k=4, noisiness=0.0).evaluate(challenges)
    assert np.array_equal(again, answers[3])


def test_the_schedule_is_shake_256() -> None:
    stream = hashlib.shake_256(b"unclone challenge schedule 1" + (12).to_bytes(4, "big") + b"public").digest(20)
    bits = [[(stream[2 * row + i // 8] >> (7 - i % 8)) & 1 for i in range(12)] for row in range(10)]
    assert expand_challenges(b"public", 10, 12).tolist() == bits
    assert np.array_equal(expand_challenges(b"public", 500, 12)[:10], bits)
    assert not np.array_equal(expand_challenges(b"other", 10, 12), bits)


def test_a_challenge_is_the_seed_of_another_schedule() -> None:
    source = ScheduledPUF(ArbiterPUF(1, noisiness=0.0), bits=512, schedule=b"a")
    other = ScheduledPUF(ArbiterPUF(1, noisiness=0.0), bits=512, schedule=b"b")
    assert np.array_equal(source.evaluate(b"b"), other.evaluate())
    assert not np.array_equal(source.evaluate(), other.evaluate())


def test_the_entropy_limit_counts_dichotomies() -> None:
    assert ArbiterPUF(1, stages=64, k=1).entropy_limit(65) == 65
    # Cover's count at m points in d = 2 dimensions is 2 m.
    assert ArbiterPUF(1, stages=1, k=1).entropy_limit(10) == pytest.approx(math.log2(20))
    assert ArbiterPUF(1, stages=1, k=2).entropy_limit(10) == pytest.approx(2 * math.log2(20))
    # What chains of two stages do answer stays below it.
    challenges = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], dtype=np.uint8)
    seen = {ArbiterPUF(s, stages=2, k=1, noisiness=0.0).evaluate(challenges).tobytes() for s in range(3000)}
    assert len(seen) <= round(2 ** ArbiterPUF(1, stages=2, k=1).entropy_limit(4)) == 14
    assert len(seen) > 7


def test_it_keys_a_device_and_says_what_it_is() -> None:
    device = unclone.enroll(KEYED)
    assert device.source == "sim:6-xor-arbiter"
    assert any("can model it" in note for note in device.report.notes)
    with unclone.reconstruct(device, KEYED) as key, unclone.reconstruct(device, KEYED) as again:
        assert bytes(key.secret) == bytes(again.secret)
    assert any("can model it" in note for note in unclone.refresh(device, KEYED).report.notes)
    for foreign in ("sim:arbiter?seed=8", "sim:arbiter?seed=7&schedule=other"):
        with pytest.raises(ReconstructionError):
            unclone.reconstruct(device, foreign)


def test_too_few_chains_are_refused_but_for_the_lab() -> None:
    with pytest.raises(EnrollmentError, match="can hold 1,630 bits at most in its 2,048"):
        unclone.enroll(KEYED + "&k=4&stages=64&bits=2048")
    assert unclone.enroll(KEYED + "&k=1&check=off").source == "sim:arbiter"


@pytest.mark.parametrize(
    "address",
    ["sim:arbiter", "sim:arbiter?seed=1&stages=0", "sim:arbiter?seed=1&k=33", "sim:arbiter?seed=1&noise=2",
     "sim:arbiter?seed=1&bits=0", "sim:arbiter?seed=1&check=maybe", "sim:arbiter?seed=1&odd=1", "sim:ring?seed=1"],
)  # fmt: skip
def test_bad_addresses(address: str) -> None:
    with pytest.raises(SourceError):
        unclone.open_source(address)


@pytest.mark.parametrize(
    "challenges",
    [np.zeros((4, 63), np.uint8), np.zeros(64, np.uint8), np.zeros((4, 64), np.int8), np.full((4, 64), 2, np.uint8)],
)
def test_bad_challenges(challenges: np.ndarray) -> None:
    with pytest.raises(ParameterError):
        ArbiterPUF(1).evaluate(challenges)
