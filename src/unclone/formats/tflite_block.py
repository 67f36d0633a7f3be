"""The block that makes an ordinary TensorFlow Lite model a bound one: a root table that also names our header."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Final

from unclone.errors import UnsupportedError
from unclone.formats.base import METADATA_KEY
from unclone.formats.tflite_parse import FIRST, IDENTIFIER, Model

__all__ = ["build_block"]

_LIMIT: Final = 2**31 - 1
_ALIGNMENT: Final = 64
_DATA_ALIGNMENT: Final = 16
_BUFFERS, _METADATA, _FIELDS = 4, 6, 10


def build_block(path: Path, model: Model, header: int) -> tuple[bytes, bytes]:
    """What stands before the header's text, from the file's first byte, and after it.

    Args:
        path: the output, for errors.
        model: the ordinary model.
        header: length of the header's text.

    Raises:
        UnsupportedError: the tables would pass the 2 GiB of a flatbuffer.
    """
    block = _Block()
    present = sorted({*model.root.targets, _BUFFERS, _METADATA})
    places = {0: 4, **{number: 8 + 4 * n for n, number in enumerate(present)}}
    root = block.table([places.get(number, 0) for number in range(_FIELDS)], 8 + 4 * len(present))
    block.word(root + places[0], model.root.version)
    buffers = block.vector(len(model.buffers) + 1)
    metadata = block.vector(len(model.root.metadata) + 1)
    entry = block.table([4, 8], 12)
    block.word(entry + 8, len(model.buffers))
    name = block.append(struct.pack("<I", len(METADATA_KEY)) + METADATA_KEY.encode() + b"\0")
    block.pad(-block.end % 4)
    buffer = block.table([4], 8)
    block.pad(-(block.end + 4) % _DATA_ALIGNMENT)
    data = block.append(struct.pack("<I", header))
    length = block.end + header - FIRST
    after = bytes(-length % _ALIGNMENT)
    shift = length + len(after)
    if shift + max([*model.root.targets.values(), *model.root.buffers, *model.root.metadata], default=0) > _LIMIT:
        raise UnsupportedError(f"{path}: with our header, the model would pass the 2 GiB of a flatbuffer")
    ours = {_BUFFERS: buffers, _METADATA: metadata}
    for number in present:
        target = ours[number] if number in ours else model.root.targets[number] + shift
        block.offset(root + places[number], target)
    for vector, old, new in ((buffers, model.root.buffers, buffer), (metadata, model.root.metadata, entry)):
        for number, target in enumerate([*(item + shift for item in old), new]):
            block.offset(vector + 4 + 4 * number, target)
    block.offset(entry + 4, name)
    block.offset(buffer + 4, data)
    block.word(0, root)
    return bytes(block.raw), after


class _Block:
    """Bytes from the start of the file on; positions are those in the file."""

    def __init__(self) -> None:
        self.raw = bytearray(4) + IDENTIFIER

    @property
    def end(self) -> int:
        return len(self.raw)

    def append(self, data: bytes) -> int:
        position = self.end
        self.raw += data
        return position

    def pad(self, nbytes: int) -> None:
        self.raw += bytes(nbytes)

    def table(self, fields: list[int], nbytes: int) -> int:
        """An empty table of ``nbytes`` bytes with its fields at these places, after its vtable."""
        vtable = self.append(struct.pack(f"<{2 + len(fields)}H", 4 + 2 * len(fields), nbytes, *fields))
        self.pad(-self.end % 4)
        return self.append(struct.pack("<i", self.end - vtable) + bytes(nbytes - 4))

    def vector(self, count: int) -> int:
        """A vector of offsets, still zero."""
        return self.append(struct.pack("<I", count) + bytes(4 * count))

    def word(self, position: int, value: int) -> None:
        self.raw[position : position + 4] = value.to_bytes(4, "little")

    def offset(self, position: int, target: int) -> None:
        """Make the field at ``position`` lead to ``target``."""
        self.word(position, target - position)
