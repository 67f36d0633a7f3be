"""PyTorch: ``torch.load`` and ``Module.load_state_dict`` on the true weights of a bound model, nothing on disk.

Tensors are views of the one restored buffer: there is no second copy, tied tensors stay tied, and a view of a storage
stays a view. Wiping the model (``RestoredModel.wipe``) therefore zeroes every tensor made here, and a module into which
they were loaded with ``assign=True``.
"""

from __future__ import annotations

import io
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from unclone.errors import FormatError, MissingExtraError, ParameterError, UnsupportedError
from unclone.formats.torch_pickle import PICKLE_LIMIT, read_pickle
from unclone.formats.torch_tensors import checkpoint_of
from unclone.formats.torch_values import StorageRef
from unclone.formats.torch_zip import pickle_member
from unclone.formats.zip_directory import Archive
from unclone.licence import LicenceSource
from unclone.model import RestoredModel, RestoredTensor, restore
from unclone.records import DeviceKey

__all__ = ["dtype_of", "load", "load_into", "object_of", "state_dict", "tensor_of", "tensors_of"]

_DTYPES: Final = {
    "float8_e8m0": "float8_e8m0fnu",
    **{
        name: name
        for name in (
            "bool", "uint8", "int8", "int16", "int32", "int64", "uint16", "uint32", "uint64", "float16", "bfloat16",
            "float32", "float64", "complex64", "complex128", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2",
            "float8_e5m2fnuz",
        )
    },
}  # fmt: skip
"""Our dtype name -> torch's."""

_WRAPPER: Final = "module."
_NESTS: Final = ("state_dict", "model_state_dict", "model", "net", "weights")


def load(
    path: str | os.PathLike[str], key: DeviceKey, map_location: Any = None, *, licence: LicenceSource | None = None
) -> Any:
    """What ``torch.load(path, map_location, weights_only=True)`` gives, with the true weights.

    Args:
        path: a bound .pt/.pth checkpoint, or a bound .safetensors file, which gives a dict of tensors.
        key: the device key, from ``reconstruct``.
        licence: of a release, or its path; by default the model's own slots are tried.
        map_location: as of ``torch.load``; tensors that were saved on another device need one where that is missing.

    Raises:
        MissingExtraError: torch is not installed.
        FormatError: a model of another format.
        UncloneError: as ``unclone.restore``.
    """
    _torch()  # before the work
    return object_of(restore(path, key, licence=licence), map_location)


def load_into(
    module: Any,
    path: str | os.PathLike[str],
    key: DeviceKey,
    *,
    strict: bool = True,
    prefix: str = "",
    map_location: Any = None,
    licence: LicenceSource | None = None,
) -> Any:
    """Give a module the true weights of a bound model, as its own parameters and buffers, without a copy.

    The module may be on the ``meta`` device, so that nothing is initialised in vain. Parameters take the dtypes of the
    file. In a checkpoint with other fields, the state dict is looked for under ``state_dict``, ``model_state_dict``,
    ``model``, ``net`` and ``weights``. Wiping or dropping the restored model is no concern of the caller: the module
    holds the memory.

    Args:
        module: a ``torch.nn.Module``.
        path: bound .pt/.pth or .safetensors.
        key: the device key, from ``reconstruct``.
        licence: of a release, or its path; by default the model's own slots are tried.
        strict: whether names must match exactly.
        prefix: stripped from names that start with it, for example ``"module."`` of ``DataParallel``; others are left
            out.
        map_location: as of ``torch.load``.

    Returns:
        What ``Module.load_state_dict`` returns: missing and unexpected names.

    Raises:
        MissingExtraError: torch is not installed.
        FormatError: there is no state dict in the file.
        ParameterError: the names or shapes are not those of the module.
        UncloneError: as ``unclone.restore``.
    """
    _torch()
    tensors = state_dict(restore(path, key, licence=licence), map_location)
    if prefix:
        tensors = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    try:
        return module.load_state_dict(tensors, strict=strict, assign=True)
    except RuntimeError as problem:
        hint = ""
        if not prefix and tensors and all(name.startswith(_WRAPPER) for name in tensors):
            hint = f'; the names start with {_WRAPPER!r}: pass prefix="{_WRAPPER}"'
        raise ParameterError(f"{path} does not fit the module: {problem}{hint}") from None


def state_dict(restored: RestoredModel, map_location: Any = None) -> dict[str, Any]:
    """The state dict in a restored model: names and tensors.

    Raises:
        FormatError: there is none, or a model of another format.
    """
    value = object_of(restored, map_location)
    candidates = [value]
    if isinstance(value, Mapping):
        candidates += [value[name] for name in _NESTS if name in value]
    for candidate in candidates:
        if _is_state_dict(candidate):
            return dict(candidate)
    raise FormatError(f"{restored.layout.files[0]} holds no state dict; take what you need from load()")


