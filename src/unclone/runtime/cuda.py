"""Restoring on a CUDA card: masked bytes are copied over, and the keystream is made and applied there.

The true weights are never in the computer's own memory as a whole. Tags are verified on the processor, beside the
copies, and no tensor is handed out before all of them hold. Needs torch with CUDA, and Triton, which comes with it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from unclone.errors import FormatError, MissingExtraError, ResourceError
from unclone.formats import Region
from unclone.licence import LicenceSource
from unclone.model import open_bound
from unclone.model.opening import BoundModel
from unclone.model.restoring import Keystream
from unclone.records import DeviceKey
from unclone.runtime.torch import dtype_of, tensors_of

__all__ = ["load_file"]

_PIECE: Final = 32 << 20
_FORMATS: Final = ("safetensors", "safetensors-index")

Unmask = Callable[[Any, Keystream], None]


def load_file(
    path: str | os.PathLike[str],
    key: DeviceKey,
    device: Any = "cuda",
    *,
    licence: LicenceSource | None = None,
    threads: int | None = None,
) -> dict[str, Any]:
    """What ``safetensors.torch.load_file(path, device)`` gives, with the true weights.

    A model of which a part is masked is restored by the processor and copied over.

    Args:
        path: a bound safetensors file, an index of shards, or their folder.
        key: the device key, from ``reconstruct``.
        device: of torch.
        licence: of a release, or its path; by default the model's own slots are tried.
        threads: that verify; by default one for each processor.

    Returns:
        Tensor name -> ``torch.Tensor`` on the device.

    Raises:
        MissingExtraError: torch or Triton is not installed.
        ResourceError: there is no such device.
        FormatError: a model of another format.
        UncloneError: as ``unclone.restore``.
    """
    torch = _torch(device)
    with open_bound(path, key, licence=licence) as bound:
        if bound.header.format not in _FORMATS:
            raise FormatError(f"{path} is a bound {bound.header.format} model; this loader takes safetensors")
        if bound.header.selection.select != "all":
            with bound.restore() as restored:
                return {name: value.to(device, copy=True) for name, value in tensors_of(restored).items()}
        regions = list(bound.layout.regions.values())
        with ThreadPoolExecutor(1) as pool:
            verified = pool.submit(bound.restorer.verify, regions, threads)
            data = _unmasked(torch, bound, regions, device)
            verified.result()
    return {region.name: _shaped(torch, data[region.name], region) for region in regions}


def _torch(device: Any) -> Any:
    try:
        import torch
        import triton  # noqa: F401 - the kernels need it
    except ImportError as problem:
        raise MissingExtraError(str(problem.name), "torch") from None
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as problem:
        raise ResourceError(f"torch has no device {str(device)[:60]!r} here: {str(problem)[:200]}") from None
    return torch


def _unmasked(torch: Any, bound: BoundModel, regions: list[Region], device: Any) -> dict[str, Any]:
    """The true bytes of every region on the device, ``uint8``."""
    unmask = _unmasking(torch, device)
    pieces = _Pieces(torch, bound, device)
    found = {}
    for region in regions:
        found[region.name] = pieces.copied(region)
        keystream = bound.restorer.keystream(region.name)
        if keystream is not None and region.nbytes:
            unmask(found[region.name], keystream)
    pieces.wait()
    return found


class _Pieces:
    """Bytes of files onto the device, through two pinned buffers in turn."""

    def __init__(self, torch: Any, bound: BoundModel, device: Any) -> None:
        self._torch, self._bound, self._device = torch, bound, device
        self._cuda = torch.device(device).type == "cuda"
        self._buffers = [torch.empty(_PIECE, dtype=torch.uint8, pin_memory=self._cuda) for _ in range(2)]
        self._busy: list[Any] = [None, None]
        self._turn = 0
        self._scratch: NDArray[np.uint8] = np.empty(_PIECE, dtype=np.uint8)

    def copied(self, region: Region) -> Any:
        """The region's bytes, shape ``(nbytes,)``."""
        target = self._torch.empty(region.nbytes, dtype=self._torch.uint8, device=self._device)
        for start in range(0, region.nbytes, _PIECE):
            nbytes = min(_PIECE, region.nbytes - start)
            buffer = self._next()[:nbytes]
            source = self._bound.files.view(region.file, region.offset + start, nbytes, self._scratch)
            np.copyto(buffer.numpy(), source)
            target[start : start + nbytes].copy_(buffer, non_blocking=True)
            if self._cuda:
                self._busy[self._turn] = self._torch.cuda.Event()
                self._busy[self._turn].record()
        return target

    def _next(self) -> Any:
        self._turn ^= 1
        if self._busy[self._turn] is not None:
            self._busy[self._turn].synchronize()
        return self._buffers[self._turn]

    def wait(self) -> None:
        """Until everything on the device is done."""
        if self._cuda:
            self._torch.cuda.synchronize(self._device)


def _unmasking(torch: Any, device: Any) -> Unmask:
    """What unmasks a tensor on the device in place; the keys go there once."""
    from unclone.runtime import card_kernels as kernels

    @cache
    def there(make: Callable[[bytes], NDArray[Any]], value: bytes) -> Any:
        return torch.from_numpy(make(value).copy()).to(device)

    @cache
    def table() -> Any:
        return torch.from_numpy(kernels.aes_table()).to(device)

    def unmask(data: Any, stream: Keystream) -> None:
        aes = stream.cipher.startswith("aes")
        block = 16 if aes else 64
        nbytes, period = data.numel(), len(stream.pattern)
        grid = (-(-nbytes // stream.chunk), -(-min(stream.chunk, nbytes) // (block * kernels.BLOCKS)))
        known = (data, nbytes, stream.chunk, there(_bytes, stream.pattern), period)
        if aes:
            keys = there(kernels.aes_round_keys, stream.key)
            kernels.aes256[grid](*known, keys, table(), stream.tensor, BLOCKS=kernels.BLOCKS)
        else:
            kernels.chacha20[grid](*known, there(kernels.chacha_key, stream.key), stream.tensor, BLOCKS=kernels.BLOCKS)

    return unmask


def _bytes(value: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(value, dtype=np.uint8)


def _shaped(torch: Any, data: Any, region: Region) -> Any:
    dtype = dtype_of(region.dtype)
    if not region.nbytes:
        return torch.empty(region.shape, dtype=dtype, device=data.device)
    return data.view(dtype).reshape(region.shape)
