"""Canonical JSON as section 2 of bound-model.md defines it, read and written without the standard encoder.

Part of the second implementation: shares no code with the package.
"""

from __future__ import annotations

import json
from typing import Any

LARGEST = 2**53 - 1
LEVELS = 16
_SHORT = {0x08: "\\b", 0x09: "\\t", 0x0A: "\\n", 0x0C: "\\f", 0x0D: "\\r", 0x22: '\\"', 0x5C: "\\\\"}


class NotCanonical(ValueError):
    """The text, or the value, is outside the subset."""


def _string(text: str) -> str:
    out = []
    for character in text:
        code = ord(character)
        if 0xD800 <= code <= 0xDFFF:
            raise NotCanonical("a lone surrogate")
        if code in _SHORT:
            out.append(_SHORT[code])
        elif 0x20 <= code <= 0x7E:
            out.append(character)
        elif code <= 0xFFFF:
            out.append(f"\\u{code:04x}")
        else:
            code -= 0x10000
            out.append(f"\\u{0xD800 + (code >> 10):04x}\\u{0xDC00 + (code & 0x3FF):04x}")
    return '"' + "".join(out) + '"'


def encode(value: Any, level: int = 0) -> str:
    """The one spelling of a value. An array or object in no other is at level 1."""
    if value is None:
        return "null"
    if value is True or value is False:
        return "true" if value else "false"
    if isinstance(value, int):
        if not -LARGEST <= value <= LARGEST:
            raise NotCanonical("an integer beyond 2^53 - 1")
        return str(value)
    if isinstance(value, str):
        return _string(value)
    if level >= LEVELS:
        raise NotCanonical("too many levels")
    if isinstance(value, list):
        return "[" + ",".join(encode(item, level + 1) for item in value) + "]"
    if isinstance(value, dict):
        if not all(name.isascii() for name in value):
            raise NotCanonical("a name beyond ASCII")
        return "{" + ",".join(_string(name) + ":" + encode(value[name], level + 1) for name in sorted(value)) + "}"
    raise NotCanonical(f"a {type(value).__name__}")


def parse(data: bytes) -> Any:
    """A JSON text of the subset's values, in any spelling: what a device record's file holds."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        members = dict(pairs)
        if len(members) != len(pairs):
            raise NotCanonical("a name stands twice")
        return members

    def refuse(_: str) -> Any:
        raise NotCanonical("a number that is no integer")

    def integer(text: str) -> int:
        if len(text) > 17:
            raise NotCanonical("an integer beyond 2^53 - 1")
        return int(text)

    try:
        value = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=unique,
            parse_float=refuse,
            parse_constant=refuse,
            parse_int=integer,
        )
    except RecursionError:
        raise NotCanonical("too many levels") from None
    except ValueError as problem:
        raise NotCanonical(str(problem)) from None
    encode(value)
    return value


def decode(data: bytes) -> Any:
    """A text that is exactly its own canonical encoding."""
    value = parse(data)
    if encode(value).encode("ascii") != data:
        raise NotCanonical("not the canonical spelling")
    return value
