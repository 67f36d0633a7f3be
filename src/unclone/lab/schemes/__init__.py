"""Schemes by name: this package, and the literature's."""

from __future__ import annotations

from typing import Final

from unclone.lab.contracts import Scheme
from unclone.lab.schemes.arbiter_pad import ArbiterPad
from unclone.lab.schemes.bare_helper import BareHelper
from unclone.lab.schemes.bound import VARIANTS
from unclone.lab.schemes.cat_map import CatMap, DualScrambling
from unclone.lab.schemes.column_swap import ColumnSwap
from unclone.lab.schemes.nnsplitter import NNSplitter
from unclone.lab.schemes.permutation import Permutation
from unclone.lab.schemes.picked import PickedWeights
from unclone.lab.schemes.published import FewWeights, PaperPad, SignFlips
from unclone.lab.schemes.reused_pad import ReusedPad

__all__ = ["SCHEMES"]

SCHEMES: Final[dict[str, Scheme]] = {
    scheme.name: scheme
    for scheme in (
        *VARIANTS,
        PaperPad(),
        ArbiterPad(),
        ArbiterPad("xor-arbiter-pad", chains=4, observed=60_000),
        ReusedPad(),
        BareHelper(),
        Permutation(),
        Permutation("row-column-permutation", rows=True),
        SignFlips(),
        FewWeights(),
        PickedWeights(),
        NNSplitter(),
        ColumnSwap(),
        CatMap(),
        DualScrambling(),
    )
}
