"""The dial: which blocks of the weights a partial binding masks.

Partial binding is a trade: less work at start-up, and an attacker who finds most of the weights in clear. What it costs
is measured in docs/security.md; the default masks everything.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from unclone.errors import ParameterError
from unclone.formats import Weight
from unclone.header import FULL_PPM, SELECTS, blocks_of
from unclone.mask import ALL_BITS, chunk_length
from unclone.records import Header, Selection

__all__ = ["check_dial", "choose_blocks", "selection_of", "word_pattern"]

Pieces = Callable[[Weight, int], Iterator[NDArray[np.uint8]]]
"""A weight's bytes, so many at a time."""

_WIDE_BLOCKS: Final = (1 << 16, 1 << 18)  # above, nothing is won: every block breaks up one huge page of a mapping
_WIDE_BLOCK_PART: Final = 1 << 11  # a wide block is at most this part of the weights, unless it is the smallest
_FINE_BLOCK: Final = 1 << 12  # a page: picking by value wants a fine grain
_WORDS: Final = {"8": 1, "16": 2, "32": 4, "64": 8, "128": 16}


def check_dial(share: float, select: str, saliency: Mapping[str, Any] | None) -> None:
    """Refuse what makes no sense.

    Raises:
        ParameterError: the share is not in (0, 1], the selection is unknown, or saliency is missing or in vain.
    """
    if not 1 / FULL_PPM <= share <= 1:
        raise ParameterError(f"share is above 0 and at most 1 (in steps of {1 / FULL_PPM:g}), not {share!r}")
    if select not in SELECTS[1:]:
        raise ParameterError(f"select is {', '.join(SELECTS[1:])}, not {select!r}")
    if (select == "saliency") != (saliency is not None):
        raise ParameterError("select='saliency' and saliency=... go together")


def selection_of(share: float, select: str, nbytes: int) -> Selection:
    """The header's entry for a model with ``nbytes`` bytes of weights, its positions not yet chosen."""
    ppm = round(share * FULL_PPM)
    return Selection() if ppm == FULL_PPM else Selection(select, ppm, _block_bytes(select, nbytes))


def _block_bytes(select: str, nbytes: int) -> int:
    if select == "random":
        return 0
    if select in ("magnitude", "saliency"):
        return _FINE_BLOCK
    small, large = _WIDE_BLOCKS
    return large if nbytes >= _WIDE_BLOCK_PART * large else small


def word_pattern(pattern: bytes, dtype: str) -> bytes:
    """A pattern as long as a word, so that single words can be drawn."""
    digits = "".join(c for c in dtype.split("_")[0] if c.isdigit())
    return pattern * _WORDS.get(digits, 1) if pattern == ALL_BITS else pattern


def choose_blocks(
    header: Header, weights: Sequence[Weight], pieces: Pieces, saliency: Mapping[str, Any] | None
) -> bytes:
    """The bitmap of masked blocks, least significant bit first: the best until the share of bytes is reached.

    Args:
        header: with tensors, chunk and selection.
        weights: the tensors in the header's order.
        pieces: reads a weight.
        saliency: how much each number of a tensor matters, by name, of the tensor's shape (``"saliency"``).

    Raises:
        ParameterError: saliency for a tensor is missing, or of another size.
    """
    sizes = np.concatenate([_block_sizes(number, header) for number in range(len(weights))])
    total = int(sizes.sum())
    match header.selection.select:
        case "first-layers":
            order = np.arange(sizes.size)
        case "blocks":
            # Drawn afresh for each binding, and sealed: whoever does not hold the content key cannot tell.
            order = np.argsort(np.frombuffer(secrets.token_bytes(8 * sizes.size), dtype=np.uint64), kind="stable")
        case "magnitude":
            order = _falling([_magnitudes(header, number, weight, pieces) for number, weight in enumerate(weights)])
        case _:
            order = _falling([_saliencies(header, number, saliency or {}) for number in range(len(weights))])
    reached = np.cumsum(sizes[order])
    wanted = total * header.selection.share_ppm / FULL_PPM
    chosen = np.zeros(sizes.size, dtype=np.uint8)
    chosen[order[: int(np.searchsorted(reached, wanted)) + 1]] = 1
    return np.packbits(chosen, bitorder="little").tobytes()


def _block_sizes(number: int, header: Header) -> NDArray[np.int64]:
    tensor, block = header.tensors[number], header.selection.block
    edges = _block_edges(number, header)
    sizes = np.diff(np.append(edges, tensor.nbytes))
    if sizes.size != blocks_of(tensor, header) or (sizes > block).any():
        raise AssertionError("blocks do not fill the tensor")
    return sizes.astype(np.int64)


def _block_edges(number: int, header: Header) -> NDArray[np.int64]:
    """First byte of every block of a tensor."""
    tensor, block = header.tensors[number], header.selection.block
    step = chunk_length(header.chunk, tensor.pattern)
    starts = [np.arange(at, min(at + step, tensor.nbytes), block) for at in range(0, tensor.nbytes, step)]
    return np.concatenate([np.empty(0, dtype=np.int64), *starts])


def _falling(scores: list[NDArray[np.float64]]) -> NDArray[np.int64]:
    return np.argsort(-np.concatenate(scores), kind="stable")


def _magnitudes(header: Header, number: int, weight: Weight, pieces: Pieces) -> NDArray[np.float64]:
    """Mean magnitude in each block, over that of the tensor: codes of integers and floats have no common scale.

    Of block-quantised types, the magnitude of their bytes as signed integers.
    """
    step = chunk_length(header.chunk, header.tensors[number].pattern)
    means = [
        _means(_absolute(weight.dtype, data), data.size, np.arange(0, data.size, header.selection.block))
        for data in pieces(weight, step)
    ]
    scores = np.concatenate([np.empty(0), *means])
    return scores / (scores.mean() or 1.0) if scores.size else scores


def _absolute(dtype: str, data: NDArray[np.uint8]) -> NDArray[np.float32]:
    if dtype == "bfloat16":
        return np.abs((data.view("<u2").astype(np.uint32) << 16).view(np.float32))
    kind = dtype if dtype in ("float16", "float32", "float64") else "int8"
    with np.errstate(over="ignore", invalid="ignore"):
        values = np.abs(data.view(kind).astype(np.float32))
    return np.nan_to_num(values, posinf=0)


def _saliencies(header: Header, number: int, saliency: Mapping[str, Any]) -> NDArray[np.float64]:
    tensor = header.tensors[number]
    if tensor.name not in saliency:
        raise ParameterError(f"saliency has no entry for tensor {tensor.name!r}")
    values = np.abs(np.asarray(saliency[tensor.name], dtype=np.float32)).reshape(-1)
    if values.size != int(np.prod(tensor.shape)):
        raise ParameterError(f"saliency of tensor {tensor.name!r} has {values.size} numbers, the tensor another size")
    return _means(values, tensor.nbytes, _block_edges(number, header))


def _means(values: NDArray[Any], nbytes: int, edges: NDArray[np.int64]) -> NDArray[np.float64]:
    if not edges.size:
        return np.empty(0)
    at = np.minimum(edges * values.size // max(nbytes, 1), values.size - 1)
    sums = np.add.reduceat(values, at, dtype=np.float64)
    return np.asarray(sums / np.maximum(np.diff(np.append(at, values.size)), 1))
