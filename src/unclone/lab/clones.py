"""What a pirate does with a bound file: force it open with a key that is not its own."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from unclone.keys import content_keys
from unclone.mask import CHUNK, ChunkCipher, chunk_length
from unclone.model import RestoredModel, RestoredTensor
from unclone.model.restoring import read_bound, read_into, tile_of
from unclone.records import DeviceKey

__all__ = ["force_open"]


def force_open(path: str | os.PathLike[str], key: DeviceKey) -> RestoredModel:
    """The weights as a pirate gets them who skips every check and unmasks with his own key.

    The slot does not open for him, so he takes his device key for the content key. Masking is an XOR with the
    keystream in both modes, so masking once more is unmasking.

    Raises:
        FormatError: not a bound model that can be read.
    """
    layout, header = read_bound(Path(path))
    cipher = ChunkCipher(content_keys(bytes(key.secret), header.file_id), header.cipher)
    masked = {tensor.name: number for number, tensor in enumerate(header.tensors)}
    buffer = np.empty(sum(region.nbytes for region in layout.regions.values()), dtype=np.uint8)
    descriptors = [os.open(file, os.O_RDONLY) for file in layout.files]
    tensors: dict[str, RestoredTensor] = {}
    position = 0
    try:
        for region in layout.regions.values():
            data = buffer[position : position + region.nbytes]
            position += region.nbytes
            read_into(descriptors[region.file], data, region.offset)
            tensors[region.name] = RestoredTensor(region.name, region.dtype, region.shape, data)
            if region.name not in masked:
                continue
            number = masked[region.name]
            tensor = header.tensors[number]
            step = chunk_length(CHUNK, tensor.pattern)
            for index, offset in enumerate(range(0, data.size, step)):
                cipher.mask(number, index, tile_of(tensor, header.chunk), data[offset : offset + step])
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
    return RestoredModel(header, layout, tensors, buffer)
