"""Licences: the content key of one release, sealed for one device, in a file of its own (spec/licence.md)."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from unclone import canonical
from unclone.canonical import CanonicalError
from unclone.errors import FormatError, LicenceError, ParameterError, UnsupportedError
from unclone.files import atomic_output, read_bounded
from unclone.keys import HINT_BYTES, check_suite, open_licence, public_key, seal_licence, slot_hint
from unclone.records import DeviceKey, Recipient

__all__ = [
    "LICENCE_LIMIT",
    "NOTE_LIMIT",
    "Issuer",
    "Licence",
    "LicenceSource",
    "check_terms",
    "end_of",
    "issue",
    "load_licence",
    "parse_licence",
    "render_licence",
    "save_licence",
    "unseal",
]

FORMAT: Final = "unclone-licence"
VERSION: Final = 1
LICENCE_LIMIT: Final = 16 * 2**10
NOTE_LIMIT: Final = 256
_FILE_ID_BYTES: Final = 16
_SEALED: Final = b'","sealed":"'
_MEMBERS: Final = frozenset(["format", "version", "file_id", "suite", "hint", "sealed", "not_after", "note"])
_TIME: Final = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class Licence:
    """A licence: public, and of use to one device alone.

    Attributes:
        file_id: of the release, 16 bytes.
        suite: name of the HPKE suite.
        hint: 8 bytes by which the device knows its own.
        not_after: last second at which it opens, RFC 3339 in UTC (``"2031-12-31T23:59:59Z"``), or empty.
        note: the vendor's remark on use, at most 256 characters, may be empty.
        sealed: HPKE encapsulation and ciphertext; it opens only with all of the above as they were.
    """

    file_id: bytes
    suite: str
    hint: bytes
    not_after: str = ""
    note: str = ""
    sealed: bytes = field(default=b"", repr=False)


LicenceSource = Licence | str | os.PathLike[str]
"""A licence, or its path."""


def issue(content_key: bytes, file_id: bytes, to: Recipient, *, not_after: str = "", note: str = "") -> Licence:
    """A licence of one release for one device or machine.

    Args:
        content_key: the release's, 32 bytes.
        file_id: the release's.
        to: record of the device or machine.
        not_after: last second at which it opens, RFC 3339 in UTC, or empty.
        note: the vendor's remark, at most 256 characters.

    Raises:
        ParameterError: the terms are out of range.
        RecordError: the record's public key is none.
    """
    check_terms(not_after, note)
    blank = Licence(file_id, to.suite, slot_hint(to.public_key, file_id), not_after, note)
    sealed = seal_licence(content_key, to.public_key, _terms(blank), to.suite)
    return Licence(blank.file_id, blank.suite, blank.hint, not_after, note, sealed)


class Issuer:
    """Licences of one release under one set of terms, fast: of the text, only hint and seal differ between devices.

    Args:
        content_key: the release's, 32 bytes.
        file_id: the release's.
        suite: name of the devices' suite.
        not_after: last second at which they open, RFC 3339 in UTC, or empty.
        note: the vendor's remark, at most 256 characters.

    Raises:
        ParameterError: the terms are out of range.
        UnsupportedError: the suite is unknown.
    """

    def __init__(self, content_key: bytes, file_id: bytes, suite: str, not_after: str = "", note: str = "") -> None:
        check_terms(not_after, note)
        check_suite(suite)
        self._content_key, self._file_id, self._suite = content_key, file_id, suite
        # Members are sorted, so hint stands before sealed, and no text of the vendor's before hint.
        blank = Licence(file_id, suite, bytes(HINT_BYTES), not_after, note)
        self._terms = _around(_terms(blank), b'"hint":"', 2 * HINT_BYTES)
        before, after = _around(render_licence(blank), b'"hint":"', 2 * HINT_BYTES)
        between, end = after[: after.rindex(_SEALED) + len(_SEALED)], after[after.rindex(_SEALED) + len(_SEALED) :]
        self._text = before, between, end

    def issue(self, public: bytes) -> bytes:
        """The licence's file for the owner of a public key.

        Raises:
            RecordError: the public key is none.
        """
        hint = slot_hint(public, self._file_id).hex().encode("ascii")
        sealed = seal_licence(self._content_key, public, hint.join(self._terms), self._suite)
        before, between, end = self._text
        return b"".join((before, hint, between, canonical.b64encode(sealed).encode("ascii"), end))


def _around(text: bytes, mark: bytes, length: int) -> tuple[bytes, bytes]:
    """What stands before and behind ``length`` bytes that follow the first ``mark``."""
    start = text.index(mark) + len(mark)
    return text[:start], text[start + length :]


def unseal(licence: LicenceSource, key: DeviceKey, file_id: bytes, *, now: datetime | None = None) -> bytes:
    """The content key in a licence, 32 bytes.

    Args:
        licence: the licence, or its path.
        key: the device key.
        file_id: of the model at hand.
        now: the time to hold ``not_after`` against, with a time zone; the system's clock by default, which whoever
            runs the device can set back.

    Raises:
        LicenceError: another model's, another device's, altered, or expired.
        FormatError: no licence, or malformed.
    """
    found = licence if isinstance(licence, Licence) else load_licence(licence)
    if found.file_id != file_id:
        raise LicenceError(
            f"this licence is for release {found.file_id.hex()}, and the model is {file_id.hex()}: ask for its licence"
        )
    if found.hint != slot_hint(public_key(key, found.suite), file_id):
        raise LicenceError("this licence is another device's, or was altered")
    content_key = open_licence(found.sealed, key, _terms(found), found.suite)
    if content_key is None:
        raise LicenceError("this licence was altered, or is another device's")
    if found.not_after and (now or datetime.now(UTC)) > _parsed_time(found.not_after):
        raise LicenceError(f"this licence ended at {found.not_after}: ask the vendor for a new one")
    return content_key


def check_terms(not_after: str, note: str) -> None:
    """Raise ``ParameterError`` for terms that no licence can have."""
    try:
        _check_terms(not_after, note)
    except CanonicalError as problem:
        raise ParameterError(str(problem)) from None


def end_of(not_after: str) -> int:
    """The end of a licence in seconds since 1970 UTC, 0 for none."""
    return int(_parsed_time(not_after).timestamp()) if not_after else 0


def render_licence(licence: Licence) -> bytes:
    """The licence as its file holds it: canonical JSON."""
    return canonical.encode({**_members(licence), "sealed": canonical.b64encode(licence.sealed)})


def save_licence(licence: Licence, path: str | os.PathLike[str], *, force: bool = False) -> None:
    """Write a licence.

    Raises:
        OutputError: the file exists and ``force`` is not given, or its folder cannot be written.
    """
    with atomic_output(Path(path), force=force) as stream:
        stream.write(render_licence(licence))


def load_licence(path: str | os.PathLike[str]) -> Licence:
    """Read a licence.

    Raises:
        FormatError: it cannot be read, or is malformed.
        UnsupportedError: another version or suite.
    """
    data = read_bounded(Path(path), LICENCE_LIMIT, FormatError)
    try:
        return parse_licence(data)
    except FormatError as problem:
        raise type(problem)(f"{path}: {problem}") from None


def parse_licence(data: bytes) -> Licence:
    """The licence in ``data``.

    Raises:
        FormatError: not canonical, or a member is missing, unknown or out of range.
        UnsupportedError: another version or suite.
    """
    try:
        return _from_json(canonical.decode(data))
    except CanonicalError as problem:
        raise FormatError(f"the licence is malformed: {problem}") from None


def _members(licence: Licence) -> dict[str, Any]:
    """Everything but ``sealed``."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "file_id": licence.file_id.hex(),
        "suite": licence.suite,
        "hint": licence.hint.hex(),
        "not_after": licence.not_after,
        "note": licence.note,
    }


