"""Models that a guessed key can be tried on."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np

import unclone
from unclone.errors import ParameterError
from unclone.header import mac_input
from unclone.keys import check_header_mac, content_keys, open_slot
from unclone.lab.clones import force_open
from unclone.lab.contracts import Array, Locked, Weights
from unclone.lab.schemes.column_swap import swapped
from unclone.model.carrier import layout_holes, masked_regions, read_carrier
from unclone.model.opening import read_bound
from unclone.model.reading import Files
from unclone.records import DeviceKey

__all__ = ["BoundModelGuess", "KeyedModel", "keyed"]


class KeyedModel(Protocol):
    """What a guessed key makes of the file.

    Attributes:
        truth: the key, bits of ``uint8``: only to count those that are right.
        guess: where a guess starts, of the same shape.
    """

    truth: Array
    guess: Array

    def weights(self, key: Array) -> Weights:
        """The weights under ``key``."""
        ...


class _Swapped:
    def __init__(self, locked: Locked) -> None:
        self._locked = locked
        self.truth: Array = locked.secret
        self.guess: Array = np.zeros_like(self.truth)

    def weights(self, key: Array) -> Weights:
        return swapped(self._locked.weights, self._locked.info["pairs"], key)


class BoundModelGuess:
    """A file of this package, opened with a guessed content key, every check skipped.

    Args:
        locked: by the scheme ``unclone`` or a variant.
        path: where the file can lie.
        seed: of the first guess.
    """

    def __init__(self, locked: Locked, path: Path, seed: int) -> None:
        self._locked, self._path = locked, path
        path.write_bytes(locked.secret.file)
        record = path.with_name("device")
        record.write_bytes(locked.secret.device)
        layout, self._header = read_bound(path)
        with Files(layout.files) as files:
            holes = layout_holes(layout, (region for _, region in masked_regions(layout, self._header)))
            self._carrier = read_carrier(files.descriptors, holes).digest
        self._authenticated = mac_input(self._header)
        key = open_slot(self._header.slots, unclone.reconstruct(record, locked.secret.source), self._header.file_id)
        self.truth: Array = np.unpackbits(np.frombuffer(key, dtype=np.uint8))
        self.guess: Array = np.random.default_rng([seed, 0xB17]).integers(0, 2, self.truth.size, dtype=np.uint8)

    def weights(self, key: Array) -> Weights:
        """The weights under a content key."""
        with force_open(self._path, DeviceKey(np.packbits(key).tobytes())) as opened:
            return {
                name: opened[name].data.view(value.dtype).reshape(value.shape).copy()
                for name, value in self._locked.weights.items()
            }

    def opens(self, key: Array) -> bool:
        """Whether the tag of the header is right under a content key."""
        keys = content_keys(np.packbits(key).tobytes(), self._header.file_id)
        return check_header_mac(keys, self._authenticated, self._carrier, self._header)


@contextmanager
def keyed(locked: Locked, seed: int) -> Iterator[KeyedModel]:
    """The locked model with its key as bits.

    Raises:
        ParameterError: the scheme has no key that a guess can be tried for.
    """
    if "pairs" in locked.info:
        yield _Swapped(locked)
    elif hasattr(locked.secret, "file"):
        with tempfile.TemporaryDirectory() as folder:
            yield BoundModelGuess(locked, Path(folder, "bound.safetensors"), seed)
    else:
        raise ParameterError("a guess needs a scheme with a key of few bits: column-swap, or unclone's own")
