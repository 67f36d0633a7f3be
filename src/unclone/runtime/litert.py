"""LiteRT (TensorFlow Lite): an interpreter on the true weights of a bound model, nothing on disk.

The interpreter maps a sealed file in memory that holds the restored model, so there is one copy of it, as large as the
bound file. Delegates keep what they repack beside it, as they do with an ordinary model.
"""

from __future__ import annotations

import os
from typing import Any

from unclone.errors import MissingExtraError, ParameterError
from unclone.licence import LicenceSource
from unclone.records import DeviceKey
from unclone.runtime.memory_file import restored_file

__all__ = ["interpreter"]


def interpreter(
    path: str | os.PathLike[str], key: DeviceKey, *, licence: LicenceSource | None = None, **kwargs: Any
) -> Any:
    """An ``ai_edge_litert.interpreter.Interpreter`` on the true weights of a bound model; nothing is written to disk.

    Replaces ``Interpreter(model_path=path, **kwargs)``. The memory with the weights lives as long as the interpreter.

    Args:
        path: the bound model.
        key: the device key, from ``reconstruct``.
        licence: of a release, or its path; by default the model's own slots are tried.
        kwargs: handed to ``Interpreter``: ``num_threads``, ``experimental_delegates`` and so on.

    Raises:
        MissingExtraError: ai-edge-litert is not installed.
        ParameterError: ``kwargs`` names a model as well.
        FormatError: a model of another format.
        ResourceError: the platform has no files in memory.
        UncloneError: as ``unclone.restore``.
    """
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        raise MissingExtraError("ai-edge-litert", "litert") from None
    named = {"model_path", "model_content"} & set(kwargs)
    if named:
        raise ParameterError(f"{' and '.join(sorted(named))} would name another model than {os.fspath(path)}")
    with restored_file(path, key, "tflite", licence) as restored:
        return Interpreter(model_path=restored, **kwargs)
