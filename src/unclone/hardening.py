"""Keep secrets out of swap and core dumps, as far as the operating system helps (Linux)."""

from __future__ import annotations

import ctypes
import os
import resource
from typing import Any, Final

from unclone.errors import ResourceError

__all__ = ["disable_core_dumps", "lock_memory", "unlock_memory"]

_PR_SET_DUMPABLE: Final = 4
_MLOCK_ONFAULT: Final = 1

_libc = ctypes.CDLL(None, use_errno=True)


def disable_core_dumps() -> None:
    """No core dump of this process or its children, and no debugger of the same user (``prctl(2)``).

    For the rest of the process's life; a privileged user can still read its memory.

    Raises:
        ResourceError: the system refused.
    """
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (OSError, ValueError) as problem:
        raise ResourceError(f"core dumps cannot be switched off: {problem}") from None
    if _libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        raise ResourceError(f"core dumps cannot be switched off: {os.strerror(ctypes.get_errno())}")


def lock_memory(buffer: Any) -> None:
    """Keep a writable buffer's pages out of swap (``mlock2(2)``: each from its first touch on).

    Locks whole pages, and ends with the mapping or with ``unlock_memory``.

    Args:
        buffer: ``bytearray``, numpy array or the like, contiguous.

    Raises:
        ResourceError: beyond the limit on locked memory.
    """
    address, nbytes = _place(buffer)
    if nbytes and _libc.mlock2(ctypes.c_void_p(address), ctypes.c_size_t(nbytes), _MLOCK_ONFAULT) != 0:
        limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
        raise ResourceError(
            f"cannot lock {nbytes} bytes in memory: {os.strerror(ctypes.get_errno())}; the limit is {limit} bytes "
            "(ulimit -l, or LimitMEMLOCK= of a systemd unit)"
        )


def unlock_memory(buffer: Any) -> None:
    """Undo ``lock_memory``."""
    address, nbytes = _place(buffer)
    if nbytes:
        _libc.munlock(ctypes.c_void_p(address), ctypes.c_size_t(nbytes))


def _place(buffer: Any) -> tuple[int, int]:
    view = memoryview(buffer).cast("B")
    if not view.nbytes:
        return 0, 0
    return ctypes.addressof(ctypes.c_char.from_buffer(view)), view.nbytes
