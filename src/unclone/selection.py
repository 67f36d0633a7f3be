"""Which part of a chunk is masked (spec/bound-model.md, section 6.2).

Everything, as a rule. With the dial, either single words, drawn by a keystream, or whole blocks, by a bitmap that is
sealed in the header. Both need the content key: nothing in clear says which weights are masked.
"""

from __future__ import annotations

import itertools
from typing import Final

import numpy as np
from numpy.typing import NDArray

from unclone.errors import HeaderTamperedError
from unclone.header import FULL_PPM, blocks_of
from unclone.keys import ContentKeys, open_positions
from unclone.mask import ChunkCipher, Spans, Tile, chunk_length, tile_of
from unclone.records import Header

__all__ = ["DRAW_BYTES", "Positions", "threshold"]

DRAW_BYTES: Final = 4


def threshold(share_ppm: int) -> int:
    """A word is masked when its draw, 32 bits, is below this."""
    return (share_ppm << 32) // FULL_PPM


class Positions:
    """What of each chunk is masked: a tile, and spans where it is not the whole chunk. Safe to share between threads.

    Args:
        header: parsed; ``selection.positions`` sealed.
        keys: of the binding.

    Raises:
        HeaderTamperedError: the sealed bitmap was altered.
    """

    def __init__(self, header: Header, keys: ContentKeys) -> None:
        self._header = header
        patterns = {tensor.pattern for tensor in header.tensors}
        self._tiles = {pattern: tile_of(pattern, header.chunk) for pattern in patterns}
        self._select = header.selection.select
        if self._select == "random":
            draws = ContentKeys(keys.positions, keys.header, keys.positions)
            self._draws = ChunkCipher(draws, header.cipher)
            self._threshold = np.uint64(threshold(header.selection.share_ppm))
        elif self._select != "all":
            self._bitmap = self._open(header, keys)
            self._first = [0, *itertools.accumulate(blocks_of(tensor, header) for tensor in header.tensors)]

    @property
    def partial(self) -> bool:
        """Whether some weights are in clear."""
        return self._select != "all"

    def of(self, tensor: int, chunk: int, nbytes: int) -> tuple[Tile | None, Spans | None]:
        """The tile of a chunk of ``nbytes`` bytes (``None``: all bits), and its masked spans (``None``: all of it)."""
        pattern = self._header.tensors[tensor].pattern
        tile = self._tiles[pattern]
        if self._select == "all":
            return tile, None
        if self._select == "random":
            return self._drawn(tensor, chunk, nbytes, pattern, tile), None
        return tile, self._spans(tensor, chunk, nbytes)

    def masked_chunks(self, tensor: int) -> list[int]:
        """Numbers of the chunks of a tensor in which a block is masked; for a model of which blocks are masked."""
        blocks = self._bitmap[self._first[tensor] : self._first[tensor + 1]]
        return sorted(set((np.flatnonzero(blocks) // self._blocks_each(tensor)).tolist()))

    def _drawn(self, tensor: int, chunk: int, nbytes: int, pattern: bytes, tile: Tile | None) -> Tile:
        words = -(-nbytes // len(pattern))
        draws = self._draws.keystream(tensor, chunk, DRAW_BYTES * words).view("<u4")
        chosen = np.repeat((draws < self._threshold).view(np.uint8), len(pattern))[:nbytes] * np.uint8(0xFF)
        if tile is not None:
            tile.keep(chosen)
        return Tile(chosen, nbytes)

    def _spans(self, tensor: int, chunk: int, nbytes: int) -> Spans:
        block = self._header.selection.block
        first = self._first[tensor] + chunk * self._blocks_each(tensor)
        chosen = np.flatnonzero(self._bitmap[first : first + -(-nbytes // block)])
        spans: Spans = []
        for start in (chosen * block).tolist():
            stop = min(start + block, nbytes)
            if spans and spans[-1][1] == start:
                spans[-1] = (spans[-1][0], stop)
            else:
                spans.append((start, stop))
        return spans

    def _blocks_each(self, tensor: int) -> int:
        """Blocks of a full chunk."""
        step = chunk_length(self._header.chunk, self._header.tensors[tensor].pattern)
        return -(-step // self._header.selection.block)

    def _open(self, header: Header, keys: ContentKeys) -> NDArray[np.uint8]:
        bitmap = open_positions(keys, header.selection.positions)
        if bitmap is None:
            raise HeaderTamperedError("the positions of the masked blocks were altered")
        return np.unpackbits(np.frombuffer(bitmap, dtype=np.uint8), bitorder="little")