def _terms(licence: Licence) -> bytes:
    return canonical.encode(_members(licence))


def _from_json(value: Any) -> Licence:
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise FormatError(f"not a licence: it has no format {FORMAT!r}")
    version = value.get("version")
    if type(version) is not int:
        raise CanonicalError("version is not an integer")
    if version != VERSION:
        raise UnsupportedError(f"licence of version {version}; this release reads version {VERSION}")
    if value.keys() != _MEMBERS:
        odd = sorted(value.keys() ^ _MEMBERS)
        raise CanonicalError(f"members missing or unknown: {', '.join(name[:40] for name in odd[:5])}")
    not_after, note, name = value["not_after"], value["note"], value["suite"]
    if not all(isinstance(text, str) for text in (not_after, note, name)):
        raise CanonicalError("suite, not_after or note is not a string")
    suite = check_suite(name)
    _check_terms(not_after, note)
    sealed = canonical.b64decode(value["sealed"])
    if len(sealed) != suite.sealed_bytes:
        raise CanonicalError(f"sealed of {suite.name} is not {suite.sealed_bytes} bytes long")
    file_id, hint = _hex(value, "file_id", _FILE_ID_BYTES), _hex(value, "hint", HINT_BYTES)
    return Licence(file_id, name, hint, not_after, note, sealed)


def _check_terms(not_after: str, note: str) -> None:
    if len(note) > NOTE_LIMIT:
        raise CanonicalError(f"note is longer than {NOTE_LIMIT} characters")
    if not_after:
        _parsed_time(not_after)


def _parsed_time(text: str) -> datetime:
    """The one spelling of RFC 3339 that licences use: UTC, whole seconds, capitals."""
    try:
        if not _TIME.fullmatch(text):
            raise ValueError
        return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    except ValueError:
        raise CanonicalError(f"not_after is a time like 2031-12-31T23:59:59Z, not {text[:40]!r}") from None


def _hex(value: dict[str, Any], name: str, length: int) -> bytes:
    text = value[name]
    if not isinstance(text, str) or not re.fullmatch(f"[0-9a-f]{{{2 * length}}}", text):
        raise CanonicalError(f"{name} is not {length} bytes of lower-case hexadecimal")
    return bytes.fromhex(text)
