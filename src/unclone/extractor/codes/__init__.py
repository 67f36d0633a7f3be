"""Linear codes for the code-offset sketch: one protocol, one registry of specifications.

A code's specification travels in public helper data. It is normative: integers and strings alone describe the encoder
in full, and :func:`from_spec` refuses whatever no encoder of this package could have written. How a code is decoded is
not normative; ``list`` in a specification is the effort that the predicted failure assumes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from unclone.errors import ParameterError
from unclone.extractor.codes.concatenated import RepetitionReedMuller
from unclone.extractor.codes.polar import PolarCode

__all__ = ["Code", "PolarCode", "RepetitionReedMuller", "from_spec"]


class Code(Protocol):
    """A binary linear code with a soft decoder.

    Attributes:
        n: symbols of a code word, that is, response bits consumed.
        k: message bits, that is, secret bits.
    """

    n: int
    k: int

    def encode(self, message: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """``uint8`` 0/1 of shape ``(..., k)`` to ``(..., n)``; the code is linear."""
        ...

    def decode(self, llr: NDArray[np.float32]) -> NDArray[np.uint8]:
        """``(words, n)``, positive where 0 is likelier, to candidates ``(words, candidates, k)``, best first."""
        ...

    def spec(self) -> dict[str, int | str]:
        """Parameters for :func:`from_spec`: integers and strings only."""
        ...


def from_spec(spec: Mapping[str, object]) -> Code:
    """Build the code that a specification describes.

    Raises:
        ParameterError: unknown name, missing or surplus keys, a value of the wrong type or out of range.
    """
    if not isinstance(spec, Mapping):
        raise ParameterError("code specification: expected a mapping")
    name = spec.get("name")
    if name == "polar":
        return PolarCode.from_spec(spec)
    if name == "repetition-reed-muller":
        return RepetitionReedMuller.from_spec(spec)
    raise ParameterError("code specification: unknown name")
