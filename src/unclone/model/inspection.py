"""Inspect: what the header of a bound model says. Public data, unverified: verifying takes the device."""

from __future__ import annotations

import os
from pathlib import Path

from unclone.model.opening import read_bound
from unclone.records import Header

__all__ = ["inspect"]


def inspect(path: str | os.PathLike[str]) -> Header:
    """The header of a bound model.

    Raises:
        NotBoundError: an ordinary model.
        FormatError: not a model file, truncated, or of an unknown version.
    """
    return read_bound(Path(path))[1]
