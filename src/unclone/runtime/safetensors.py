"""safetensors: ``load_file`` and ``safe_open`` as the library has them, on the true weights."""

from __future__ import annotations

import json
import os
from types import TracebackType
from typing import Any, Final

from unclone.errors import FormatError, ParameterError
from unclone.formats import METADATA_KEY
from unclone.formats.safetensors import DTYPES
from unclone.licence import LicenceSource
from unclone.model import BoundModel, RestoredModel, RestoredTensor, open_bound, restore
from unclone.records import DeviceKey
from unclone.runtime.arrays import array_of

__all__ = ["SafeOpen", "arrays_of", "load_file", "safe_open"]

_FORMATS: Final = ("safetensors", "safetensors-index")
_FRAMEWORKS: Final = {"numpy": "numpy", "np": "numpy", "pt": "torch", "torch": "torch", "pytorch": "torch"}


def load_file(
    path: str | os.PathLike[str], key: DeviceKey, *, framework: str = "numpy", licence: LicenceSource | None = None
) -> dict[str, Any]:
    """The true weights of a bound safetensors model, by name; nothing is written to disk.

    Replaces ``safetensors.numpy.load_file(path)`` and ``safetensors.torch.load_file(path)``. The tensors share one
    private buffer, are writable, and as arrays hold bfloat16 and float8 in the types of ml_dtypes.

    Args:
        path: the bound file, the bound index of a sharded model, or its folder.
        key: the device key, from ``reconstruct``.
        licence: of a release, or its path; by default the model's own slots are tried.
        framework: ``"numpy"`` or ``"torch"``.

    Raises:
        ParameterError: another framework.
        MissingExtraError: torch, or ml_dtypes for types of its own, is not installed.
        UncloneError: as ``unclone.restore``.
    """
    kind = _framework(framework)
    restored = _checked(restore(path, key, licence=licence))
    return {name: _tensor(tensor, kind) for name, tensor in restored.items()}


def arrays_of(restored: RestoredModel) -> dict[str, Any]:
    """Views of a restored model's tensors as arrays, no copy; they read zero once it is wiped.

    Raises:
        FormatError: the model is not safetensors.
    """
    return {name: array_of(tensor) for name, tensor in _checked(restored).items()}


def safe_open(
    path: str | os.PathLike[str],
    key: DeviceKey,
    framework: str = "numpy",
    device: str = "cpu",
    *,
    licence: LicenceSource | None = None,
) -> SafeOpen:
    """Open a bound safetensors model to restore single tensors: only what is asked for is read, verified and unmasked.

    Replaces ``safetensors.safe_open(path, framework, device)``; slot, header and everything beside the weights are
    verified here, once.

    Args:
        path: the bound file, the bound index of a sharded model, or its folder.
        key: the device key; it may be wiped while the model is open.
        licence: of a release, or its path; by default the model's own slots are tried.
        framework: ``"numpy"`` or ``"pt"``.
        device: where torch tensors go.

    Raises:
        ParameterError: another framework, or a device for arrays.
        UncloneError: as ``unclone.restore``.
    """
    kind = _framework(framework)
    if kind == "numpy" and device != "cpu":
        raise ParameterError(f"numpy has no device {device!r}; take framework='pt'")
    bound = open_bound(path, key, licence=licence)
    if bound.header.format not in _FORMATS:
        bound.close()
        raise FormatError(f"a {bound.header.format} model was given where safetensors is needed")
    return SafeOpen(bound, kind, device)


class SafeOpen:
    """A bound model, open; has the methods of ``safetensors.safe_open``."""

    def __init__(self, bound: BoundModel, framework: str, device: str) -> None:
        self._bound = bound
        self._framework = framework
        self._device = device

    def __enter__(self) -> SafeOpen:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the files and forget the content key; tensors that were restored live on."""
        self._bound.close()

    def keys(self) -> list[str]:
        """Names of the tensors, sorted."""
        return sorted(self._bound.names)

    def offset_keys(self) -> list[str]:
        """Names of the tensors in the order of the files."""
        regions = self._bound.layout.regions.values()
        return [region.name for region in sorted(regions, key=lambda r: (r.file, r.offset, r.nbytes))]

    def metadata(self) -> dict[str, str] | None:
        """The metadata of a single file without our entry; of an index, ``None``."""
        bound = self._bound
        if bound.header.format != "safetensors":
            return None
        # From the bytes that were verified, with our header, which is not among them, blanked.
        length = int.from_bytes(bound.carrier.read(0, 0, 8), "little")
        raw = bytearray(bound.carrier.read(0, 8, 8 + length))
        start = bound.layout.header_offset - 8
        raw[start : start + bound.layout.header_nbytes] = b"-" * bound.layout.header_nbytes
        metadata: dict[str, str] = json.loads(raw)["__metadata__"]
        del metadata[METADATA_KEY]
        return metadata or None

    def get_tensor(self, name: str) -> Any:
        """One tensor, restored into memory of its own.

        Raises:
            ParameterError: there is none of this name.
            TensorTamperedError: it was altered.
        """
        found = _tensor(self._bound.restore([name])[name], self._framework)
        return found.to(self._device) if self._device != "cpu" else found

    def get_slice(self, name: str) -> Slice:
        """A tensor to be indexed; it is restored whole, with its first item.

        Raises:
            ParameterError: there is none of this name.
        """
        if name not in self._bound.layout.regions:
            raise ParameterError(f"{self._bound.layout.files[0]} has no tensor {name!r}")
        return Slice(self, name)


class Slice:
    """What ``get_slice`` gives."""

    def __init__(self, opened: SafeOpen, name: str) -> None:
        self._opened = opened
        self._name = name
        self._whole: Any = None

    def get_shape(self) -> list[int]:
        """Dimensions; nothing is restored for them."""
        return list(self._opened._bound.layout.regions[self._name].shape)

    def get_dtype(self) -> str:
        """The dtype as safetensors spells it; nothing is restored for it."""
        dtype = self._opened._bound.layout.regions[self._name].dtype
        return next(spelled for spelled, (ours, _) in DTYPES.items() if ours == dtype)

    def __getitem__(self, index: Any) -> Any:
        if self._whole is None:
            self._whole = self._opened.get_tensor(self._name)
        return self._whole[index]


def _framework(name: str) -> str:
    if name not in _FRAMEWORKS:
        raise ParameterError(f"framework is numpy or pt, not {name!r}")
    return _FRAMEWORKS[name]


def _checked(restored: RestoredModel) -> RestoredModel:
    if restored.header.format not in _FORMATS:
        raise FormatError(f"a {restored.header.format} model was given where safetensors is needed")
    return restored


def _tensor(tensor: RestoredTensor, framework: str) -> Any:
    if framework == "numpy":
        return array_of(tensor)
    from unclone.runtime.torch import tensor_of

    return tensor_of(tensor)
