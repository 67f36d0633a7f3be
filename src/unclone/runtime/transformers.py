"""transformers: ``from_pretrained`` on the true weights of a bound folder, nothing on disk."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

from unclone.errors import FormatError, MissingExtraError, ParameterError
from unclone.licence import LicenceSource
from unclone.model import restore
from unclone.records import DeviceKey
from unclone.runtime.torch import tensors_of

__all__ = ["from_pretrained"]

_OURS: Final = frozenset(["state_dict", "gguf_file", "pretrained_model_name_or_path", "use_safetensors", "config"])


def from_pretrained(
    cls: Any, folder: str | os.PathLike[str], key: DeviceKey, *, licence: LicenceSource | None = None, **kwargs: Any
) -> Any:
    """A model of transformers on the true weights of a bound folder; nothing is written to disk.

    Replaces ``cls.from_pretrained(folder, **kwargs)``. The folder holds the configuration and a bound model, as
    ``unclone bind FOLDER`` makes it: one safetensors file, or an index with shards.

    Args:
        cls: ``AutoModel``, ``AutoModelForCausalLM`` and so on, or a class of models.
        folder: a local folder; nothing is fetched.
        key: the device key, from ``reconstruct``.
        licence: of a release, or its path; by default the model's own slots are tried.
        **kwargs: handed on: ``dtype``, ``attn_implementation``, ``device_map`` and so on.

    Raises:
        MissingExtraError: transformers or torch is not installed.
        ParameterError: an argument that names other weights.
        FormatError: the folder holds no configuration, or a bound model of another format.
        UncloneError: as ``unclone.restore``.
    """
    try:
        import torch
        import transformers
    except ImportError:
        raise MissingExtraError("transformers", "transformers") from None
    named = sorted(_OURS & set(kwargs))
    if named:
        raise ParameterError(f"{', '.join(named)} would name other weights or another network than {os.fspath(folder)}")
    place = Path(folder)
    if not (place / "config.json").is_file():
        raise FormatError(f"{place} holds no config.json; from_pretrained takes the folder of a bound model")
    code = {name: kwargs[name] for name in ("trust_remote_code",) if name in kwargs}
    config = transformers.AutoConfig.from_pretrained(place, local_files_only=True, **code)
    kind = cls
    if not issubclass(cls, transformers.PreTrainedModel):
        with torch.device("meta"):
            kind = type(cls.from_config(config, **code))
        kwargs.pop("trust_remote_code", None)
    restored = restore(place, key, licence=licence)
    if restored.header.format not in ("safetensors", "safetensors-index"):
        raise FormatError(f"{place} holds a bound {restored.header.format} model where safetensors is needed")
    model = kind.from_pretrained(None, config=config, state_dict=tensors_of(restored), **kwargs)
    if model.can_generate() and (place / "generation_config.json").is_file():
        model.generation_config = transformers.GenerationConfig.from_pretrained(place, local_files_only=True)
    return model
