"""llama.cpp, through llama-cpp-python: the true weights of a bound GGUF model, nothing on disk.

llama.cpp maps a sealed file in memory that holds the restored model, so there is one copy of it, as large as the bound
file; what it repacks or moves to a card is beside it, as with an ordinary model.
"""

from __future__ import annotations

import os
from typing import Any

from unclone.errors import MissingExtraError, ParameterError
from unclone.licence import LicenceSource
from unclone.records import DeviceKey
from unclone.runtime.memory_file import restored_file

__all__ = ["open_model"]


def open_model(
    path: str | os.PathLike[str], key: DeviceKey, *, licence: LicenceSource | None = None, **kwargs: Any
) -> Any:
    """A ``llama_cpp.Llama`` on the true weights of a bound GGUF model; nothing is written to disk.

    Replaces ``Llama(model_path=path, **kwargs)``. The memory with the weights lives as long as the model; its attribute
    ``model_path`` names nothing any more, so it cannot be pickled.

    Args:
        path: the bound model.
        key: the device key, from ``reconstruct``.
        licence: of a release, or its path; by default the model's own slots are tried.
        kwargs: handed to ``Llama``: ``n_ctx``, ``n_threads``, ``verbose`` and so on.

    Raises:
        MissingExtraError: llama-cpp-python is not installed.
        ParameterError: ``kwargs`` names a model as well.
        FormatError: a model of another format.
        ResourceError: the platform has no files in memory.
        UncloneError: as ``unclone.restore``.
    """
    try:
        from llama_cpp import Llama
    except ImportError:
        raise MissingExtraError("llama-cpp-python", "llama") from None
    if "model_path" in kwargs:
        raise ParameterError(f"model_path would name another model than {os.fspath(path)}")
    with restored_file(path, key, "gguf", licence) as restored:
        return Llama(model_path=restored, **kwargs)
