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

_OURS: Final = frozenset([
    "state_dict", "gguf_file", "pretrained_model_name_or_path", "use_safetensors", "config", "subfolder", "variant",
    "from_tf", "from_flax",
])  # fmt: skip


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
        **kwargs: handed on: ``dtype``, ``attn_implementation``, ``device_map``, ``output_loading_info``, entries of the
            configuration and so on.

    Raises:
        MissingExtraError: transformers or torch is not installed.
        ParameterError: an argument that names other weights, or ``cls`` is no class of models.
        FormatError: the folder holds no configuration that transformers can read, or a bound model of another format.
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
    if not isinstance(cls, type) or not (issubclass(cls, transformers.PreTrainedModel) or hasattr(cls, "from_config")):
        raise ParameterError(f"{cls!r} is no class of models, such as AutoModel")
    code = {name: kwargs.pop(name) for name in ("trust_remote_code",) if name in kwargs}
    # "auto" is a word of the loader, not a dtype that a configuration could have.
    auto = {name: kwargs.pop(name) for name in ("dtype", "torch_dtype") if isinstance(kwargs.get(name), str)}
    kwargs.pop("local_files_only", None)
    try:
        config, kwargs = transformers.AutoConfig.from_pretrained(
            place, local_files_only=True, return_unused_kwargs=True, **code, **kwargs
        )
    except (OSError, ValueError) as problem:
        raise FormatError(f"transformers cannot read {place / 'config.json'}: {problem}") from None
    kwargs |= auto
    kind: Any = cls
    if not issubclass(cls, transformers.PreTrainedModel):
        with torch.device("meta"):
            kind = type(kind.from_config(config, **code))
    restored = restore(place, key, licence=licence)
    if restored.header.format not in ("safetensors", "safetensors-index"):
        raise FormatError(f"{place} holds a bound {restored.header.format} model where safetensors is needed")
    loaded = kind.from_pretrained(None, config=config, state_dict=tensors_of(restored), **kwargs)
    model = loaded[0] if isinstance(loaded, tuple) else loaded
    model.name_or_path = model.config.name_or_path = os.fspath(folder)
    if model.can_generate() and (place / "generation_config.json").is_file():
        model.generation_config = transformers.GenerationConfig.from_pretrained(place, local_files_only=True)
    return loaded
