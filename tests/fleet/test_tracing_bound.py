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
from unclone.fleet.tracing_bound import Scorer, best_devices, log_chance, log_tail, weightings
from unclone.fleet.tracing_code import CHIPS, Carrier, codeword, codewords, signs
from unclone.fleet.tracing_evidence import gather, open_leak
from unclone.fleet.tracing_places import find_places
from unclone.keys import trace_keys
from unclone.records import DeviceKey

KEY = DeviceKey(bytes(range(32)))
MODEL = bytes(range(100, 132))
KEYS = trace_keys(KEY, MODEL)
CARRIER = Carrier(KEYS)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.floats(-100, 100, allow_subnormal=False), st.integers(4, 252)), min_size=1, max_size=9))
def test_the_bound_holds_for_every_score_of_every_small_sum(chips: list[tuple[float, int]]) -> None:
    values, minus = np.array([chip[0] for chip in chips]), np.array([chip[1] / 256 for chip in chips])
    means = 1 - 2 * minus
    patterns = np.array(list(itertools.product((1, -1), repeat=values.size)))
    sums = (patterns - means) @ values
    chances = np.prod(np.where(patterns < 0, minus, 1 - minus), axis=1)
    for score in np.unique(sums):
        assert log_tail(values, means, float(score)) >= math.log(np.sum(chances[sums >= score])) - 1e-9


FAIR = np.zeros(1000)


def test_the_bound_is_exact_at_the_top_and_below_hoeffding_everywhere() -> None:
    ones = np.ones(1000)
    assert log_tail(ones, FAIR, 1000.0) == pytest.approx(-1000 * math.log(2), rel=1e-6)
    assert log_tail(np.r_[ones, np.zeros(50)], np.zeros(1050), 1000.0) == pytest.approx(-1000 * math.log(2), rel=1e-6)
    rare = np.full(1000, 1 - 2 * 250 / 256)  # minus with 250 chances of 256
    assert log_tail(ones, rare, float(np.sum(1 - rare))) == pytest.approx(1000 * math.log(6 / 256), rel=1e-6)
    for score in (0.0, -5.0):
        assert log_tail(ones, FAIR, score) == 0.0
    assert log_tail(np.zeros(1000), FAIR, 1.0) == 0.0
    uneven = np.random.default_rng(1).standard_normal(1000) ** 3
    for deviations in (0.5, 2, 5, 8, 20):
        score = deviations * float(np.linalg.norm(uneven))
        assert log_tail(uneven, FAIR, score) <= -(deviations**2) / 2 + 1e-9
    # And not far below the truth: of 1,000 coins, fair and biased, against the binomial.
    for plus, least in ((0.5, (560, 600, 700, 900)), (0.125, (160, 200, 300))):
        for heads in least:
            exact = binom.logsf(heads - 1, 1000, plus)
            bound = log_tail(ones, np.full(1000, 2 * plus - 1), 2.0 * heads - 2000 * plus)
            assert exact <= bound <= exact + 5


def test_many_innocent_devices_do_not_pass_the_bound_more_often_than_it_says() -> None:
    count = 3000
    chips = np.random.default_rng(2).standard_normal(CHIPS) ** 3
    words = codewords(KEYS, [f"innocent-{number}" for number in range(count)], CARRIER.shares)
    scores = words_scores(words, chips)
    for level in (0.3, 0.1, 0.01):
        reached = int(np.sum(scores >= least_score(chips, level)))
        assert binom.sf(reached - 1, count, level) > 1e-6
    # The scores are what fair signs give: half above zero, and about as wide as they must be.
    assert binom.cdf(int(np.sum(scores > 0)), count, 0.5) > 1e-9
    assert binom.sf(int(np.sum(scores > 0)) - 1, count, 0.5) > 1e-9
    spread = math.sqrt(float(chips**2 @ (1 - CARRIER.means**2)))
    beyond = int(np.sum(np.abs(scores) > 2 * spread))
    assert binom.sf(beyond - 1, count, 2 * norm.sf(2) * 1.2) > 1e-9
    assert binom.cdf(beyond, count, 2 * norm.sf(2) / 1.2) > 1e-9


def least_score(chips: np.ndarray, level: float) -> float:
    """The least score whose bound is within ``level``."""
    low, high = 0.0, 10 * float(np.linalg.norm(chips))
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if log_tail(chips, CARRIER.means, middle) > math.log(level) else (low, middle)
    return high


def words_scores(words: np.ndarray, chips: np.ndarray) -> np.ndarray:
    return np.array([(signs(word) - CARRIER.means) @ chips for word in words])


def test_the_quick_scores_are_the_exact_ones_up_to_their_unit() -> None:
    chips = 1e-30 * np.random.default_rng(3).standard_normal(CHIPS)
    words = codewords(KEYS, ["a", "b", "c"], CARRIER.shares)
    quick = Scorer(chips, CARRIER.means).scores(words) * np.abs(chips).max()
    np.testing.assert_allclose(quick, words_scores(words, chips), atol=1e-4 * np.linalg.norm(chips))
    assert not Scorer(np.zeros(CHIPS), CARRIER.means).scores(words).any()


