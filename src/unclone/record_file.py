"""What device and machine records have in common as files: JSON with a digest of its canonical form."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from unclone import canonical
from unclone.canonical import CanonicalError
from unclone.errors import RecordAlteredError, RecordError, UnsupportedError
from unclone.files import read_bounded

__all__ = ["RecordFormat", "check_members"]

T = TypeVar("T")


@dataclass(frozen=True)
class RecordFormat:
    """One kind of record.

    Attributes:
        what: for messages: ``"device record"``.
        name: the member ``format``.
        version: the version that is read and written.
        members: names of the members, ``digest`` included.
    """

    what: str
    name: str
    version: int
    members: frozenset[str]

    def render(self, value: dict[str, Any]) -> bytes:
        """``value`` as indented JSON, with the digest of its canonical form."""
        digest = hashlib.sha256(canonical.encode(value)).hexdigest()
        return json.dumps({**value, "digest": digest}, indent=2, ensure_ascii=True).encode("ascii") + b"\n"

    def parse(self, data: bytes, build: Callable[[dict[str, Any]], T]) -> tuple[T, bytes]:
        """What ``build`` makes of the members, and the canonical form of the record, digest included.

        White space and the order of members carry nothing.

        Args:
            data: the file.
            build: may raise ``CanonicalError`` for what is malformed.

        Raises:
            RecordError: not a record of this kind, or malformed.
            RecordAlteredError: it does not match its own digest.
            UnsupportedError: another version or suite.
        """
        try:
            value = canonical.parse(data)
            self._check(value)
            digest = value.pop("digest")
            body = canonical.encode(value)
            if digest != hashlib.sha256(body).hexdigest():
                raise RecordAlteredError(f"the {self.what} was altered or damaged: its digest does not match")
            # Of all members, the digest's name comes first.
            return build(value), b'{"digest":"%b",%b' % (digest.encode("ascii"), body[1:])
        except CanonicalError as problem:
            raise RecordError(f"the {self.what} is malformed: {problem}") from None
        except (RecordError, RecordAlteredError, UnsupportedError):
            raise
        except (ValueError, RecursionError):
            raise RecordError(f"not a {self.what}: it is not JSON") from None

    def load(self, path: str | os.PathLike[str], limit: int, parse: Callable[[bytes], T]) -> T:
        """The record in a file of at most ``limit`` bytes; errors as of ``parse``, with the file's name."""
        data = read_bounded(Path(path), limit, RecordError)
        try:
            return parse(data)
        except (RecordError, RecordAlteredError, UnsupportedError) as problem:
            raise type(problem)(f"{path}: {problem}") from None

    def _check(self, value: Any) -> None:
        if not isinstance(value, dict) or value.get("format") != self.name:
            raise RecordError(f"not a {self.what}: it has no format {self.name!r}")
        version = value.get("version")
        if type(version) is not int:
            raise CanonicalError("version is not an integer")
        if version != self.version:
            raise UnsupportedError(f"{self.what} of version {version}; this release reads version {self.version}")
        check_members(value, self.members)


def check_members(value: dict[str, Any], members: frozenset[str]) -> None:
    """Raise ``CanonicalError`` unless ``value`` has exactly these members."""
    if value.keys() != members:
        odd = sorted(value.keys() ^ members)
        raise CanonicalError(f"members missing or unknown: {', '.join(name[:40] for name in odd[:5])}")
