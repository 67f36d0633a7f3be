"""Restore: verify and unmask a bound model into one private buffer, in one pass. Nothing is written to disk."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from unclone.errors import (
    FormatError,
    HeaderTamperedError,
    NotBoundError,
    ParameterError,
    TensorTamperedError,
)
from unclone.formats import Layout, Region, detect
from unclone.header import mac_input, parse_header
from unclone.keys import ContentKeys, check_header_mac, content_keys, open_slot
from unclone.mask import ALL_BITS, TAG_BYTES, ChunkCipher, chunk_length, tile
from unclone.model.carrier import carrier_digest, layout_holes, masked_regions
from unclone.model.parallel import Chunk, Progress, chunks_of, for_each_batch
from unclone.records import DeviceKey, Header, MaskedTensor

__all__ = ["RestoredModel", "RestoredTensor", "restore"]

_ALIGN: Final = 64


@dataclass(frozen=True, slots=True)
class RestoredTensor:
    """A tensor in clear, in memory.

    Attributes:
        name: its name.
        dtype: the format's dtype name in lower case.
        shape: dimensions.
        data: its bytes, ``uint8``, shape ``(nbytes,)``: a view of the model's one buffer, aligned to 64 bytes.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: NDArray[np.uint8]

    def __repr__(self) -> str:
        return f"RestoredTensor({self.name!r}, {self.dtype}, shape={self.shape})"


class RestoredModel(Mapping[str, RestoredTensor]):
    """The tensors of a restored model by name, those that were masked and those that stayed in clear.

    As a context manager, or through ``wipe``, it overwrites its buffer at the end; every array made over it is then
    zero. See LIMITATIONS.md for what that does not promise.

    Attributes:
        header: the verified header.
        layout: where everything lies in the bound file.
    """

    def __init__(self, header: Header, layout: Layout, tensors: dict[str, RestoredTensor], buffer: NDArray[np.uint8]):
        self.header = header
        self.layout = layout
        self._tensors = tensors
        self._buffer = buffer

    def __getitem__(self, name: str) -> RestoredTensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __repr__(self) -> str:
        return f"RestoredModel({self.header.format}, {len(self)} tensors, {self.nbytes} bytes)"

    @property
    def nbytes(self) -> int:
        """Bytes of the buffer that holds the tensors."""
        return int(self._buffer.nbytes)

    def wipe(self) -> None:
        """Overwrite the weights."""
        self._buffer[:] = 0

    def __enter__(self) -> RestoredModel:
        return self

    def __exit__(self, *_: object) -> None:
        self.wipe()


