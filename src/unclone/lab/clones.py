"""What a pirate does with a bound file: force it open with a key that is not its own."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from unclone.keys import content_keys
from unclone.mask import ChunkCipher, chunk_length, tile_of
from unclone.model import RestoredModel, RestoredTensor
from unclone.model.opening import read_bound
from unclone.model.reading import Files, read_into
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
    numbers = {tensor.name: number for number, tensor in enumerate(header.tensors)}
    # Of a model bound in part, he cannot tell the masked blocks from the others: he takes the file as it lies.
    numbers = numbers if header.selection.select == "all" else {}
    tensors: dict[str, RestoredTensor] = {}
    with Files(layout.files) as files:
        for region in layout.regions.values():
            data = np.empty(region.nbytes, dtype=np.uint8)
            read_into(files.descriptors[region.file], data, region.offset)
            tensors[region.name] = RestoredTensor(region.name, region.dtype, region.shape, data)
            if region.name in numbers:
                number = numbers[region.name]
                pattern = header.tensors[number].pattern
                step = chunk_length(header.chunk, pattern)
                for index, offset in enumerate(range(0, data.size, step)):
                    cipher.mask(number, index, tile_of(pattern, header.chunk), data[offset : offset + step])
    return RestoredModel(header, layout, tensors, [tensor.data for tensor in tensors.values()])
