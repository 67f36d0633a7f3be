"""Restoring: verify and unmask the wanted tensors in one pass over the files, on all cores."""

from __future__ import annotations

import mmap
import threading
from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from unclone.errors import ParameterError, TensorTamperedError
from unclone.formats import Layout, Region
from unclone.hardening import lock_memory
from unclone.keys import ContentKeys
from unclone.mask import TAG_BYTES, ChunkCipher
from unclone.model.carrier import Carrier
from unclone.model.parallel import Chunk, Progress, chunks_of, for_each_batch
from unclone.model.reading import Files, populate, read_into
from unclone.model.restored import RestoredModel, RestoredTensor
from unclone.records import Header
from unclone.selection import Positions

__all__ = ["Restorer", "Views"]

_ALIGN: Final = 64

Views = dict[str, NDArray[np.uint8]]
"""Where each tensor goes."""


class Restorer:
    """Unmasks the tensors of one bound model, as often as asked; safe for one call at a time.

    Raises:
        HeaderTamperedError: the sealed positions were altered.
    """

    def __init__(self, header: Header, layout: Layout, carrier: Carrier, keys: ContentKeys, files: Files) -> None:
        self._header = header
        self._layout = layout
        self._carrier = carrier
        self._files = files
        self._cipher = ChunkCipher(keys, header.cipher)
        self._positions = Positions(header, keys)
        self._masked = {tensor.name: number for number, tensor in enumerate(header.tensors)}
        self._local = threading.local()

    def run(
        self,
        wanted: Iterable[str] | None,
        *,
        copy: bool | None,
        lock: bool,
        threads: int | None,
        progress: Progress | None,
    ) -> RestoredModel:
        """Restore into fresh memory; see ``unclone.restore``."""
        regions = self._wanted(wanted)
        if copy is None:
            copy = lock or not (self._positions.partial and self._header.selection.block)
        maps = None if copy else [self._files.private(file) for file in range(len(self._layout.files))]
        if maps is not None and all(mapping is not None for mapping in maps):
            return self._on_mappings(regions, maps, threads, progress)
        buffer, views = _allocate(regions)
        if lock:
            lock_memory(buffer)
        try:
            self.fill(regions, views, threads, progress)
        except BaseException:
            buffer[:] = 0
            raise
        return self._model(regions, views, [buffer])

    def fill(self, regions: Sequence[Region], views: Views, threads: int | None, progress: Progress | None) -> None:
        """Restore ``regions`` into ``views``, which a caller overwrites if this raises."""
        for region in regions:
            if region.name not in self._masked:
                read_into(self._files.descriptors[region.file], views[region.name], region.offset)

        def work(batch: Sequence[Chunk]) -> None:
            for chunk in batch:
                self._unmask(chunk, views)

        for_each_batch(self._chunks(regions), work, threads, progress)

    def _chunks(self, regions: Sequence[Region]) -> list[Chunk]:
        numbers = [self._masked[region.name] for region in regions if region.name in self._masked]
        return list(chunks_of(self._header.tensors, numbers, self._header.chunk))

    def _unmask(self, chunk: Chunk, views: Views) -> None:
        tensor = self._header.tensors[chunk.tensor]
        region = self._layout.regions[tensor.name]
        out = views[tensor.name][chunk.offset : chunk.offset + chunk.nbytes]
        masked = self._files.view(region.file, region.offset + chunk.offset, chunk.nbytes, self._scratch())
        tile, spans = self._positions.of(chunk.tensor, chunk.index, chunk.nbytes)
        if spans is not None:
            out[:] = masked
        tag = tensor.tags[chunk.index * TAG_BYTES : (chunk.index + 1) * TAG_BYTES]
        if not self._cipher.unmask(chunk.tensor, chunk.index, tile, masked, out, tag, spans):
            raise TensorTamperedError(tensor.name)

    def _scratch(self) -> NDArray[np.uint8]:
        scratch: NDArray[np.uint8] | None = getattr(self._local, "scratch", None)
        if scratch is None:
            scratch = self._local.scratch = np.empty(self._header.chunk, dtype=np.uint8)
        return scratch

    def _on_mappings(
        self,
        regions: Sequence[Region],
        maps: Sequence[mmap.mmap | None],
        threads: int | None,
        progress: Progress | None,
    ) -> RestoredModel:
        """Unmask in place on private mappings: only pages with masked blocks are copied."""
        files = [np.frombuffer(mapping, dtype=np.uint8) for mapping in maps if mapping is not None]
        views = {r.name: files[r.file][r.offset : r.offset + r.nbytes] for r in regions}
        secret: list[NDArray[np.uint8]] = []

        def work(batch: Sequence[Chunk]) -> None:
            for chunk in batch:
                tensor = self._header.tensors[chunk.tensor]
                region = self._layout.regions[tensor.name]
                mapping = maps[region.file]
                if mapping is not None:
                    populate(mapping, region.offset + chunk.offset, chunk.nbytes)
                part = views[tensor.name][chunk.offset : chunk.offset + chunk.nbytes]
                tile, spans = self._positions.of(chunk.tensor, chunk.index, chunk.nbytes)
                secret.extend([part] if spans is None else [part[start:stop] for start, stop in spans])
                tag = tensor.tags[chunk.index * TAG_BYTES : (chunk.index + 1) * TAG_BYTES]
                if not self._cipher.unmask(chunk.tensor, chunk.index, tile, part, part, tag, spans):
                    raise TensorTamperedError(tensor.name)

        try:
            for_each_batch(self._chunks(regions), work, threads, progress)
        except BaseException:
            for part in secret:
                part[:] = 0
            raise
        return self._model(regions, views, secret)

    def _model(self, regions: Sequence[Region], views: Views, secret: list[NDArray[np.uint8]]) -> RestoredModel:
        tensors = {r.name: RestoredTensor(r.name, r.dtype, r.shape, views[r.name]) for r in regions}
        return RestoredModel(self._header, self._layout, tensors, secret, self._carrier)

    def _wanted(self, names: Iterable[str] | None) -> list[Region]:
        regions = self._layout.regions
        if names is None:
            return list(regions.values())
        try:
            return [regions[name] for name in dict.fromkeys(names)]
        except KeyError as missing:
            raise ParameterError(f"{self._layout.files[0]} has no tensor {missing.args[0]!r}") from None


def _allocate(regions: Sequence[Region]) -> tuple[NDArray[np.uint8], Views]:
    # One fresh array: numpy asks for huge pages, and the first touch is the floor of a private copy.
    sizes = [-(-region.nbytes // _ALIGN) * _ALIGN for region in regions]
    buffer = np.empty(sum(sizes) + _ALIGN, dtype=np.uint8)
    views: Views = {}
    position = -buffer.ctypes.data % _ALIGN
    for region, size in zip(regions, sizes, strict=True):
        views[region.name] = buffer[position : position + region.nbytes]
        position += size
    return buffer, views