def test_the_best_devices_come_first() -> None:
    names = [f"n{number}" for number in range(500)]
    away = signs(codeword(KEYS, "n123", CARRIER.shares)) - CARRIER.means
    count, best = best_devices(away, CARRIER, KEYS, (name for name in names))
    assert count == 500
    assert best[0].device == "n123"
    assert best[0].log_chance == pytest.approx(log_chance("n123", weightings(away, CARRIER.means), CARRIER, KEYS))
    assert best[0].log_chance < -1000 < -math.log(500) < best[1].log_chance
    assert [found.log_chance for found in best] == sorted(found.log_chance for found in best)


def test_the_code_is_that_of_the_specification() -> None:
    """spec/tracing.md, section 2, once more, from the primitives."""

    def expand(key: bytes, info: bytes) -> bytes:
        return hmac.digest(key, info + b"\x01", "sha256")

    def stream(key: bytes, first: int, second: int, nbytes: int) -> bytes:
        counter = first.to_bytes(4, "big") + second.to_bytes(8, "big") + (2).to_bytes(4, "big")
        return Cipher(algorithms.AES(key), modes.CTR(counter)).encryptor().update(bytes(nbytes))

    root = expand(hmac.digest(MODEL, bytes(KEY.secret), "sha256"), b"unclone v1 trace root")
    device = expand(root, b"unclone v1 trace device" + "Gerät 7".encode())
    carrier = expand(root, b"unclone v1 trace carrier")
    drawn, places = stream(device, 0, 0, CHIPS), stream(carrier, 0xFFFFFFFF, 0, 2 * CHIPS)
    word = codeword(KEYS, "Gerät 7", CARRIER.shares)
    for chip in range(CHIPS):
        place = int.from_bytes(places[2 * chip : 2 * chip + 2], "little")
        share = min(252, max(4, round(256 * math.sin(math.pi * (place + 0.5) / 131072) ** 2)))
        assert CARRIER.shares[chip] == share
        assert word[chip // 8] >> (chip % 8) & 1 == (drawn[chip] < share)
    assert CARRIER.words(3, 2, 1000).tobytes() == stream(carrier, 3, 2, 2000)


def test_no_bias_hangs_on_the_last_bit_of_a_sine() -> None:
    values = 256 * np.sin(np.pi * (np.arange(65536) + 0.5) / 131072) ** 2
    assert np.abs(values - np.floor(values) - 0.5).min() > 1e-9


def test_the_moved_weights_are_those_of_the_specification(tmp_path: Path) -> None:
    """spec/tracing.md, sections 2 and 3, once more, weight by weight."""
    value = np.random.default_rng(4).standard_normal((64, 80)).astype(np.float32)
    save_file({"w": value}, tmp_path / "m.safetensors")
    fingerprinted(tmp_path / "m.safetensors", KEY, "d", tmp_path / "c.safetensors", strength=0.02)
    text = b'[["w","float32",[64,80]]]'
    keys = trace_keys(KEY, hashlib.sha256(text + value.tobytes()[: 1 << 16]).digest())
    carrier = Carrier(keys)
    word = codeword(keys, "d", carrier.shares)
    minus = carrier.shares / 256
    step = 0.02 * math.sqrt(float(np.mean(value.astype(float) ** 2))) / math.sqrt(np.mean(4 * minus * (1 - minus)))
    moved = load_file(tmp_path / "c.safetensors")["w"].ravel()
    for place, (old, bits) in enumerate(zip(value.ravel(), carrier.words(0, 0, value.size), strict=True)):
        chip = int(bits) & (CHIPS - 1)
        sign = -1 if int(word[chip // 8]) >> (chip % 8) & 1 else 1
        length = sign - (1 - 2 * minus[chip])
        assert moved[place] == pytest.approx(old + step * length * (-1 if bits >> 15 else 1), abs=1e-6)


def test_codewords_of_two_devices_are_independent() -> None:
    words = codewords(KEYS, ["a", "b", "A", "a "], CARRIER.shares)
    for one, other in itertools.combinations(words, 2):
        away = signs(one) - CARRIER.means
        score = float(away @ (signs(other) - CARRIER.means))
        assert abs(score) < 6.5 * math.sqrt(float(away**2 @ (1 - CARRIER.means**2)))


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
    carrier = Carrier(keys)
    chips = gather(places, open_leak(tmp_path / "leak.safetensors"), carrier, 0.01).despread(carrier)
    count, best = best_devices(chips, carrier, keys, (f"innocent-{number}" for number in range(100_000)))
    bounds = [standing.log_chance for standing in best]
    assert min(bounds) + math.log(count) > math.log(1e-6)
    for level in (1e-3, 1e-4):  # the devices that were not judged stand out less
        reached = sum(bound <= math.log(level) for bound in bounds)
        assert binom.sf(reached - 1, count, level) > 1e-9
