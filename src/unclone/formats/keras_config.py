"""The description of a network that Keras keeps beside its weights, which stays in clear: no weights may hide in it."""

from __future__ import annotations

import json
from typing import Any, Final

from unclone.errors import FormatError, UnsupportedError

__all__ = ["CONFIG_LIMIT", "check_config"]

CONFIG_LIMIT: Final = 64 << 20
"""Bytes of a description."""

_NUMBERS: Final = 64
"""More floats than this in one list are weights, not settings."""

_ARRAYS: Final = ("__tensor__", "__numpy__")
"""``class_name`` by which Keras writes a constant array into the description."""


def check_config(label: str, text: str | bytes) -> None:
    """Refuse a description that holds arrays: constants of the graph, means and variances given as lists.

    It is parsed as JSON and never deserialised. Empty text is fine.

    Args:
        label: what it is, for errors.
        text: JSON.

    Raises:
        FormatError: no JSON.
        UnsupportedError: it holds an array; its place is named.
    """
    if not text:
        return
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as problem:
        raise FormatError(f"{label} is no JSON: {type(problem).__name__}") from None
    stack: list[tuple[str, Any]] = [("", value)]
    while stack:
        place, item = stack.pop()
        if isinstance(item, dict):
            if item.get("class_name") in _ARRAYS:
                _check_numbers(label, place, _numbers_in(item), fractions=False)
            stack += [(f"{place}.{name}", inner) for name, inner in item.items()]
        elif isinstance(item, list):
            _check_numbers(label, place, _numbers_in(item), fractions=True)
            stack += [(f"{place}[{number}]", inner) for number, inner in enumerate(item)]


def _check_numbers(label: str, place: str, numbers: list[float], *, fractions: bool) -> None:
    if len(numbers) <= _NUMBERS:
        return
    if fractions and all(isinstance(number, int) or number.is_integer() for number in numbers):
        return
    raise UnsupportedError(
        f"{label} holds {len(numbers)} numbers in clear at {place[1:161] or 'its top'}; keep them in a variable of the "
        "layer (adapt() a Normalization instead of giving it mean and variance)"
    )


def _numbers_in(item: Any) -> list[float]:
    """The numbers in nested lists and, of an array, in its members."""
    found: list[float] = []
    stack = [item]
    while stack:
        inner = stack.pop()
        if isinstance(inner, dict) and isinstance(item, dict):
            stack += inner.values()
        elif isinstance(inner, list):
            stack += inner
        elif isinstance(inner, int | float) and not isinstance(inner, bool):
            found.append(inner)
    return found
