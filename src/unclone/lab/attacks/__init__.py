"""Attacks by name."""

from __future__ import annotations

from typing import Final

from unclone.lab.attacks.compression import PRUNE, QUANTISE
from unclone.lab.attacks.distillation import Distillation
from unclone.lab.attacks.helper_data import HelperManipulation
from unclone.lab.attacks.key_leak import KeyLeak
from unclone.lab.attacks.key_search import KeySearch
from unclone.lab.attacks.keystream import TwoTimePad
from unclone.lab.attacks.modelling import PUFModelling
from unclone.lab.attacks.positions import PositionDetection
from unclone.lab.attacks.public_base import PublicBase
from unclone.lab.attacks.repair import Repair, UseAsIs
from unclone.lab.attacks.search import BitwiseRecovery, Genetic, HillClimbing
from unclone.lab.attacks.training import ExponentsKnown, FineTune
from unclone.lab.attacks.transfer import NearTask
from unclone.lab.contracts import Attack

__all__ = ["ATTACKS"]

ATTACKS: Final[dict[str, Attack]] = {
    attack.name: attack
    for attack in (
        UseAsIs(),
        Repair("repair-clip", "clip"),
        Repair("repair-zero", "zero"),
        Repair("repair-median", "median"),
        FineTune(),
        FineTune("fine-tune-rescaled", rescale=True),
        ExponentsKnown(),
        NearTask(),
        BitwiseRecovery(),
        KeySearch(),
        HillClimbing(),
        Genetic(),
        PRUNE,
        QUANTISE,
        Distillation(),
        PublicBase(),
        PositionDetection(),
        PUFModelling(),
        TwoTimePad(),
        KeyLeak(),
        HelperManipulation(),
    )
}
