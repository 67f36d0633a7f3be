"""Restoring: verify and unmask the wanted tensors in one pass over the files, on all cores."""

from __future__ import annotations

import mmap
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from unclone.errors import ParameterError, TensorTamperedError
from unclone.formats import Layout, Region
from unclone.hardening import lock_memory
from unclone.header import chunk_tag_bytes
from unclone.keys import ContentKeys
from unclone.mask import ChunkCipher, chunk_length
from unclone.model.carrier import Carrier
from unclone.model.parallel import Chunk, Progress, chunks_of, for_each_batch
from unclone.model.reading import Files, populate, read_into
from unclone.model.restored import RestoredModel, RestoredTensor
from unclone.records import Header
from unclone.selection import Positions

__all__ = ["Keystream", "Options", "Restorer", "Views"]

_ALIGN: Final = 64
_MAPPED_SHARE_PPM: Final = 50_000
"""Above, copying pages one by one on a mapping costs more than one copy of everything."""

Views = dict[str, NDArray[np.uint8]]
"""Where each tensor goes."""


@dataclass(frozen=True, slots=True)
class Options:
    """How to restore; see ``unclone.restore``."""

    copy: bool | None = None
    lock: bool = False
    verify: str = "all"
    threads: int | None = None
    progress: Progress | None = None

    def __post_init__(self) -> None:
        if self.verify not in ("all", "masked"):
            raise ParameterError(f"verify is 'all' or 'masked', not {self.verify!r}")


