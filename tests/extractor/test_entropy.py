import shutil
import subprocess

import numpy as np
import pytest

from unclone.errors import ParameterError
from unclone.extractor import entropy
from unclone.extractor.leakage import nk_bound, renyi_bound, residual_entropy, set_bound


def biased(bits=100_000, share=0.6, seed=3):
    return (np.random.default_rng(seed).random(bits) < share).astype(np.uint8)


def test_known_answers_of_the_reference_implementation():
    """``ea_non_iid -vv`` of sp800-90b-entropy-assessment 1.1.8 on these bits."""
    bits = biased()
    assert entropy.most_common_value(bits) == pytest.approx(0.72742613707370896, abs=1e-12)
    assert entropy.collision(bits) == pytest.approx(0.70945757097540429, abs=1e-12)
    assert entropy.markov(bits) == pytest.approx(0.73551121600277303, abs=1e-12)
    assert entropy.compression(bits) == pytest.approx(0.50326323243215143, abs=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["fair", "biased", "markov", "lanes", "skewed"])
def test_agrees_with_the_reference_implementation(case, tmp_path, lane_shares):
    tool = shutil.which("ea_non_iid")
    if tool is None:
        pytest.skip("ea_non_iid is absent: apt-get install sp800-90b-entropy-assessment")
    rng = np.random.default_rng(7)
    share = {"fair": 0.5, "biased": 0.7, "lanes": lane_shares(200_000, 32), "skewed": 0.97, "markov": 0.5}[case]
    bits = (rng.random(200_000) < share).astype(np.uint8)
    if case == "markov":
        bits = (np.cumsum(rng.random(200_000) < 0.3) % 2).astype(np.uint8)
    bits.tofile(tmp_path / "bits.bin")
    run = subprocess.run([tool, "-v", "-v", "bits.bin", "1"], cwd=tmp_path, capture_output=True, text=True, check=True)
    for name, ours in [
        ("Most Common Value", entropy.most_common_value),
        ("Collision", entropy.collision),
        ("Markov", entropy.markov),
        ("Compression", entropy.compression),
    ]:
        line = next(x for x in run.stdout.splitlines() if f"Literal {name} Estimate: min entropy" in x)
        assert ours(bits) == pytest.approx(float(line.rsplit("=", 1)[1]), abs=1e-6)


def test_markov_of_constant_and_alternating_bits_is_nothing():
    assert entropy.markov(np.zeros(1000, dtype=np.uint8)) == pytest.approx(0.0)
    assert entropy.markov(np.arange(1000, dtype=np.uint8) % 2) < 0.01


def test_per_phase_sees_what_the_global_share_hides(lane_shares):
    bits = (np.random.default_rng(1).random(32768) < lane_shares(32768, 32)).astype(np.uint8)
    estimate = entropy.estimate_entropy(bits)
    assert estimate.period == 32
    assert estimate.most_common_value > 0.95
    assert estimate.per_phase == pytest.approx(-np.log2(0.8), abs=0.03)
    assert estimate.bound == estimate.per_phase


def test_alias_entropy_of_a_fleet():
    rng = np.random.default_rng(1)
    fair = rng.integers(0, 2, (200, 4096), dtype=np.uint8)
    aliased = fair.copy()
    aliased[:, :2048] = aliased[0, :2048]
    high, low = entropy.alias_entropy(fair), entropy.alias_entropy(aliased)
    assert high > 0.9
    assert low == pytest.approx(high / 2, abs=0.02)
    with pytest.raises(ParameterError, match="two devices"):
        entropy.alias_entropy(fair[:1])


def test_uno_boards_share_no_cell_bias(uno):
    """Expected for independent devices: the alias entropy of coins with the boards' own shares of ones."""
    responses = uno["reads"][:, -1]
    rng = np.random.default_rng(1)
    coins = (rng.random(responses.shape) < responses.mean(axis=1, keepdims=True)).astype(np.uint8)
    assert entropy.alias_entropy(responses) == pytest.approx(entropy.alias_entropy(coins), abs=0.01)


@pytest.mark.parametrize("share", [0.5, 0.55, 0.7])
def test_leakage_bounds_hold_against_the_exact_figure(share):
    """Every response of a small code enumerated: the true average min-entropy lies above all bounds."""
    n, k = 12, 4
    rng = np.random.default_rng(9)
    generator = np.concatenate([np.eye(k, dtype=np.uint8), rng.integers(0, 2, (k, n - k), dtype=np.uint8)], axis=1)
    check = np.concatenate([generator[:, k:].T, np.eye(n - k, dtype=np.uint8)], axis=1)
    words = (np.arange(1 << n)[:, None] >> np.arange(n)) & 1
    syndrome = (words @ check.T % 2) @ (1 << np.arange(n - k))
    for shares in (np.full(n, share), rng.uniform(1 - share, share, n)):
        probability = np.prod(np.where(words == 1, shares, 1 - shares), axis=1)
        best = np.zeros(1 << (n - k))
        np.maximum.at(best, syndrome, probability)
        exact = -np.log2(best.sum())
        assert nk_bound(shares, n - k) <= renyi_bound(shares, n - k) + 1e-9
        assert residual_entropy(shares, n - k) <= exact + 1e-9
        assert residual_entropy(shares, n - k) <= k
    assert (
        set_bound(share, n, n - k)
        <= -np.log2(np.sort(np.prod(np.where(words, share, 1 - share), axis=1))[-(1 << (n - k)) :].sum()) + 1e-9
    )


def test_tighter_bounds_gain_what_the_literature_says():
    """With a bias of 51 % the n - k bound loses 29 bits of a (1024, 128) code, the set bound 12."""
    shares = np.full(1024, 0.51)
    assert nk_bound(shares, 896) == pytest.approx(98.7, abs=0.1)
    assert renyi_bound(shares, 896) == pytest.approx(116.2, abs=0.1)
    assert residual_entropy(shares, 896) == pytest.approx(116.3, abs=0.1)
