"""Sealed files in memory (Linux ``memfd_create``): a restored model for libraries that want a path."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from unclone.errors import FormatError, ResourceError
from unclone.licence import LicenceSource
from unclone.model import open_bound
from unclone.model.image import fill_image
from unclone.records import DeviceKey

__all__ = ["memory_file", "path_of", "restored_file", "seal"]

_NAME_LIMIT = 200


def memory_file(name: str) -> BinaryIO:
    """An empty file in memory, closed in child processes; its pages go when its last descriptor and mapping go.

    Args:
        name: what /proc shows for it.

    Raises:
        ResourceError: the platform has none.
    """
    try:
        return os.fdopen(os.memfd_create(name[:_NAME_LIMIT], os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING), "w+b")
    except (OSError, AttributeError) as problem:
        raise ResourceError(f"this system has no files in memory (memfd_create): {problem}") from None


def seal(stream: BinaryIO) -> None:
    """Nobody, this process included, changes the file any more."""
    stream.flush()
    seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
    fcntl.fcntl(stream.fileno(), fcntl.F_ADD_SEALS, seals)


def path_of(stream: BinaryIO) -> str:
    """A path that opens the file anew, in this process and while it is open."""
    return f"/proc/self/fd/{stream.fileno()}"


@contextmanager
def restored_file(
    path: str | os.PathLike[str], key: DeviceKey, name: str, licence: LicenceSource | None = None
) -> Iterator[str]:
    """The path of a sealed file in memory that holds a restored model of one file, while the context lasts.

    What a library has mapped or read by then outlives the context.

    Args:
        path: the bound model.
        key: the device key, from ``reconstruct``.
        licence: of a release, or its path; by default the model's own slots are tried.
        name: the format it must have.

    Raises:
        FormatError: a model of another format.
        ResourceError: the platform has no files in memory.
        UncloneError: as ``unclone.restore``.
    """
    with open_bound(path, key, licence=licence) as bound:
        if bound.header.format != name:
            raise FormatError(f"a {bound.header.format} model was given where {name} is needed")
        with memory_file("unclone") as stream:
            fill_image(bound, [stream])
            seal(stream)
            yield path_of(stream)
