"""Helper data of the scheme ``code-offset-1``: fields, their canonical form and their strict reading.

spec/extractor.md is the normative text. Every size is checked against the limits before anything is allocated.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from unclone import canonical
from unclone.errors import RecordError
from unclone.extractor.debias import ERASURE, MAX_CLASSES, MODES, NONE
from unclone.extractor.layout import MAX_BITS, Layout
from unclone.records import HelperData

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Bits = NDArray[np.uint8]

__all__ = ["MAX_SYMBOLS", "SCHEME", "Sketch"]

SCHEME: Final = "code-offset-1"
MAX_SYMBOLS: Final = 1 << 16
_MAX_LEVEL: Final = 255
_FIELDS: Final = frozenset({"bits", "classes", "code", "debias", "distance", "levels", "offset"})


@dataclass(frozen=True, slots=True)
class Sketch:
    """Parsed helper data.

    Attributes:
        layout: where the cells are.
        debias: one of ``debias.MODES``.
        code: specification of the code, as its ``spec()`` gives it.
        levels: log-likelihood ratio of each weight class in 1/16 nat, ``levels[0] == 0``.
        classes: weight class of each symbol, shape ``(n,)``.
        offset: symbol XOR code bit, 0 where the class is 0, shape ``(n,)``.
        retained: 1 for each unit (walk order) that is a symbol, shape ``(units,)``; ``None`` for ``erasure``, whose
            symbols are the first n units.
    """

    layout: Layout
    debias: str
    code: Mapping[str, Any]
    levels: tuple[int, ...]
    classes: Bits
    offset: Bits
    retained: Bits | None

    def first_cells(self) -> NDArray[np.int64]:
        """First cell of each symbol, shape ``(n,)``."""
        if self.retained is None:
            return self.layout.first_cells(len(self.offset))
        return self.layout.first_cells()[np.flatnonzero(self.retained)]

    def pack(self) -> HelperData:
        """The record's form."""
        fields: dict[str, Any] = {
            "bits": self.layout.bits,
            "classes": canonical.b64encode(_pack_classes(self.classes, len(self.levels))),
            "code": dict(self.code),
            "debias": self.debias,
            "distance": self.layout.distance,
            "levels": list(self.levels),
            "offset": canonical.b64encode(np.packbits(self.offset).tobytes()),
        }
        if self.retained is not None:
            fields["retained"] = canonical.b64encode(np.packbits(self.retained).tobytes())
        return HelperData(SCHEME, fields)

    @classmethod
    def parse(cls, helper: HelperData, symbols_of: Any) -> Sketch:
        """Read and check helper data.

        Args:
            helper: as it came from a record.
            symbols_of: function from the ``code`` field to its length n; raises ``RecordError`` when it is no code.

        Raises:
            RecordError: a field is missing, unknown, of the wrong type, out of range or not canonical.
        """
        if helper.scheme != SCHEME:
            raise RecordError(f"helper data of scheme {helper.scheme!r}; this release knows {SCHEME!r}")
        fields = helper.fields
        debias = fields.get("debias")
        if debias not in MODES:
            raise RecordError(f"helper data: debias is one of {', '.join(MODES)}")
        expected = _FIELDS if debias == ERASURE else _FIELDS | {"retained"}
        if set(fields) != expected:
            wrong = sorted(set(fields) ^ expected)
            raise RecordError(f"helper data: missing or unknown field {wrong[0][:40]!r}")
        bits = _integer(fields, "bits", 1, MAX_BITS)
        distance = _integer(fields, "distance", 0, bits // 2)
        if (distance == 0) != (debias == NONE):
            raise RecordError(f"helper data: distance is {distance}, which debias {debias!r} does not use")
        layout = Layout(bits, distance)
        n = symbols_of(fields["code"])
        if not 1 <= n <= min(MAX_SYMBOLS, layout.units):
            raise RecordError(f"helper data: a code of {n} symbols on {layout.units} cells or pairs")
        levels = _levels(fields["levels"])
        classes = _unpack_classes(_blob(fields, "classes", _class_bytes(n, len(levels))), n, len(levels))
        offset = _unpack_bits(_blob(fields, "offset", (n + 7) // 8), n, "offset")
        if np.any(offset[classes == 0]):
            raise RecordError("helper data: an erased symbol has offset 0")
        retained = None
        if debias != ERASURE:
            retained = _unpack_bits(_blob(fields, "retained", (layout.units + 7) // 8), layout.units, "retained")
            if int(retained.sum()) != n:
                raise RecordError(f"helper data: {int(retained.sum())} units retained for {n} symbols")
        return cls(layout, debias, fields["code"], levels, classes, offset, retained)


def _integer(fields: Mapping[str, Any], name: str, low: int, high: int) -> int:
    value = fields[name]
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise RecordError(f"helper data: {name} is an integer from {low} to {high}")
    return value


def _levels(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list | tuple) or not 2 <= len(value) <= MAX_CLASSES:
        raise RecordError(f"helper data: levels is a list of 2 to {MAX_CLASSES} integers")
    if any(not isinstance(level, int) or isinstance(level, bool) for level in value):
        raise RecordError("helper data: levels are integers")
    if value[0] != 0 or value[-1] > _MAX_LEVEL or any(a >= b for a, b in pairwise(value)):
        raise RecordError(f"helper data: levels rise from 0 to at most {_MAX_LEVEL}")
    return tuple(value)


def _blob(fields: Mapping[str, Any], name: str, size: int) -> bytes:
    text = fields[name]
    if not isinstance(text, str) or len(text) != (size + 2) // 3 * 4:
        raise RecordError(f"helper data: {name} is {size} bytes in base64")
    try:
        data = canonical.b64decode(text)
    except canonical.CanonicalError as error:
        raise RecordError(f"helper data: {name} is {error}") from None
    if len(data) != size:
        raise RecordError(f"helper data: {name} is {size} bytes in base64")
    return data


def _unpack_bits(data: bytes, count: int, name: str) -> Bits:
    bits = np.unpackbits(np.frombuffer(data, dtype=np.uint8))
    if np.any(bits[count:]):
        raise RecordError(f"helper data: the padding of {name} is 0")
    return bits[:count]


def _width(levels: int) -> int:
    return (levels - 1).bit_length()


def _class_bytes(count: int, levels: int) -> int:
    return (count * _width(levels) + 7) // 8


def _pack_classes(classes: Bits, levels: int) -> bytes:
    width = _width(levels)
    planes = (classes[:, None] >> np.arange(width - 1, -1, -1)) & 1
    return np.packbits(planes.astype(np.uint8)).tobytes()


def _unpack_classes(data: bytes, count: int, levels: int) -> Bits:
    width = _width(levels)
    planes = _unpack_bits(data, count * width, "classes").reshape(count, width)
    classes = (planes @ (1 << np.arange(width - 1, -1, -1))).astype(np.uint8)
    if np.any(classes >= levels):
        raise RecordError(f"helper data: a weight class is beyond the {levels} levels")
    return classes
