"""Schemes by name: this package, and the literature's."""

from __future__ import annotations

from typing import Final

from unclone.lab.contracts import Scheme
from unclone.lab.schemes.bound import VARIANTS
from unclone.lab.schemes.column_swap import ColumnSwap
from unclone.lab.schemes.published import ColumnPermutation, FewWeights, PaperPad, SignFlips

__all__ = ["SCHEMES"]

SCHEMES: Final[dict[str, Scheme]] = {
    scheme.name: scheme
    for scheme in (*VARIANTS, PaperPad(), ColumnPermutation(), SignFlips(), FewWeights(), ColumnSwap())
}
