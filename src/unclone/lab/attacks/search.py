"""Search with nothing but accuracy to go by: for the key, bit by bit, and for the weights."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from unclone.lab.attacks.fitness import Fitness
from unclone.lab.attacks.keyed import keyed
from unclone.lab.attacks.mutation import Genome, start_of
from unclone.lab.contracts import Array, Locked, Outcome, Task

__all__ = ["BitwiseRecovery", "Genetic", "HillClimbing"]


@dataclass
class BitwiseRecovery:
    """Flip one bit of the guessed key after the other and keep what raises the accuracy, until nothing does.

    Under a cipher a bit of the key changes every weight, so there is nothing to climb: bits right stay near one half.

    Attributes:
        budget: queries at most, times the effort.
    """

    name: str = "bitwise-recovery"
    budget: int = 600
    reference: str = "arXiv 2510.24422"
    published: str = "column swap of a binary network, 256 bits on MNIST: 85 % of the key, 93 of 96 % accuracy"
    needs: str = "labels"

    def run(self, task: Task, locked: Locked, *, labels: int, seed: int, effort: float) -> Outcome:
        """Search; ``detail``: ``queries``, ``bits_right`` (share of the key), ``own_score`` on the attacker's labels.

        Raises:
            ParameterError: the scheme has no key that a guess can be tried for.
        """
        start = time.process_time()
        fitness = Fitness(task, labels, seed)
        budget = max(1, round(self.budget * effort))
        with keyed(locked, seed) as model:
            key = model.guess.copy()
            best = fitness(model.weights(key))
            idle = 0  # flips in a row that were no use
            order = np.random.default_rng([seed, 0xB20]).permutation(key.size)
            for step in range(budget - 1):
                bit = order[step % key.size]
                key[bit] ^= 1
                found = fitness(model.weights(key))
                if found > best:
                    best, idle = found, 0
                    continue
                key[bit] ^= 1
                idle += 1
                if idle >= key.size:
                    break
            weights = model.weights(key)
            right = float((key == model.truth).mean())
        detail = {"queries": float(fitness.queries), "bits_right": right, "own_score": best[0]}
        return Outcome(task.score(weights), weights, fitness.queries, time.process_time() - start, detail)


@dataclass
class HillClimbing:
    """Change one gene of the file after the other (see ``Genome``) and keep what raises the accuracy.

    Attributes:
        budget: queries at most, times the effort.
    """

    name: str = "hill-climbing"
    budget: int = 400
    reference: str = "stochastic hill climbing on weights; the genes follow DNL, arXiv 2502.07408"
    published: str = ""
    needs: str = "labels"

    def run(self, task: Task, locked: Locked, *, labels: int, seed: int, effort: float) -> Outcome:
        """Search; ``detail``: ``queries``, ``own_score``."""
        start = time.process_time()
        rng = np.random.default_rng([seed, 0x411])
        fitness = Fitness(task, labels, seed)
        genome = Genome(start_of(task, locked, fitness))
        genes = genome.neutral()
        best = fitness(genome.weights(genes))
        for step in range(max(1, round(self.budget * effort)) - fitness.queries):
            changed = genome.neighbour(genes, step, rng)
            found = fitness(genome.weights(changed))
            if found > best:
                genes, best = changed, found
        return _outcome(task, genome, genes, fitness, best[0], start)


@dataclass
class Genetic:
    """A population of such changes: tournaments of three, uniform crossover, mutation, the best two kept.

    Attributes:
        budget: queries at most, times the effort.
        population: individuals.
    """

    name: str = "genetic"
    budget: int = 400
    population: int = 10
    reference: str = "genetic algorithm on weights, as in Holland, 1975"
    published: str = ""
    needs: str = "labels"

    def run(self, task: Task, locked: Locked, *, labels: int, seed: int, effort: float) -> Outcome:
        """Search; ``detail``: ``queries``, ``own_score``."""
        start = time.process_time()
        rng = np.random.default_rng([seed, 0x6E7])
        fitness = Fitness(task, labels, seed)
        genome = Genome(start_of(task, locked, fitness))
        neutral = genome.neutral()
        people = [neutral, *(genome.mutated(neutral, rng) for _ in range(self.population - 1))]
        ranked = self._ranked(genome, people, fitness)
        while fitness.queries + self.population <= self.budget * effort:
            children = [
                genome.mutated(genome.crossed(self._parent(ranked, rng), self._parent(ranked, rng), rng), rng)
                for _ in range(self.population)
            ]
            ranked = sorted(
                ranked[:2] + self._ranked(genome, children, fitness), key=lambda individual: individual[0], reverse=True
            )[: self.population]
        (score, _), genes = ranked[0]
        return _outcome(task, genome, genes, fitness, score, start)

    def _ranked(self, genome: Genome, people: list[Array], fitness: Fitness) -> list[tuple[tuple[float, float], Array]]:
        judged = [(fitness(genome.weights(genes)), genes) for genes in people]
        return sorted(judged, key=lambda individual: individual[0], reverse=True)

    def _parent(self, ranked: list[tuple[tuple[float, float], Array]], rng: np.random.Generator) -> Array:
        return ranked[int(rng.integers(0, len(ranked), 3).min())][1]


def _outcome(task: Task, genome: Genome, genes: Array, fitness: Fitness, own: float, start: float) -> Outcome:
    weights = genome.weights(genes)
    detail: dict[str, Any] = {"queries": float(fitness.queries), "own_score": own}
    return Outcome(task.score(weights), weights, fitness.queries, time.process_time() - start, detail)