def object_of(restored: RestoredModel, map_location: Any = None) -> Any:
    """The checkpoint in a restored model, as ``load`` returns it; its tensors read zero once the model is wiped.

    Raises:
        FormatError: neither a PyTorch nor a safetensors file.
        ParameterError: ``map_location`` is missing for a device that is not here, or is no device.
    """
    if restored.header.format in ("safetensors", "safetensors-index"):
        tensors = tensors_of(restored)
        if map_location is None:
            return tensors
        if not isinstance(map_location, str | _torch().device):
            raise ParameterError("of a safetensors file, map_location is the name of a device or a torch.device")
        return {name: item.to(map_location) for name, item in tensors.items()}
    if restored.header.format != "torch":
        raise FormatError(f"a {restored.header.format} model was given where torch or safetensors is needed")
    return _unpickled(restored, map_location)


def tensors_of(restored: RestoredModel) -> dict[str, Any]:
    """Views of a restored model's tensors by name, no copy. Of a PyTorch file, these are whole storages.

    Raises:
        UnsupportedError: a dtype that torch has not.
    """
    return {name: tensor_of(tensor) for name, tensor in restored.items()}


def tensor_of(tensor: RestoredTensor) -> Any:
    """A view of one restored tensor, no copy.

    Raises:
        UnsupportedError: a dtype that torch has not.
    """
    torch = _torch()
    dtype = dtype_of(tensor.dtype)
    if not tensor.data.size:
        return torch.empty(tensor.shape, dtype=dtype)
    return torch.frombuffer(_aligned(tensor.data, dtype.itemsize), dtype=dtype).reshape(tensor.shape)


def dtype_of(name: str) -> Any:
    """torch's dtype of that name in a header.

    Raises:
        UnsupportedError: torch has none.
    """
    theirs = _DTYPES.get(name)
    dtype = getattr(_torch(), theirs, None) if theirs else None
    if dtype is None:
        raise UnsupportedError(f"torch has no dtype for {name!r}; use the bytes in RestoredTensor.data")
    return dtype


def _unpickled(restored: RestoredModel, map_location: Any) -> Any:
    """Run torch's own restricted unpickler over the verified pickle, with our storages in place of its."""
    torch = _torch()
    from torch._weights_only_unpickler import Unpickler

    data = _pickle_bytes(restored)
    label = str(restored.layout.files[0])
    root, storages = read_pickle(data, label)
    names = {unit.storage.key: unit.name for unit in checkpoint_of(root, label).units(storages, label)}
    locate = torch.serialization._get_restore_location(map_location)
    made: dict[str, Any] = {}

    def persistent_load(identity: Any) -> Any:
        _, kind, key, location, _ = identity
        if names[key] not in restored:
            raise FormatError(f"{label}: {names[key][:80]!r} was not restored; restore every tensor for a checkpoint")
        if key not in made:
            storage, dtype = _storage(restored[names[key]], storages[key], kind)
            try:
                storage = locate(storage, location)
            except RuntimeError as problem:
                raise ParameterError(f'{label} was saved on {location!r}; pass map_location="cpu": {problem}') from None
            made[key] = torch.storage.TypedStorage(wrap_storage=storage, dtype=dtype, _internal=True)
        return made[key]

    unpickler = Unpickler(io.BytesIO(data), encoding="utf-8")
    unpickler.persistent_load = persistent_load
    try:
        return unpickler.load()
    except pickle.UnpicklingError as problem:
        raise UnsupportedError(f"{label}: torch {torch.__version__} does not take it: {problem}") from None


def _storage(tensor: RestoredTensor, reference: StorageRef, kind: Any) -> tuple[Any, Any]:
    """A storage over the restored bytes, and its dtype."""
    torch = _torch()
    dtype = torch.uint8 if reference.kind == "torch.storage.UntypedStorage" else kind.dtype
    if not tensor.data.size:
        return torch.UntypedStorage(0), dtype
    data = _aligned(tensor.data, torch.empty(0, dtype=dtype).element_size())
    return torch.frombuffer(data, dtype=torch.uint8).untyped_storage(), dtype


def _aligned(data: np.ndarray[Any, np.dtype[np.uint8]], itemsize: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The bytes themselves, or a copy where a mapping of a foreign file leaves them at an odd address."""
    return data if data.ctypes.data % max(itemsize, 1) == 0 and data.flags.writeable else data.copy()


def _pickle_bytes(restored: RestoredModel) -> bytes:
    """The pickle, from the bytes that were verified."""
    path: Path = restored.layout.files[0]
    carrier = restored.carrier
    try:
        with path.open("rb") as stream:
            archive = Archive(stream.fileno(), path)
            member = pickle_member(archive, path)
            if carrier is None or not carrier.kept:
                return archive.content(member.name, PICKLE_LIMIT)
    except OSError as problem:
        raise FormatError(f"cannot read {path}: {problem.strerror}") from None
    return carrier.read(0, member.data, member.data + member.nbytes)


def _is_state_dict(value: Any) -> bool:
    torch = _torch()
    return (
        isinstance(value, Mapping)
        and len(value) > 0
        and all(isinstance(name, str) for name in value)
        and any(isinstance(item, torch.Tensor) for item in value.values())
        and not any(isinstance(item, Mapping) and item for item in value.values())
    )


def _torch() -> Any:
    try:
        import torch
    except ImportError:
        raise MissingExtraError("torch", "torch") from None
    return torch
