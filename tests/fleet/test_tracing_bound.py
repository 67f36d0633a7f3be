"""The bound on false accusations, against every case and against many innocent devices; the code against its text."""

from __future__ import annotations

import hashlib
import hmac
import itertools
import math
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from scipy.stats import binom, norm

from unclone.fleet.tracing import fingerprinted
from unclone.fleet.tracing_bound import Scorer, best_devices, log_tail
from unclone.fleet.tracing_code import CHIPS, Carrier, codeword, codewords, signs
from unclone.fleet.tracing_evidence import gather, open_leak
from unclone.fleet.tracing_places import find_places
from unclone.keys import trace_keys
from unclone.records import DeviceKey

KEY = DeviceKey(bytes(range(32)))
MODEL = bytes(range(100, 132))
KEYS = trace_keys(KEY, MODEL)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.floats(-100, 100, allow_subnormal=False), min_size=1, max_size=11))
def test_the_bound_holds_for_every_score_of_every_small_sum(coefficients: list[float]) -> None:
    values = np.array(coefficients)
    sums = np.array([np.dot(values, pattern) for pattern in itertools.product((1, -1), repeat=values.size)])
    for score in np.unique(sums):
        chance = np.mean(sums >= score)
        assert log_tail(values, float(score)) >= math.log(chance) - 1e-9


def test_the_bound_is_exact_at_the_top_and_below_hoeffding_everywhere() -> None:
    ones = np.ones(1000)
    assert log_tail(ones, 1000.0) == pytest.approx(-1000 * math.log(2), rel=1e-6)
    assert log_tail(np.r_[ones, np.zeros(50)], 1000.0) == pytest.approx(-1000 * math.log(2), rel=1e-6)
    for score in (0.0, -5.0):
        assert log_tail(ones, score) == 0.0
    uneven = np.random.default_rng(1).standard_normal(5000) ** 3
    for deviations in (0.5, 2, 5, 8, 20):
        score = deviations * float(np.linalg.norm(uneven))
        assert log_tail(uneven, score) <= -(deviations**2) / 2 + 1e-9
    # And not far below the truth: of 1,000 coins, against the binomial.
    for heads in (560, 600, 700, 900):
        exact = binom.logsf(heads - 1, 1000, 0.5)
        assert exact <= log_tail(ones, 2.0 * heads - 1000) <= exact + 5


def test_many_innocent_devices_do_not_pass_the_bound_more_often_than_it_says() -> None:
    count = 3000
    chips = np.random.default_rng(2).standard_normal(CHIPS) ** 3
    words = codewords(KEYS, [f"innocent-{number}" for number in range(count)])
    scores = words_scores(words, chips)
    for level in (0.3, 0.1, 0.01):
        reached = int(np.sum(scores >= least_score(chips, level)))
        assert binom.sf(reached - 1, count, level) > 1e-6
    # The scores are what fair signs give: half above zero, and about as wide as they must be.
    assert binom.cdf(int(np.sum(scores > 0)), count, 0.5) > 1e-9
    assert binom.sf(int(np.sum(scores > 0)) - 1, count, 0.5) > 1e-9
    beyond = int(np.sum(np.abs(scores) > 2 * np.linalg.norm(chips)))
    assert binom.sf(beyond - 1, count, 2 * norm.sf(2) * 1.2) > 1e-9


def least_score(chips: np.ndarray, level: float) -> float:
    """The least score whose bound is within ``level``."""
    low, high = 0.0, 10 * float(np.linalg.norm(chips))
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if log_tail(chips, middle) > math.log(level) else (low, middle)
    return high


def words_scores(words: np.ndarray, chips: np.ndarray) -> np.ndarray:
    return np.array([signs(word).astype(float) @ chips for word in words])


def test_the_quick_scores_are_the_exact_ones_up_to_their_unit() -> None:
    chips = 1e-30 * np.random.default_rng(3).standard_normal(CHIPS)
    words = codewords(KEYS, ["a", "b", "c"])
    quick = Scorer(chips).scores(words) * np.abs(chips).max()
    np.testing.assert_allclose(quick, words_scores(words, chips), atol=1e-4 * np.linalg.norm(chips))
    assert not Scorer(np.zeros(CHIPS)).scores(words).any()


def test_the_best_devices_come_first_with_their_exact_scores() -> None:
    names = [f"n{number}" for number in range(500)]
    chips = signs(codeword(KEYS, "n123")).astype(float)
    count, best = best_devices(chips, KEYS, (name for name in names))
    assert count == 500
    assert best[0] == (float(CHIPS), "n123")
    assert [score for score, _ in best] == sorted((score for score, _ in best), reverse=True)


