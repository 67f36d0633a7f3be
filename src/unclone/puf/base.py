"""The protocol of a source, its address, and the door through which sources come in."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Final, Protocol, runtime_checkable
from urllib.parse import parse_qsl, unquote

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

from unclone.errors import SourceError, UncloneError

__all__ = ["PUF", "SourceEntry", "SourceURI", "list_sources", "open_source"]

_GROUP: Final = "unclone.sources"


@runtime_checkable
class PUF(Protocol):
    """A physically unclonable function.

    ``kind`` names the sort of source for people (for example ``"sim:sram"``); it ends up in the public record, so
    it holds no address and no serial number.
    """

    kind: str

    def evaluate(self, challenge: bytes = b"") -> NDArray[np.uint8]:
        """One fresh, noisy reading: ``uint8`` of 0/1, shape ``(bits,)``, the same length every time.

        A weak PUF (SRAM start-up) has one response and ignores the challenge.

        Raises:
            SourceError: the device cannot be read.
        """
        ...


@dataclass(frozen=True, slots=True)
class SourceURI:
    """A parsed source address ``scheme:path?name=value&...``; take options by name, then call ``finish``."""

    text: str
    scheme: str
    path: str
    options: dict[str, str]

    @classmethod
    def parse(cls, text: str) -> SourceURI:
        """Split an address.

        Raises:
            SourceError: there is no scheme, or an option comes twice or has no value.
        """
        scheme, colon, rest = text.partition(":")
        if not colon or not scheme.replace("-", "").isalnum():
            raise SourceError(f"{text!r} is not a source address; write for example sim:sram?seed=7 or file:dump.npz")
        path, _, query = rest.partition("?")
        try:
            pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query), max_num_fields=64)
        except ValueError:
            raise SourceError(f"the options of {text!r} are not name=value pairs joined by '&'") from None
        options = dict(pairs)
        if len(options) != len(pairs):
            raise SourceError(f"an option comes twice in {text!r}")
        return cls(text, scheme, unquote(path), options)

    def text_option(self, name: str, default: str) -> str:
        """Take a text option."""
        return self.options.pop(name, default)

    def int_option(self, name: str, default: int, low: int, high: int) -> int:
        """Take an integer option within ``low..high``."""
        return int(self._number(name, default, low, high, int))

    def float_option(self, name: str, default: float, low: float, high: float) -> float:
        """Take a real option within ``low..high``."""
        return float(self._number(name, default, low, high, float))

    def _number(self, name: str, default: float, low: float, high: float, kind: type) -> float:
        text = self.options.pop(name, None)
        if text is None:
            return default
        try:
            value: float = kind(text)
        except ValueError:
            raise SourceError(f"{name}={text!r} in {self.text!r} is not a number") from None
        if not low <= value <= high:
            raise SourceError(f"{name}={text} in {self.text!r} is outside {low}..{high}")
        return value

    def finish(self, known: Iterable[str] = ()) -> None:
        """Refuse the options that nobody took.

        Args:
            known: names that could have been given, for the message.
        """
        if self.options:
            names = ", ".join(sorted(self.options))
            hint = ", ".join(known)
            raise SourceError(f"unknown option {names} in {self.text!r}" + (f"; known: {hint}" if hint else ""))


def open_source(uri: str | PUF) -> PUF:
    """Open a source by its address; an object that is a source already is returned as it is.

    Raises:
        SourceError: the address, its scheme or one of its options is not understood, or the source cannot be opened.
    """
    if not isinstance(uri, str):
        return uri
    address = SourceURI.parse(uri)
    found = {entry.name: entry for entry in entry_points(group=_GROUP)}
    entry = found.get(address.scheme)
    if entry is None:
        raise SourceError(f"no source {address.scheme!r}; known: {', '.join(sorted(found)) or 'none installed'}")
    try:
        source = entry.load()(address)
    except UncloneError:
        raise
    except Exception as problem:
        raise SourceError(f"source {address.scheme!r} failed to open: {type(problem).__name__}: {problem}") from problem
    if not isinstance(source, PUF):
        raise SourceError(f"plug-in {entry.value} gave something without kind and evaluate(challenge)")
    return source


@dataclass(frozen=True, slots=True)
class SourceEntry:
    """A kind of source that is installed.

    Attributes:
        scheme: what its addresses begin with.
        entry: where it comes from, ``module:function``.
        state: ``"usable"``, or why it is not.
    """

    scheme: str
    entry: str
    state: str


def list_sources() -> list[SourceEntry]:
    """The kinds of sources of the group ``unclone.sources``, built in and from plug-ins."""
    listed = []
    for entry in sorted(entry_points(group=_GROUP), key=lambda item: item.name):
        state = "usable"
        try:
            opener = entry.load()
            # A module may say what its sources lack here: an extra, a device, a permission.
            probe = getattr(sys.modules.get(getattr(opener, "__module__", "")), "source_state", None)
            state = str(probe()) if callable(probe) else state
        except Exception as problem:  # a plug-in may fail in any way
            state = f"not usable: {type(problem).__name__}: {problem}"
        listed.append(SourceEntry(entry.name, entry.value, state))
    return listed
