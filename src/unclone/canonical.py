"""Canonical JSON: one byte string for one value, so that a MAC over it means something.

A strict subset of RFC 8785 (JCS): ASCII only (everything else as ``\\uXXXX``), members sorted by name, names in ASCII
(where code points and UTF-16 sort alike), no lone surrogates, no white space, integers within +-2**53 - 1, no floats,
no duplicate names. A reader takes nothing else.
"""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any, Final

__all__ = ["CanonicalError", "b64decode", "b64encode", "decode", "encode", "parse"]

_MAX_INT: Final = 2**53 - 1
_MAX_DEPTH: Final = 16
_ENCODER: Final = json.JSONEncoder(ensure_ascii=True, allow_nan=False, sort_keys=True, separators=(",", ":"))


class CanonicalError(ValueError):
    """Not canonical JSON; callers turn it into an error of the public tree."""


def encode(value: Any) -> bytes:
    """Canonical bytes of ``value`` (dict with str names, list or tuple, str, int, bool, None)."""
    _check(value, 0)
    return _ENCODER.encode(value).encode("ascii")


def decode(data: bytes) -> Any:
    """The value of ``data``, if ``data`` is exactly its canonical encoding.

    Raises:
        CanonicalError: for anything else.
    """
    try:
        value = json.loads(data.decode("ascii"), parse_constant=_refuse, parse_float=_refuse)
        if encode(value) != data:
            raise CanonicalError("not in canonical form")
    except CanonicalError:
        raise
    except (ValueError, RecursionError) as error:
        raise CanonicalError(f"not JSON: {type(error).__name__}") from None
    return value


def parse(data: bytes) -> Any:
    """The value of UTF-8 JSON in any spelling; that it has a canonical form is for ``encode`` to say.

    Raises:
        CanonicalError: a duplicate name, or a number that is no integer.
        ValueError: not JSON.
        RecursionError: nested too deep for the parser.
    """
    return json.loads(data.decode("utf-8"), object_pairs_hook=_unique, parse_float=_refuse, parse_constant=_refuse)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise CanonicalError("a member stands in it twice")
    return value


def _refuse(text: str) -> Any:
    raise CanonicalError(f"number {text[:20]!r} is not an integer")


def _check(value: Any, depth: int) -> None:
    if depth >= _MAX_DEPTH and isinstance(value, dict | list | tuple):
        raise CanonicalError(f"nested deeper than {_MAX_DEPTH}")
    if isinstance(value, dict):
        for name, item in value.items():
            if not isinstance(name, str) or not name.isascii():
                raise CanonicalError("member names are strings of ASCII")
            if not _is_plain(item):
                _check(item, depth + 1)
    elif isinstance(value, list | tuple):
        for item in value:
            if not _is_plain(item):
                _check(item, depth + 1)
    elif isinstance(value, str):
        if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
            raise CanonicalError("a string holds a lone surrogate")
    elif isinstance(value, bool) or value is None:
        pass
    elif isinstance(value, int):
        if abs(value) > _MAX_INT:
            raise CanonicalError("integer beyond 2**53 - 1")
    else:
        raise CanonicalError(f"{type(value).__name__} has no canonical form")


def _is_plain(value: Any) -> bool:
    """Most leaves, told without another call: records have many."""
    kind = type(value)
    return (kind is str and value.isascii()) or (kind is int and -_MAX_INT <= value <= _MAX_INT)


def b64encode(data: bytes) -> str:
    """Base64 (RFC 4648 section 4) with padding."""
    return base64.b64encode(data).decode("ascii")


def b64decode(text: Any) -> bytes:
    """Inverse of ``b64encode``; refuses every other spelling of the same bytes."""
    if not isinstance(text, str):
        raise CanonicalError("base64 is a string")
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise CanonicalError("not base64") from None
    if b64encode(data) != text:
        raise CanonicalError("base64 is not canonical")
    return data
