"""Simulated chips of the heterogeneous-error model, and recorded silicon where it is present."""

import os
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest

from unclone.extractor.soft import skew_spread


class Chip:
    """Cells with a fixed skew each; ``read(m)`` gives m fresh readings."""

    def __init__(self, bits, error_rate=0.05, ones=0.5, seed=0):
        self.rng = np.random.default_rng(seed)
        self.spread = skew_spread(error_rate)
        ones = np.broadcast_to(np.asarray(ones, dtype=float), bits)
        shift = np.array([NormalDist().inv_cdf(p) for p in np.unique(ones)])[np.searchsorted(np.unique(ones), ones)]
        self.skew = self.spread * self.rng.normal(size=bits) + shift * np.sqrt(1 + self.spread**2)

    def read(self, m=1, noise=1.0, shift=0.0):
        return (self.skew + shift + noise * self.rng.normal(size=(m, len(self.skew))) > 0).astype(np.uint8)


@pytest.fixture(scope="session")
def chip():
    return Chip


def lanes(bits, period, share=0.8, seed=1):
    """Share of ones per cell: balanced overall, ``share`` or ``1 - share`` in every phase."""
    rng = np.random.default_rng(seed)
    phases = np.where(rng.permutation(period) % 2 == 0, share, 1 - share)
    return np.resize(phases, bits)


@pytest.fixture
def lane_shares():
    return lanes


def _load(name):
    folder = Path(os.environ.get("UNCLONE_DATA", Path(__file__).parents[2].parent / "shared" / "data"))
    path = folder / "puf" / name
    if not path.exists():
        pytest.skip(f"recorded silicon is absent: {path} (set UNCLONE_DATA)")
    with np.load(path) as data:
        return dict(data)


@pytest.fixture(scope="session")
def scum():
    data = _load("sram_scum.npz")
    return {name: np.unpackbits(data[name], axis=1) for name in ("L45", "M39", "M42")}


@pytest.fixture(scope="session")
def uno():
    data = _load("sram_uno_temperature.npz")
    return {
        "reads": np.unpackbits(data["reads"], axis=2),
        "valid": data["valid"],
        "reliability": data["rel_ambient15_pct"] / 100.0,
        "board22": np.unpackbits(data["board22_golden38"], axis=1),
    }


def at_most(successes, trials, probability, level=1e-6):
    """No more successes than a binomial of this probability explains at this level (exact tail)."""
    from scipy.stats import binom

    return binom.sf(successes - 1, trials, probability) > level


@pytest.fixture
def not_above():
    return at_most
