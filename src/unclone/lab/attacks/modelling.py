"""Modelling of a PUF that answers challenges: learn it from some answers, foretell the rest, decipher with them."""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from unclone.lab.attacks.repair import Repair
from unclone.lab.contracts import Locked, Outcome, Task
from unclone.lab.schemes.arbiter_pad import Pairs, pad_of
from unclone.lab.schemes.published import xored
from unclone.puf.arbiter import parity_features

__all__ = ["PUFModelling", "fit_model"]

_HELD_OUT = 0.1
_NARROWEST = 16
_ATTEMPTS = 3
_LEARNT = 0.9


@dataclass
class PUFModelling:
    """Logistic regression for one chain, a small network for the XOR of several, on the parity features.

    The pad that the model foretells is taken off; weights that a wrong bit made implausible are set to zero. Where the
    PUF answers no challenges, as the memory under this package's default, there is nothing to learn from.
    """

    name: str = "puf-modelling"
    reference: str = "Ruehrmair et al., CCS 2010 and IEEE TIFS 8(11), 2013; Mursi et al., Electronics 9(10), 2020"
    published: str = "64 stages: 99 % of an arbiter PUF from 2,555 pairs; 99 % of 4-XOR from 12,000, in minutes"
    needs: str = "device"

    def run(self, task: Task, locked: Locked, *, labels: int, seed: int, effort: float) -> Outcome:  # noqa: ARG002
        """Learn, decipher; ``detail``: ``pairs``, ``foretold`` (share of pairs held out), ``bits_right`` of the pad."""
        start = time.process_time()
        pairs: Pairs | None = locked.info.get("observed")
        if pairs is None:
            return Outcome(task.score(locked.weights), locked.weights, detail={"pairs": 0.0})
        model = fit_model(pairs, locked.info["chains"], seed, effort)
        held = round(_HELD_OUT * len(pairs.answers))
        foretold = float((model.predict(parity_features(pairs.challenges[:held])) == pairs.answers[:held]).mean())
        pad = pad_of(
            locked.weights,
            locked.info["schedule"],
            locked.info["stages"],
            lambda challenges: model.predict(parity_features(challenges)),
        )
        weights = Repair("repair-zero", "zero").apply(xored(locked.weights, pad))
        seconds = time.process_time() - start
        truth = np.concatenate([word.reshape(-1).view(np.uint8) for word in locked.secret.values()])
        guess = np.concatenate([word.reshape(-1).view(np.uint8) for word in pad.values()])
        right = 1 - float(np.unpackbits(truth ^ guess).mean())
        detail = {"pairs": float(len(pairs.answers)), "foretold": foretold, "bits_right": right}
        return Outcome(task.score(weights), weights, len(pairs.answers), seconds, detail)


def fit_model(pairs: Pairs, chains: int, seed: int, effort: float = 1.0) -> Any:
    """A classifier from parity features, shape ``(n, stages + 1)``, to answers; the first tenth is held out.

    Args:
        pairs: what was observed.
        chains: of the PUF: public.
        seed: of the network's first weights.
        effort: multiplies the passes over the pairs.
    """
    held = round(_HELD_OUT * len(pairs.answers))
    features, answers = parity_features(pairs.challenges[held:]), pairs.answers[held:]
    if chains == 1:
        from sklearn.linear_model import LogisticRegression

        return LogisticRegression(C=10.0, max_iter=500).fit(features, answers)
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier

    wide = max(_NARROWEST, 1 << chains)
    networks = []
    for attempt in range(_ATTEMPTS):  # now and then one learns nothing
        network = MLPClassifier(
            (wide // 2, wide, wide // 2),  # Mursi et al., section 4, but for few chains wider
            activation="tanh",
            alpha=0.0,
            batch_size=min(500, len(answers)),
            learning_rate_init=1e-2 if chains < 4 else 5e-3,
            max_iter=max(5, round(60 * effort)),
            n_iter_no_change=60,
            random_state=seed + 1000 * attempt,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the passes are a budget
            networks.append(network.fit(features, answers))
        if network.score(features, answers) > _LEARNT:
            break
    return max(networks, key=lambda network: network.score(features, answers))