def test_the_code_is_that_of_the_specification() -> None:
    """spec/tracing.md, section 2, once more, from the primitives."""

    def expand(key: bytes, info: bytes) -> bytes:
        return hmac.digest(key, info + b"\x01", "sha256")

    def stream(key: bytes, first: int, second: int, nbytes: int) -> bytes:
        counter = first.to_bytes(4, "big") + second.to_bytes(8, "big") + (2).to_bytes(4, "big")
        return Cipher(algorithms.AES(key), modes.CTR(counter)).encryptor().update(bytes(nbytes))

    root = expand(hmac.digest(MODEL, bytes(KEY.secret), "sha256"), b"unclone v1 trace root")
    device = expand(root, b"unclone v1 trace device" + "Gerät 7".encode())
    assert codeword(KEYS, "Gerät 7").tobytes() == stream(device, 0, 0, CHIPS // 8)
    carrier = expand(root, b"unclone v1 trace carrier")
    assert Carrier(KEYS).words(3, 2, 1000).tobytes() == stream(carrier, 3, 2, 2000)


def test_the_moved_weights_are_those_of_the_specification(tmp_path: Path) -> None:
    """spec/tracing.md, sections 2 and 3, once more, weight by weight."""
    value = np.random.default_rng(4).standard_normal((64, 80)).astype(np.float32)
    save_file({"w": value}, tmp_path / "m.safetensors")
    fingerprinted(tmp_path / "m.safetensors", KEY, "d", tmp_path / "c.safetensors", strength=0.02)
    text = b'[["w","float32",[64,80]]]'
    keys = trace_keys(KEY, hashlib.sha256(text + value.tobytes()[: 1 << 16]).digest())
    word = codeword(keys, "d")
    step = 0.02 * math.sqrt(float(np.mean(value.astype(float) ** 2)))
    moved = load_file(tmp_path / "c.safetensors")["w"].ravel()
    for place, (old, bits) in enumerate(zip(value.ravel(), Carrier(keys).words(0, 0, value.size), strict=True)):
        chip = int(bits) & (CHIPS - 1)
        minus = (int(bits) >> 15) ^ (int(word[chip // 8]) >> (chip % 8) & 1)
        assert moved[place] == pytest.approx(old - step if minus else old + step, abs=1e-6)


def test_codewords_of_two_devices_agree_in_half_of_the_chips() -> None:
    words = np.unpackbits(codewords(KEYS, ["a", "b", "A", "a "]), axis=1)
    for one, other in itertools.combinations(words, 2):
        agreed = int(np.sum(one == other))
        assert min(binom.cdf(agreed, CHIPS, 0.5), binom.sf(agreed - 1, CHIPS, 0.5)) > 1e-9


def test_keys_do_not_show_themselves() -> None:
    assert KEYS.root.hex() not in repr(KEYS)
    assert repr(KEYS) == "TraceKeys()"


@pytest.mark.slow
@pytest.mark.parametrize("mix", ["copy", "noise", "minimum"])
def test_a_hundred_thousand_innocent_devices(mix: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    original = tmp_path / "m.safetensors"
    save_file({"w": rng.standard_normal((200, 200)).astype(np.float32)}, original)
    copies = []
    for number in range(10):
        fingerprinted(original, KEY, f"guilty-{number}", tmp_path / "c.safetensors", force=True)
        copies.append(load_file(tmp_path / "c.safetensors")["w"])
    leak = {
        "copy": copies[0],
        "noise": copies[0] + 0.1 * rng.standard_normal((200, 200)).astype(np.float32),
        "minimum": np.min(copies, axis=0),
    }[mix]
    save_file({"w": leak}, tmp_path / "leak.safetensors")
    places = find_places(original)
    keys = trace_keys(KEY, places.digest)
    chips = gather(original, places, open_leak(tmp_path / "leak.safetensors"), Carrier(keys), 0.01).chips
    count, best = best_devices(chips, keys, (f"innocent-{number}" for number in range(100_000)))
    bounds = [log_tail(chips, score) / math.log(10) for score, _ in best]
    assert min(bounds) + math.log10(count) > -6
    for level in (1e-3, 1e-4):  # within the 256 best, whose rest is above
        reached = sum(bound <= math.log10(level) for bound in bounds)
        assert binom.sf(reached - 1, count, level) > 1e-9
