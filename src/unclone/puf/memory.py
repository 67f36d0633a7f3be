"""``mem:PATH``: a memory region through a device file, or a dump of it that the boot loader left. Read only.

For SRAM that the system does not use and that the boot loader leaves alone: on-chip SRAM through ``/dev/mem`` or UIO, a
kernel module's node, a file. One start-up gives one pattern, so one source gives it once; a second reading that is the
same bit by bit is refused.
"""

from __future__ import annotations

import mmap
import os
import stat
from typing import Final

import numpy as np
from numpy.typing import NDArray

from unclone.errors import SourceError
from unclone.puf.base import SourceURI

__all__ = ["MemoryRegion", "open_memory", "source_state"]

LENGTH_LIMIT: Final = 1 << 24
_OPTIONS: Final = ("offset", "length")


class MemoryRegion:
    """Bytes ``offset`` to ``offset + length`` of a file or device file.

    Args:
        path: a dump, ``/dev/mem``, ``/dev/uio0``, ...
        offset: first byte; for ``/dev/mem`` the physical address.
        length: bytes; 0 for the rest of an ordinary file.
    """

    kind = "mem"

    def __init__(self, path: str, *, offset: int = 0, length: int = 0) -> None:
        self.path = path
        self._offset = offset
        self._length = length
        self._last: bytes | None = None

    def evaluate(self, challenge: bytes = b"") -> NDArray[np.uint8]:  # noqa: ARG002 - a weak PUF has one response
        """The region's bits, most significant first.

        Raises:
            SourceError: not readable, out of bounds, or the same pattern again.
        """
        data = self._read()
        if data == self._last:
            raise SourceError(
                f"{self.path} holds the same bits as at the reading before: one start-up gives one reading. Save the "
                "region at several start-ups and enrol from the folder (file:FOLDER), or enrol with one reading"
            )
        self._last = data
        return np.unpackbits(np.frombuffer(data, dtype=np.uint8))

    def _read(self) -> bytes:
        try:
            handle = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as problem:
            raise SourceError(self._explain(problem)) from None
        try:
            data = self._copy(handle)
        except (OSError, ValueError, OverflowError) as problem:
            raise SourceError(self._explain(problem)) from None
        finally:
            os.close(handle)
        if self._length and len(data) != self._length:
            raise SourceError(f"{self.path} ends within the region of {self._length} bytes at {self._offset:#x}")
        return data

    def _copy(self, handle: int) -> bytes:
        state = os.fstat(handle)
        if stat.S_ISREG(state.st_mode):
            length = self._length or state.st_size - self._offset
            if length <= 0 or self._offset + length > state.st_size or length > LENGTH_LIMIT:
                raise SourceError(
                    f"{self.path} has {state.st_size} bytes; offset={self._offset} and length={self._length} do not "
                    f"fit (limit {LENGTH_LIMIT})"
                )
            return os.pread(handle, length, self._offset)
        if not stat.S_ISCHR(state.st_mode):
            raise SourceError(f"{self.path} is neither a file nor a character device")
        if not self._length:
            raise SourceError(f"{self.path} is a device without an end of its own: give length= in bytes")
        start = self._offset - self._offset % mmap.ALLOCATIONGRANULARITY
        skip = self._offset - start
        try:
            with mmap.mmap(handle, skip + self._length, mmap.MAP_SHARED, mmap.PROT_READ, offset=start) as view:
                return view[skip:]
        except (PermissionError, OverflowError):
            raise
        except (OSError, ValueError):  # a node that cannot be mapped: read it
            return os.pread(handle, self._length, self._offset)

    def _explain(self, problem: Exception) -> str:
        where = f"{self._length or 'all'} bytes at {self._offset:#x} of {self.path}"
        if isinstance(problem, PermissionError):
            why = (
                "; the kernel may forbid it even to root (CONFIG_STRICT_DEVMEM): use a UIO node or a reserved "
                "region (docs/hardware.md)"
                if self.path == "/dev/mem"
                else ""
            )
            return f"no permission to read {where}: run as its owner or set the node's group by a udev rule{why}"
        return f"cannot read {where}: {getattr(problem, 'strerror', None) or problem}"


def source_state() -> str:
    """Dumps can always be read; whether ``/dev/mem`` can."""
    return "usable" if os.access("/dev/mem", os.R_OK) else "usable; no permission for /dev/mem (or none here)"


def open_memory(address: SourceURI) -> MemoryRegion:
    """Open ``mem:PATH?offset=0x20000000&length=8192``: bytes, decimal or hexadecimal.

    Raises:
        SourceError: no path, an unknown option, or a value out of range.
    """
    if not address.path:
        raise SourceError(f"{address.text!r} names no file; write for example mem:/dev/uio0?length=8192")
    for name in ("offset", "length"):
        value = address.options.get(name, "")
        if value.lower().startswith("0x"):
            try:
                address.options[name] = str(int(value, 16))
            except ValueError:
                raise SourceError(f"{name}={value!r} in {address.text!r} is not a number") from None
    source = MemoryRegion(
        address.path,
        offset=address.int_option("offset", 0, 0, (1 << 63) - LENGTH_LIMIT - 1),
        length=address.int_option("length", 0, 0, LENGTH_LIMIT),
    )
    address.finish(_OPTIONS)
    return source
