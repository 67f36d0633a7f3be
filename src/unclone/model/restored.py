"""A restored model: tensors in clear, in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from unclone.formats import Layout
from unclone.model.carrier import Carrier
from unclone.records import Header

__all__ = ["RestoredModel", "RestoredTensor"]


@dataclass(frozen=True, slots=True)
class RestoredTensor:
    """A tensor in clear, in memory.

    Attributes:
        name: its name.
        dtype: the format's dtype name in lower case.
        shape: dimensions.
        data: its bytes, ``uint8``, shape ``(nbytes,)``: a view of the model's one buffer, aligned to 64 bytes, or of a
            mapping of its file, aligned as there.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: NDArray[np.uint8]

    def __repr__(self) -> str:
        return f"RestoredTensor({self.name!r}, {self.dtype}, shape={self.shape})"


class RestoredModel(Mapping[str, RestoredTensor]):
    """The tensors of a restored model by name, those that were masked and those that stayed in clear.

    As a context manager, or through ``wipe``, it overwrites its buffer at the end; every array made over it is then
    zero. See LIMITATIONS.md for what that does not promise.

    Attributes:
        header: the verified header.
        layout: where everything lies in the bound file.
        carrier: the verified bytes beside the weights.
    """

    def __init__(
        self,
        header: Header,
        layout: Layout,
        tensors: dict[str, RestoredTensor],
        secret: Sequence[NDArray[np.uint8]],
        carrier: Carrier | None = None,
    ) -> None:
        self.header = header
        self.layout = layout
        self.carrier = carrier
        self._tensors = tensors
        self._secret = secret

    def __getitem__(self, name: str) -> RestoredTensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __repr__(self) -> str:
        return f"RestoredModel({self.header.format}, {len(self)} tensors, {self.nbytes} bytes)"

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors."""
        return sum(int(tensor.data.nbytes) for tensor in self._tensors.values())

    @property
    def secret(self) -> Sequence[NDArray[np.uint8]]:
        """The memory that holds true weights: what ``wipe`` overwrites, and what is worth locking."""
        return self._secret

    def wipe(self) -> None:
        """Overwrite the weights."""
        for part in self._secret:
            part[:] = 0

    def __enter__(self) -> RestoredModel:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.wipe()
