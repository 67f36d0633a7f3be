"""``passphrase:``, a key from a passphrase by scrypt (RFC 7914). For development: it binds to a person, not to a chip.

The record is public and tests guesses: whoever has it searches for the passphrase at the price of one scrypt a guess.
"""

from __future__ import annotations

import getpass
import math
import os
import secrets
import string
import unicodedata
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Final

from unclone import canonical, keys
from unclone.errors import EnrollmentError, RecordError, SourceError, UnsupportedError
from unclone.files import read_bounded
from unclone.providers.base import Provided, take_field
from unclone.puf.base import SourceURI
from unclone.records import EnrollmentReport, HelperData

__all__ = ["SCHEME", "PassphraseProvider", "WeakPassphraseWarning", "open_passphrase", "strength_bits"]

SCHEME: Final = "passphrase-scrypt-1"
DEFAULT_LOG_N: Final = 17
_LOG_N: Final = (10, 20)
_R: Final = 8
_P: Final = 1
_SALT_BYTES: Final = 16
_LIMIT: Final = 4096
_WEAK_BELOW: Final = 64
_NOTE: Final = (
    "root passphrase: not a PUF; it binds to whoever knows the passphrase, and this record is enough to search for it"
)


class WeakPassphraseWarning(UserWarning):
    """A passphrase that a search would find."""


class PassphraseProvider:
    """A secret from a passphrase.

    Args:
        ask: gives the passphrase; its argument says whether a new one is being chosen.
        log_n: scrypt's cost: memory is 1 KiB times 2**log_n; 10 to 20.

    Raises:
        SourceError: ``log_n`` is out of range.
    """

    root = "passphrase"

    def __init__(self, ask: Callable[[bool], str], *, log_n: int = DEFAULT_LOG_N) -> None:
        if not _LOG_N[0] <= log_n <= _LOG_N[1]:
            raise SourceError(f"log_n is {_LOG_N[0]} to {_LOG_N[1]}, not {log_n}")
        self._ask = ask
        self._log_n = log_n

    def create(self) -> Provided:
        """See ``KeyProvider.create``; the passphrase is the secret, its salt is fresh.

        Raises:
            EnrollmentError: the passphrase is empty.
        """
        passphrase = self._ask(True)
        if not passphrase:
            raise EnrollmentError("an empty passphrase protects nothing")
        if strength_bits(passphrase) < _WEAK_BELOW:
            warnings.warn(
                "this passphrase is weak: whoever has the record can search for it; take five or more random words",
                WeakPassphraseWarning,
                stacklevel=2,
            )
        salt = secrets.token_bytes(_SALT_BYTES)
        fields = {"salt": canonical.b64encode(salt), "log_n": self._log_n, "r": _R, "p": _P}
        secret = _stretch(passphrase, salt, self._log_n, _R, _P)
        return Provided(HelperData(SCHEME, fields), secret, EnrollmentReport(0, 0, 0, 0, 0, 0, 0, 0, 0, (_NOTE,)))

    def recover(self, helper: HelperData) -> bytes:
        """See ``KeyProvider.recover``; a wrong passphrase gives a wrong secret, which opens nothing.

        Raises:
            UnsupportedError: costs beyond what this release computes.
        """
        log_n, r, p = (take_field(helper, SCHEME, name, int) for name in ("log_n", "r", "p"))
        try:
            salt = canonical.b64decode(take_field(helper, SCHEME, "salt", str))
        except canonical.CanonicalError:
            raise RecordError("the record is malformed: its salt is not base64") from None
        if len(salt) != _SALT_BYTES or set(helper.fields) != {"salt", "log_n", "r", "p"}:
            raise RecordError(f"the record is malformed: fields of {SCHEME}")
        if not _LOG_N[0] <= log_n <= _LOG_N[1] or (r, p) != (_R, _P):
            raise UnsupportedError(f"scrypt at log_n {log_n}, r {r}, p {p} is beyond this release")
        return _stretch(self._ask(False), salt, log_n, r, p)


def _stretch(passphrase: str, salt: bytes, log_n: int, r: int, p: int) -> bytes:
    prepared = unicodedata.normalize("NFC", passphrase).encode()
    try:
        return keys.stretch_passphrase(prepared, salt, log_n, r, p)
    except MemoryError:
        raise SourceError(
            f"scrypt at log_n {log_n} needs {2**log_n // 1024} MiB of memory, which is not there"
        ) from None


def strength_bits(passphrase: str) -> float:
    """A generous estimate of a passphrase's entropy: random characters of its classes, repeats discounted."""
    classes = (string.ascii_lowercase, string.ascii_uppercase, string.digits, string.punctuation + " ")
    alphabet = sum(len(letters) for letters in classes if set(letters) & set(passphrase))
    alphabet += 100 * (not passphrase.isascii())
    counted = min(len(passphrase), 2 * len(set(passphrase)))
    return counted * math.log2(max(alphabet, 2))


def open_passphrase(address: SourceURI) -> PassphraseProvider:
    """Open ``passphrase:`` (ask on the terminal), ``passphrase:?file=PATH`` or ``passphrase:?fd=3`` (one line of it).

    A passphrase never stands in the address: addresses are seen by every user of the computer.

    Raises:
        SourceError: an unknown option.
    """
    path, number = address.text_option("file", ""), address.int_option("fd", -1, 0, 1 << 20)
    log_n = address.int_option("log_n", DEFAULT_LOG_N, *_LOG_N)
    address.finish(("file", "fd", "log_n"))
    if address.path or (path and number >= 0):
        raise SourceError(
            f"passphrase: takes file= or fd=, or asks; nothing else belongs into {address.scheme}: addresses"
        )
    if path:
        return PassphraseProvider(lambda _: _from_file(Path(path)), log_n=log_n)
    if number >= 0:
        return PassphraseProvider(lambda _: _from_descriptor(number), log_n=log_n)
    return PassphraseProvider(_prompt, log_n=log_n)


def _from_file(path: Path) -> str:
    return _decoded(read_bounded(path, _LIMIT, SourceError).partition(b"\n")[0], str(path))


def _from_descriptor(number: int) -> str:
    """One line, and not a byte more: the next line is for who asks next (``refresh``: the new passphrase)."""
    line = bytearray()
    try:
        while (byte := os.read(number, 1)) and byte != b"\n" and len(line) <= _LIMIT:
            line += byte
    except OSError as problem:
        raise SourceError(f"file descriptor {number} cannot be read: {problem.strerror}") from None
    if not byte and not line:
        raise SourceError(f"file descriptor {number} ended before a passphrase came")
    return _decoded(line, f"file descriptor {number}")


def _decoded(line: bytes | bytearray, place: str) -> str:
    if len(line) > _LIMIT:
        raise SourceError(f"the passphrase in {place} is longer than {_LIMIT} bytes")
    try:
        return line.decode("utf-8").removesuffix("\r")
    except UnicodeDecodeError:
        raise SourceError(f"the passphrase in {place} is not UTF-8 text") from None


def _prompt(choosing: bool) -> str:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", getpass.GetPassWarning)  # or it would echo, and read standard input
            passphrase = getpass.getpass("New passphrase: " if choosing else "Passphrase: ")
            if choosing and getpass.getpass("Again: ") != passphrase:
                raise SourceError("the two passphrases differ")
    except (getpass.GetPassWarning, EOFError):
        raise SourceError("no terminal to ask on: give passphrase:?file=PATH or passphrase:?fd=NUMBER") from None
    return passphrase
