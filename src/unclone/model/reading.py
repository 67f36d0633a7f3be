"""Bytes of a model's files: mapped where the kernel can say beforehand that they are there, else read.

A mapping saves a copy, but a file that shrinks under it would end the process with SIGBUS. ``MADV_POPULATE_READ``
(Linux 5.14) brings the pages in and reports what is not there, which leaves microseconds instead of the whole run.
"""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final

import numpy as np
from numpy.typing import NDArray

from unclone.errors import FormatError

__all__ = ["Files", "populate", "read_into"]

_MADV_POPULATE_READ: Final = 22
_MADV_POPULATE_WRITE: Final = 23
_SHORTER: Final = "the file became shorter while it was read"


class Files:
    """Open files of one model, closed together.

    Args:
        paths: in the order of the layout.

    Raises:
        FormatError: one cannot be opened.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.descriptors: list[int] = []
        self._maps: list[mmap.mmap | None] = []
        try:
            for path in paths:
                self.descriptors.append(os.open(path, os.O_RDONLY))
                self._maps.append(_mapped(self.descriptors[-1], mmap.MAP_SHARED, mmap.PROT_READ))
        except OSError as problem:
            self.close()
            raise FormatError(f"cannot read {path}: {problem.strerror}") from None

    def __enter__(self) -> Files:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the files. Arrays over a private mapping live on."""
        for descriptor in self.descriptors:
            os.close(descriptor)
        self.descriptors.clear()
        for mapping in self._maps:
            if mapping is not None:
                with suppress(BufferError):  # a view is still about; it goes with the view
                    mapping.close()
        self._maps.clear()

    def view(self, file: int, offset: int, nbytes: int, scratch: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The bytes from ``offset``, not to be written to: mapped, or read into ``scratch``."""
        mapping = self._maps[file]
        if mapping is not None and populate(mapping, offset, nbytes):
            return np.frombuffer(mapping, dtype=np.uint8, count=nbytes, offset=offset)
        self._maps[file] = None
        read_into(self.descriptors[file], scratch[:nbytes], offset)
        return scratch[:nbytes]

    def private(self, file: int) -> mmap.mmap | None:
        """A private, writable mapping: pages are the file's until they are written to. ``None`` if there cannot be."""
        return _mapped(self.descriptors[file], mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE)


def _mapped(descriptor: int, flags: int, protection: int) -> mmap.mmap | None:
    try:
        return mmap.mmap(descriptor, 0, flags=flags, prot=protection)
    except (OSError, ValueError):  # empty, or a file system without mappings
        return None


def populate(mapping: mmap.mmap, offset: int, nbytes: int, *, write: bool = False) -> bool:
    """Bring a range in, with ``write`` as private copies; ``False`` where the kernel does not know how.

    Raises:
        FormatError: the file ends before.
    """
    start = offset - offset % mmap.PAGESIZE
    try:
        mapping.madvise(_MADV_POPULATE_WRITE if write else _MADV_POPULATE_READ, start, offset + nbytes - start)
    except ValueError:
        raise FormatError(_SHORTER) from None
    except OSError as problem:
        if problem.errno == errno.EINVAL:
            return False
        raise FormatError(_SHORTER) from None
    return True


def read_into(descriptor: int, out: NDArray[np.uint8], offset: int) -> None:
    """Fill ``out`` from the file at ``offset``; ``FormatError`` where the file ends sooner."""
    position = 0
    while position < out.nbytes:
        count = os.preadv(descriptor, [out.data[position:]], offset + position)
        if count == 0:
            raise FormatError(_SHORTER)
        position += count