@dataclass(frozen=True, slots=True)
class Keystream:
    """All that unmasks one tensor elsewhere than on this processor (spec/bound-model.md, section 6).

    Attributes:
        cipher: a name in ``unclone.mask.CIPHERS``.
        key: of the binding.
        tensor: number of the tensor.
        pattern: one period of the bits that are masked.
        chunk: bytes of a chunk.
    """

    cipher: str
    key: bytes = field(repr=False)
    tensor: int
    pattern: bytes
    chunk: int


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

    def run(self, wanted: Iterable[str] | None, options: Options) -> RestoredModel:
        """Restore into fresh memory; see ``unclone.restore``."""
        regions = self._wanted(wanted)
        if not self._copied(options):
            maps = [self._files.private(file) for file in range(len(self._layout.files))]
            mapped = [mapping for mapping in maps if mapping is not None]
            if len(mapped) == len(maps):
                return self._on_mappings(regions, mapped, options.verify == "all", options.threads, options.progress)
        buffer, views = _allocate(regions)
        if options.lock:
            lock_memory(buffer)
        try:
            self.fill(regions, views, options.threads, options.progress)
        except BaseException:
            buffer[:] = 0
            raise
        return self._model(regions, views, [buffer])

    def _copied(self, options: Options) -> bool:
        selection = self._header.selection
        if options.verify == "masked" and (options.copy or options.lock or not selection.block):
            raise ParameterError(
                "verify='masked' is for a mapping of a model of which blocks are masked, not for a copy"
            )
        if options.copy is not None or options.lock or options.verify == "masked":
            return options.lock or bool(options.copy)
        return not selection.block or selection.share_ppm > _MAPPED_SHARE_PPM

    def keystream(self, name: str) -> Keystream | None:
        """What unmasks the tensor of that name; ``None`` where it is in clear."""
        if name not in self._masked:
            return None
        number = self._masked[name]
        pattern = self._header.tensors[number].pattern
        chunk = chunk_length(self._header.chunk, pattern)
        return Keystream(self._header.cipher, self._cipher.key, number, pattern, chunk)

    def verify(self, regions: Sequence[Region], threads: int | None = None) -> None:
        """Verify the tags of ``regions`` and keep nothing, for whoever unmasks elsewhere.

        Raises:
            TensorTamperedError: one does not hold.
        """

        def work(batch: Sequence[Chunk]) -> None:
            out = np.empty(max(chunk.nbytes for chunk in batch), dtype=np.uint8)
            for chunk in batch:
                self._unmask(chunk, out[: chunk.nbytes])
            out[:] = 0

        for_each_batch(self._chunks(regions), work, threads, None)

    def fill(self, regions: Sequence[Region], views: Views, threads: int | None, progress: Progress | None) -> None:
        """Restore ``regions`` into ``views``, which a caller overwrites if this raises."""
        for region in regions:
            if region.name not in self._masked:
                read_into(self._files.descriptors[region.file], views[region.name], region.offset)

        def work(batch: Sequence[Chunk]) -> None:
            for chunk in batch:
                whole = views[self._header.tensors[chunk.tensor].name]
                self._unmask(chunk, whole[chunk.offset : chunk.offset + chunk.nbytes])

        for_each_batch(self._chunks(regions), work, threads, progress)

    def _chunks(self, regions: Sequence[Region], among: Callable[[int], Iterable[int]] | None = None) -> list[Chunk]:
        numbers = [self._masked[region.name] for region in regions if region.name in self._masked]
        return list(chunks_of(self._header.tensors, numbers, self._header.chunk, among))

    def _unmask(self, chunk: Chunk, out: NDArray[np.uint8]) -> None:
        tensor = self._header.tensors[chunk.tensor]
        region = self._layout.regions[tensor.name]
        masked = self._files.view(region.file, region.offset + chunk.offset, chunk.nbytes, self._scratch())
        tile, spans = self._positions.of(chunk.tensor, chunk.index, chunk.nbytes)
        if spans is not None:
            out[:] = masked
        if not self._cipher.unmask(chunk.tensor, chunk.index, tile, masked, out, self._tag(chunk), spans):
            raise TensorTamperedError(tensor.name)

    def _scratch(self) -> NDArray[np.uint8]:
        scratch: NDArray[np.uint8] | None = getattr(self._local, "scratch", None)
        if scratch is None:
            scratch = self._local.scratch = np.empty(self._header.chunk, dtype=np.uint8)
        return scratch

    def _on_mappings(
        self,
        regions: Sequence[Region],
        maps: Sequence[mmap.mmap],
        verify_clear: bool,
        threads: int | None,
        progress: Progress | None,
    ) -> RestoredModel:
        """Unmask in place on private mappings: only pages with masked blocks are copied."""
        files = [np.frombuffer(mapping, dtype=np.uint8) for mapping in maps]
        views = {r.name: files[r.file][r.offset : r.offset + r.nbytes] for r in regions}
        secret: list[NDArray[np.uint8]] = []

        def work(batch: Sequence[Chunk]) -> None:
            for chunk in batch:
                tile, spans = self._positions.of(chunk.tensor, chunk.index, chunk.nbytes)
                name = self._header.tensors[chunk.tensor].name
                region = self._layout.regions[name]
                at = region.offset + chunk.offset
                if verify_clear:
                    populate(maps[region.file], at, chunk.nbytes)
                for start, stop in spans or ():
                    # One call for the copies of all pages that will be written to, instead of a fault for each.
                    populate(maps[region.file], at + start, stop - start, write=True)
                part = views[name][chunk.offset : chunk.offset + chunk.nbytes]
                secret.extend([part] if spans is None else [part[start:stop] for start, stop in spans])
                tag = self._tag(chunk)
                if not self._cipher.unmask(
                    chunk.tensor, chunk.index, tile, part, part, tag, spans, verify_clear=verify_clear
                ):
                    raise TensorTamperedError(name)

        try:
            if verify_clear:
                for_each_batch(self._chunks(regions), work, threads, progress)
            else:
                # Short calls and page faults: two threads wait for each other, and take three times as long as one.
                for_each_batch(self._chunks(regions, self._positions.masked_chunks), work, threads or 1, progress)
        except BaseException:
            for part in secret:
                part[:] = 0
            raise
        return self._model(regions, views, secret)

    def _tag(self, chunk: Chunk) -> bytes:
        length = chunk_tag_bytes(self._header.selection)
        return self._header.tensors[chunk.tensor].tags[chunk.index * length : (chunk.index + 1) * length]

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
