"""The few changes of a file that a search without gradients can afford to try."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from unclone.errors import ParameterError
from unclone.lab.attacks.fitness import Fitness
from unclone.lab.attacks.repair import Repair
from unclone.lab.contracts import Locked, Task, Weights
from unclone.lab.magnitudes import has_magnitudes, written

__all__ = ["Genome", "start_of"]

Genes = NDArray[np.float64]

_LARGEST = 24
_BLOCKS = 4


def start_of(task: Task, locked: Locked, fitness: Fitness) -> Weights:
    """The file as it lies, or with its outliers zeroed: what does better on the attacker's labels."""
    repaired = Repair("zero", "zero").run(task, locked, labels=0, seed=0, effort=1.0).weights
    return max((locked.weights, repaired or locked.weights), key=fitness)


class Genome:
    """Factors: one for each of a tensor's largest weights (its sign, or its absence), for a few blocks, and for all.

    Few changed weights is what cheap locks do (DNL flips signs of the largest), and a scale is what a masked tensor
    has lost first.

    Args:
        base: where the search starts; floats and int8 codes of two or more axes are changed.

    Raises:
        ParameterError: there is none.
    """

    def __init__(self, base: Weights) -> None:
        self._base = base
        names = [name for name, value in base.items() if value.ndim > 1 and has_magnitudes(value)]
        if not names:
            raise ParameterError("a search on weights changes floats or int8 codes, and this model has none")
        with np.errstate(invalid="ignore"):  # signalling NaN
            wide = {name: np.abs(np.nan_to_num(base[name].astype(np.float64))).reshape(-1) for name in names}
        self._large = {name: np.argsort(-value, kind="stable")[:_LARGEST] for name, value in wide.items()}
        self._blocks = {name: np.array_split(np.arange(base[name].size), _BLOCKS) for name in names}
        # The k-th largest of every tensor before any (k+1)-th: no tensor waits for another.
        self._genes = sorted(
            ((rank, name, "one") for name in names for rank in range(len(self._large[name]))),
            key=lambda gene: gene[0],
        )
        self._signs = len(self._genes)
        self._genes += [(rank, name, "block") for name in names for rank in range(_BLOCKS)]
        self._genes += [(0, name, "all") for name in names]

    def neutral(self) -> Genes:
        """No change, shape ``(genes,)``."""
        return np.ones(len(self._genes))

    def weights(self, genes: Genes) -> Weights:
        """The start with every factor applied."""
        result = {name: value.copy() for name, value in self._base.items()}
        changes = ((gene, factor) for gene, factor in zip(self._genes, genes, strict=True) if factor != 1)
        with np.errstate(all="ignore"):  # masked weights overflow
            for (rank, name, kind), factor in changes:
                flat = result[name].reshape(-1)
                if kind == "all":
                    flat[:] = written(flat * np.float64(factor), flat)
                else:
                    places = self._large[name][rank] if kind == "one" else self._blocks[name][rank]
                    flat[places] = written(flat[places] * np.float64(factor), flat)
        return result

    def neighbour(self, genes: Genes, step: int, rng: np.random.Generator) -> Genes:
        """One gene changed: signs in turn, and every fourth time a block or a scale at random."""
        result = genes.copy()
        if step % 4 < 3:
            place = (step - step // 4) % self._signs
            result[place] *= -1
        else:
            place = int(rng.integers(self._signs, len(self._genes)))
            result[place] *= self._factor(place, rng)
        return result

    def mutated(self, genes: Genes, rng: np.random.Generator) -> Genes:
        """About two genes changed."""
        result = genes.copy()
        for place in np.flatnonzero(rng.random(len(genes)) < 2 / len(genes)):
            result[place] *= self._factor(int(place), rng)
        return result

    def crossed(self, first: Genes, second: Genes, rng: np.random.Generator) -> Genes:
        """Each gene from either parent."""
        return np.where(rng.random(len(first)) < 0.5, first, second)

    def _factor(self, place: int, rng: np.random.Generator) -> float:
        kind = self._genes[place][2]
        if kind == "one":
            return -1.0
        return float(rng.choice([-1.0, 0.0, 1.0]) if kind == "block" else np.exp(rng.normal(0, 0.7)))
