"""Headers of single numpy arrays (.npy; NEP 1 and ``numpy.lib.format``), versions 1 to 3."""

from __future__ import annotations

import ast
import math
import re
import struct
import warnings
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from unclone.errors import FormatError, UnsupportedError

__all__ = ["MAGIC", "NPY_HEADER_LIMIT", "NpyHeader", "header_before", "npy_header"]

MAGIC: Final = b"\x93NUMPY"
NPY_HEADER_LIMIT: Final = 10_000
"""numpy itself refuses a longer text, which is read as a Python literal."""

_PREFIX_LIMIT: Final = 12
_ENCODINGS: Final = {(1, 0): ("<H", "latin-1"), (2, 0): ("<I", "latin-1"), (3, 0): ("<I", "utf-8")}
_DESCR: Final = re.compile(r"[<>|=]?([?biufcmMOSUV])([0-9]{0,6})(\[[0-9a-zA-Z/]{1,16}\])?")
_NAMES: Final = {"i": "int", "u": "uint", "f": "float", "c": "complex"}
_SIZES: Final = {"i": (1, 2, 4, 8), "u": (1, 2, 4, 8), "f": (2, 4, 8), "c": (8, 16)}


@dataclass(frozen=True, slots=True)
class NpyHeader:
    """What stands before the data of an array.

    Attributes:
        descr: numpy's type string, for example ``"<f4"``.
        fortran: whether the data lies in column order.
        shape: of the array.
        start: bytes before the data.
        nbytes: bytes of the data.
        dtype: our name of the type: a number's, ``string`` for text, ``uint8`` for raw bytes.
        extent: dimensions in that type; raw bytes have one more than the array.
    """

    descr: str
    fortran: bool
    shape: tuple[int, ...]
    start: int
    nbytes: int
    dtype: str
    extent: tuple[int, ...]


def npy_header(head: bytes, label: str) -> NpyHeader:
    """Read the header of an array.

    Args:
        head: the array's first bytes: the whole header, or ``NPY_HEADER_LIMIT`` and a few more.
        label: names the array in errors.

    Raises:
        FormatError: malformed.
        UnsupportedError: objects, records, big-endian numbers, or a type that is not understood.
    """
    form, encoding = _ENCODINGS.get((head[6], head[7]), ("", "")) if len(head) >= 8 else ("", "")
    if not head.startswith(MAGIC) or not form:
        raise FormatError(f"{label} is no numpy array of version 1, 2 or 3")
    start = 8 + struct.calcsize(form)
    if len(head) < start:
        raise FormatError(f"{label} is truncated")
    length = struct.unpack_from(form, head, 8)[0]
    if length > NPY_HEADER_LIMIT:
        raise FormatError(f"{label}: a header of {length} bytes is over numpy's limit of {NPY_HEADER_LIMIT}")
    if len(head) < start + length:
        raise FormatError(f"{label} is truncated")
    value = _literal(head[start : start + length], encoding, label)
    descr, fortran, shape = value["descr"], value["fortran_order"], value["shape"]
    if not isinstance(fortran, bool) or not isinstance(shape, tuple) or len(shape) > 64:
        raise FormatError(f"{label}: malformed shape or order")
    if not all(type(size) is int and 0 <= size < 1 << 63 for size in shape):
        raise FormatError(f"{label}: malformed shape")
    dtype, item = _type_of(descr, label)
    nbytes = math.prod(shape) * item
    if nbytes >= 1 << 63:
        raise FormatError(f"{label} is larger than any memory")
    raw = dtype == "uint8" and "V" in descr
    return NpyHeader(descr, fortran, shape, start + length, nbytes, dtype, (*shape, item) if raw else shape)


def header_before(data: bytes, label: str) -> NpyHeader:
    """The header that ends where ``data`` ends, which may begin with other bytes.

    Raises:
        FormatError: there is none.
    """
    at = data.rfind(MAGIC)
    while at >= 0:
        header = npy_header(data[at:], label) if _ends(data, at) else None
        if header is not None:
            return header
        at = data.rfind(MAGIC, 0, at)
    raise FormatError(f"{label} has no header of a numpy array before its data")


def _ends(data: bytes, at: int) -> bool:
    form = _ENCODINGS.get((data[at + 6], data[at + 7]), ("", ""))[0] if len(data) >= at + _PREFIX_LIMIT else ""
    return bool(form) and at + 8 + struct.calcsize(form) + struct.unpack_from(form, data, at + 8)[0] == len(data)


def _literal(text: bytes, encoding: str, label: str) -> dict[str, Any]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the compiler, about the literal
            value = ast.literal_eval(text.decode(encoding))
    except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
        raise FormatError(f"{label}: the header of the array is no Python literal") from None
    if not isinstance(value, dict) or set(value) != {"descr", "fortran_order", "shape"}:
        raise FormatError(f"{label}: the header of the array needs exactly descr, fortran_order and shape")
    return value


def _type_of(descr: Any, label: str) -> tuple[str, int]:
    """Our name for a type string, and the bytes of one element.

    Raises:
        UnsupportedError: not understood, by name.
    """
    if not isinstance(descr, str):
        raise UnsupportedError(f"{label} holds records; save each field as an array of its own")
    found = _DESCR.fullmatch(descr)
    kind, size, unit = (found[1], int(found[2] or 0), found[3]) if found else ("", 0, None)
    if kind == "O":
        raise UnsupportedError(f"{label} holds Python objects, which are pickles; save plain arrays")
    if descr.startswith(">") and size > 1:
        raise UnsupportedError(
            f"{label} is big-endian ({descr[:20]}); save it as array.astype(array.dtype.newbyteorder('<'))"
        )
    try:
        item = int(np.dtype(descr).itemsize) if found else 0
    except (TypeError, ValueError):
        item = 0
    if kind and kind in "US" and not unit:
        return "string", item
    if kind == "V" and item and item == size and not unit:
        return "uint8", item
    if kind and kind in "mM" and item == 8:
        return "int64", 8
    if descr in ("|b1", "?", "|?"):
        return "bool", 1
    if item == size and size in _SIZES.get(kind, ()) and not unit:
        return f"{_NAMES[kind]}{8 * size}", item
    raise UnsupportedError(f"{label} is of the type {str(descr)[:40]!r}, which this release does not bind")
