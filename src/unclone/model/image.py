"""The restored image: the files of a bound model with their true weights, for programs that want a file.

The header stays where it is, so offsets do. Write it into memory alone (``os.memfd_create``), never to a disk.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence
from typing import BinaryIO

import numpy as np

from unclone.errors import FormatError, HeaderTamperedError, ParameterError
from unclone.formats import detect
from unclone.model.carrier import Hole, carrier_digest, layout_holes, masked_regions, visible_ranges
from unclone.model.opening import BoundModel, open_bound
from unclone.model.reading import read_into
from unclone.records import DeviceKey

__all__ = ["fill_image", "write_image"]

_BLOCK = 1 << 20


def write_image(
    path: str | os.PathLike[str], key: DeviceKey, streams: Sequence[BinaryIO], *, threads: int | None = None
) -> None:
    """Restore a bound model into open files: verified, bit for bit the true weights at their places.

    Args:
        path: the bound model.
        key: the device key.
        streams: readable and writable files with a descriptor, one for each file of the model (``BoundModel.layout``).
        threads: one for each processor by default.

    Raises:
        ParameterError: another number of streams than of files.
        UncloneError: as ``unclone.restore``; what was written is zero then.
    """
    with open_bound(path, key) as bound:
        fill_image(bound, streams, threads=threads)


def fill_image(bound: BoundModel, streams: Sequence[BinaryIO], *, threads: int | None = None) -> None:
    """``write_image`` for a model that is open."""
    layout = bound.layout
    if len(streams) != len(layout.files):
        raise ParameterError(f"{layout.files[0]} consists of {len(layout.files)} files, not {len(streams)}")
    descriptors = bound.files.descriptors
    maps: list[mmap.mmap] = []
    for stream, descriptor in zip(streams, descriptors, strict=True):
        size = os.fstat(descriptor).st_size
        stream.truncate(size)
        maps.append(mmap.mmap(stream.fileno(), size))
    arrays = [np.frombuffer(mapping, dtype=np.uint8) for mapping in maps]
    views = {r.name: arrays[r.file][r.offset : r.offset + r.nbytes] for r in layout.regions.values()}
    try:
        _copy_carrier(bound, [stream.fileno() for stream in streams])
        bound.restorer.fill(list(layout.regions.values()), views, threads, None)
    except BaseException:
        for array in arrays:
            array[:] = 0
        raise
    detect(layout.files[0]).mend(layout, streams)


def _copy_carrier(bound: BoundModel, targets: Sequence[int]) -> None:
    """Copy what is not masked, and make sure that it is still what was verified."""
    sources = bound.files.descriptors
    regions = [region for _, region in masked_regions(bound.layout, bound.header)]
    masked = sorted(Hole(region.file, region.offset, region.nbytes) for region in regions)
    scratch = np.empty(_BLOCK, dtype=np.uint8)
    for number, (source, target) in enumerate(zip(sources, targets, strict=True)):
        here = [hole for hole in masked if hole.file == number]
        for start, end in visible_ranges(os.fstat(source).st_size, here):
            for offset in range(start, end, _BLOCK):
                block = scratch[: min(_BLOCK, end - offset)]
                read_into(source, block, offset)
                if os.pwrite(target, block.data, offset) != block.nbytes:
                    raise FormatError("the restored image could not be written")
    if carrier_digest(targets, layout_holes(bound.layout, regions)) != bound.carrier.digest:
        raise HeaderTamperedError(f"{bound.layout.files[0]} changed while it was loaded")
