"""Attacks and schemes by name."""

from __future__ import annotations

from unclone.errors import ParameterError
from unclone.lab.attacks import ATTACKS
from unclone.lab.contracts import Attack, Scheme
from unclone.lab.schemes import SCHEMES

__all__ = ["attack_named", "scheme_named"]


def attack_named(name: str) -> Attack:
    """An attack.

    Raises:
        ParameterError: there is none of that name.
    """
    if name not in ATTACKS:
        raise ParameterError(f"no attack {name[:60]!r}; there are {', '.join(ATTACKS)}")
    return ATTACKS[name]


def scheme_named(name: str) -> Scheme:
    """A scheme.

    Raises:
        ParameterError: there is none of that name.
    """
    if name not in SCHEMES:
        raise ParameterError(f"no scheme {name[:60]!r}; there are {', '.join(SCHEMES)}")
    return SCHEMES[name]
