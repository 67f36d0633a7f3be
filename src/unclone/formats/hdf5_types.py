"""HDF5 datatypes by our names."""

from __future__ import annotations

from typing import Any, Final

from unclone.errors import UnsupportedError

__all__ = ["dtype_of", "is_vlen_text"]

_FLOATS: Final = {
    # (bytes, (sign, exponent, exponent bits, mantissa, mantissa bits), bias) as H5Tget_fields gives them
    (2, (15, 10, 5, 0, 10), 15): "float16",
    (4, (31, 23, 8, 0, 23), 127): "float32",
    (8, (63, 52, 11, 0, 52), 1023): "float64",
    (2, (15, 7, 8, 0, 7), 127): "bfloat16",
    (1, (7, 3, 4, 0, 3), 7): "float8_e4m3fn",
    (1, (7, 2, 5, 0, 2), 15): "float8_e5m2",
}


def dtype_of(h5py: Any, where: str, dataset: Any, kind: Any) -> tuple[str, tuple[int, ...]]:
    """Our name of a type, and the dimensions that the type itself adds.

    Args:
        h5py: the library.
        where: names the dataset in errors.
        dataset: its identifier.
        kind: its datatype.

    Raises:
        UnsupportedError: the type is not known.
    """
    t = h5py.h5t
    size = kind.get_size()
    if isinstance(kind, t.TypeArrayID):
        dtype, inner = dtype_of(h5py, where, dataset, kind.get_super())
        return dtype, (*kind.get_array_dims(), *inner)
    if isinstance(kind, t.TypeOpaqueID):
        # numpy's void, by which h5py stores what HDF5 has no type for; Keras says in an attribute what it is.
        if size == 2 and h5py.Dataset(dataset).attrs.get("dtype") == "bfloat16":
            return "bfloat16", ()
        return "uint8", (size,) if size > 1 else ()
    if isinstance(kind, t.TypeEnumID):
        if _is_boolean(kind, size):
            return "bool", ()
        return dtype_of(h5py, where, dataset, kind.get_super())
    if isinstance(kind, t.TypeCompoundID):
        return _complex(h5py, where, kind), ()
    if isinstance(kind, t.TypeIntegerID | t.TypeBitfieldID | t.TypeFloatID):
        if size > 1 and kind.get_order() != t.ORDER_LE:
            raise UnsupportedError(f"{where} is big-endian; rewrite it in little-endian order")
        if isinstance(kind, t.TypeFloatID):
            dtype = _FLOATS.get((size, kind.get_fields(), kind.get_ebias()), "")
        else:
            whole = size in (1, 2, 4, 8) and kind.get_precision() == 8 * size
            signed = isinstance(kind, t.TypeIntegerID) and kind.get_sign() == t.SGN_2
            dtype = f"{'' if signed else 'u'}int{8 * size}" if whole else ""
        if dtype:
            return dtype, ()
    raise UnsupportedError(f"{where} has a datatype that is not known: {type(kind).__name__} of {size} bytes")


def _complex(h5py: Any, where: str, kind: Any) -> str:
    """A compound of two floats is a complex number, as h5py writes it; any other is a table."""
    t = h5py.h5t
    members = [kind.get_member_type(n) for n in range(kind.get_nmembers())]
    names = [kind.get_member_name(n) for n in range(kind.get_nmembers())]
    offsets = [kind.get_member_offset(n) for n in range(kind.get_nmembers())]
    for half, dtype in ((t.IEEE_F32LE, "complex64"), (t.IEEE_F64LE, "complex128")):
        width = half.get_size()
        if names == [b"r", b"i"] and offsets == [0, width] and all(half.equal(member) for member in members):
            return dtype
    raise UnsupportedError(f"{where} is a table of records, not an array of numbers")


def is_vlen_text(h5py: Any, kind: Any) -> bool:
    """Whether a datatype is text of variable length in the older of two spellings."""
    return isinstance(kind, h5py.h5t.TypeVlenID) and isinstance(kind.get_super(), h5py.h5t.TypeStringID)


def _is_boolean(kind: Any, size: int) -> bool:
    """The enumeration that h5py writes for booleans."""
    if size != 1 or kind.get_nmembers() != 2:
        return False
    return {kind.get_member_name(n): kind.get_member_value(n) for n in range(2)} == {b"FALSE": 0, b"TRUE": 1}