def restore(
    path: str | os.PathLike[str],
    key: DeviceKey,
    *,
    tensors: Iterable[str] | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> RestoredModel:
    """Verify a bound model and restore its true weights in memory.

    The slot, the header, every byte beside the weights, and each wanted tensor are verified before any of them is
    handed out.

    Args:
        path: the bound model.
        key: the device key, from ``reconstruct``.
        tensors: names to restore; all by default. Those left out are neither read nor verified.
        threads: one for each processor by default.
        progress: called with (bytes done, bytes in all).

    Raises:
        NotBoundError: an ordinary model.
        FormatError: not a model file, truncated, or of an unknown version.
        SlotError: no slot for this device.
        HeaderTamperedError: the header or the file beside the weights was altered.
        TensorTamperedError: a tensor was altered; it is named.
        ParameterError: ``tensors`` names one that is not there.
    """
    layout, header = read_bound(Path(path))
    keys = content_keys(open_slot(header.slots, key, header.file_id), header.file_id)
    with ExitStack() as stack:
        descriptors = [_open(file, stack) for file in layout.files]
        _verify(layout, header, keys, descriptors)
        return _Restorer(layout, header, keys, descriptors).run(tensors, threads, progress)


def read_bound(path: Path) -> tuple[Layout, Header]:
    """Layout and parsed header of a bound model; nothing is verified yet.

    Raises:
        NotBoundError: the model is not bound.
        FormatError: it cannot be read.
    """
    found = detect(path)
    layout = found.layout(path)
    if layout.header is None:
        raise NotBoundError(f"{path} is an ordinary model, not a bound one")
    header = parse_header(layout.header)
    if header.format != found.name:
        raise HeaderTamperedError(f"{path} is {found.name}, but its header says {header.format[:40]!r}")
    return layout, header


def _open(file: Path, stack: ExitStack) -> int:
    try:
        descriptor = os.open(file, os.O_RDONLY)
    except OSError as problem:
        raise FormatError(f"cannot read {file}: {problem.strerror}") from None
    stack.callback(os.close, descriptor)
    return descriptor


def _verify(layout: Layout, header: Header, keys: ContentKeys, descriptors: Sequence[int]) -> None:
    pairs = masked_regions(layout, header)
    digest = carrier_digest(descriptors, layout_holes(layout, (region for _, region in pairs)))
    if not check_header_mac(keys, mac_input(header), digest, header):
        raise HeaderTamperedError(
            f"{layout.files[0]} was altered after binding: its header, or its bytes beside the weights"
        )


class _Restorer:
    """One restoration: the plan of the buffer, and the work on a batch of chunks."""

    def __init__(self, layout: Layout, header: Header, keys: ContentKeys, descriptors: Sequence[int]) -> None:
        self._layout = layout
        self._header = header
        self._descriptors = descriptors
        self._cipher = ChunkCipher(keys, header.cipher)
        distinct = {tensor.pattern: tensor for tensor in header.tensors}
        self._tiles = {pattern: tile_of(tensor, header.chunk) for pattern, tensor in distinct.items()}
        self._masked = {tensor.name: number for number, tensor in enumerate(header.tensors)}
        self._views: dict[str, NDArray[np.uint8]] = {}

    def run(self, wanted: Iterable[str] | None, threads: int | None, progress: Progress | None) -> RestoredModel:
        regions = self._wanted(wanted)
        buffer = self._allocate(regions)
        try:
            self._read_clear(regions)
            numbers = [self._masked[region.name] for region in regions if region.name in self._masked]
            chunks = chunks_of(self._header.tensors, numbers, self._header.chunk)
            for_each_batch(chunks, self._unmask, threads, progress)
        except BaseException:
            buffer[:] = 0
            raise
        tensors = {r.name: RestoredTensor(r.name, r.dtype, r.shape, self._views[r.name]) for r in regions}
        return RestoredModel(self._header, self._layout, tensors, buffer)

    def _wanted(self, names: Iterable[str] | None) -> list[Region]:
        regions = self._layout.regions
        if names is None:
            return list(regions.values())
        try:
            return [regions[name] for name in dict.fromkeys(names)]
        except KeyError as missing:
            raise ParameterError(f"{self._layout.files[0]} has no tensor {missing.args[0]!r}") from None

    def _allocate(self, regions: list[Region]) -> NDArray[np.uint8]:
        # One fresh array: numpy asks for huge pages, and the first touch is the floor of a private copy.
        sizes = [-(-region.nbytes // _ALIGN) * _ALIGN for region in regions]
        buffer = np.empty(sum(sizes) + _ALIGN, dtype=np.uint8)
        position = -buffer.ctypes.data % _ALIGN
        for region, size in zip(regions, sizes, strict=True):
            self._views[region.name] = buffer[position : position + region.nbytes]
            position += size
        return buffer

    def _read_clear(self, regions: list[Region]) -> None:
        for region in regions:
            if region.name not in self._masked:
                read_into(self._descriptors[region.file], self._views[region.name], region.offset)

    def _unmask(self, batch: Sequence[Chunk]) -> None:
        for chunk in batch:
            tensor = self._header.tensors[chunk.tensor]
            region = self._layout.regions[tensor.name]
            out = self._views[tensor.name][chunk.offset : chunk.offset + chunk.nbytes]
            read_into(self._descriptors[region.file], out, region.offset + chunk.offset)
            tag = tensor.tags[chunk.index * TAG_BYTES : (chunk.index + 1) * TAG_BYTES]
            if not self._cipher.unmask(chunk.tensor, chunk.index, self._tiles[tensor.pattern], out, tag):
                raise TensorTamperedError(tensor.name)


def tile_of(tensor: MaskedTensor, chunk: int) -> NDArray[np.uint8] | None:
    """The tiled pattern of a tensor, ``None`` for all bits."""
    if tensor.pattern == ALL_BITS:
        return None
    return tile(tensor.pattern, chunk_length(chunk, tensor.pattern))


def read_into(descriptor: int, out: NDArray[np.uint8], offset: int) -> None:
    """Fill ``out`` from the file at ``offset``; ``FormatError`` where the file ends sooner."""
    position = 0
    while position < out.nbytes:
        count = os.preadv(descriptor, [out.data[position:]], offset + position)
        if count == 0:
            raise FormatError("the file became shorter while it was read")
        position += count
