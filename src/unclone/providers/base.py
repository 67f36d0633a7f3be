"""Key providers: what hands out a device key without being a PUF.

A provider yields a secret, as the fuzzy extractor does, and the device key is sealed under it in the same record, with
public helper data of the provider's own scheme. The record's ``root`` says what it rests on.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points
from importlib.util import find_spec
from typing import Any, Final, Protocol, runtime_checkable

from unclone.errors import RecordError, SourceError, UncloneError
from unclone.puf.base import SourceEntry, SourceURI
from unclone.records import EnrollmentReport, HelperData

__all__ = ["KeyProvider", "Provided", "find_provider", "list_providers", "take_field"]

_GROUP: Final = "unclone.providers"
_BUILT_IN: Final = {
    "pkcs11": ("unclone.providers.pkcs11:open_pkcs11", "pkcs11", "pkcs11"),
    "passphrase": ("unclone.providers.passphrase:open_passphrase", "cryptography", ""),
    "tpm": ("unclone.providers.tpm:open_tpm", "tpm2_pytss", "tpm"),
}
"""Entry, package that it needs, extra that installs it. In the code, so that no plug-in takes their place."""


@dataclass(frozen=True, slots=True)
class Provided:
    """What a provider made at enrolment: public helper data, the secret, and what the record says of it."""

    helper: HelperData
    secret: bytes
    report: EnrollmentReport

    def __repr__(self) -> str:
        return f"Provided(helper={self.helper.scheme!r}, secret=<secret>)"


@runtime_checkable
class KeyProvider(Protocol):
    """Something other than a PUF that yields a secret.

    Attributes:
        root: what the record calls it, for example ``"tpm"``.
    """

    root: str

    def create(self) -> Provided:
        """A fresh secret, and public data by which ``recover`` finds it again.

        Raises:
            SourceError: the provider cannot be reached.
        """
        ...

    def recover(self, helper: HelperData) -> bytes:
        """The secret of ``helper``; a wrong one where the provider cannot tell.

        Raises:
            ReconstructionError: the provider does not release it.
            RecordError: the helper data is not of this provider, or malformed.
            SourceError: the provider cannot be reached.
        """
        ...


def find_provider(uri: str, *, plug_ins: bool = True) -> KeyProvider | None:
    """The provider at an address; ``None`` if its scheme names none, but perhaps a source.

    Args:
        uri: the address.
        plug_ins: whether to look among plug-ins too, which takes some milliseconds.

    Raises:
        SourceError: the address or one of its options is not understood, or the provider cannot be opened.
    """
    scheme = uri.partition(":")[0]
    entry = _BUILT_IN[scheme][0] if scheme in _BUILT_IN else _plug_ins().get(scheme) if plug_ins else None
    if entry is None:
        return None
    try:
        provider = _load(entry)(SourceURI.parse(uri))
    except UncloneError:
        raise
    except Exception as problem:
        raise SourceError(f"key provider {scheme!r} failed to open: {type(problem).__name__}: {problem}") from problem
    if not isinstance(provider, KeyProvider):
        raise SourceError(f"plug-in {entry} gave something without root, create and recover")
    if provider.root == "puf":
        raise SourceError(f"plug-in {entry} calls itself a PUF; a key provider is none, and a PUF is a source")
    return provider


def list_providers() -> list[SourceEntry]:
    """The kinds of key providers, built in and from plug-ins; none of them is a PUF."""
    listed = []
    for scheme, (entry, package, extra) in _BUILT_IN.items():
        missing = f"not usable: {package} is not installed: pip install 'unclone[{extra}]'"
        listed.append(SourceEntry(scheme, entry, "usable; not a PUF" if find_spec(package) else missing))
    for scheme, entry in _plug_ins().items():
        try:
            _load(entry)
            state = "usable; not a PUF"
        except Exception as problem:  # a plug-in may fail in any way
            state = f"not usable: {type(problem).__name__}: {problem}"
        listed.append(SourceEntry(scheme, entry, state))
    return listed


def _plug_ins() -> dict[str, str]:
    return {entry.name: entry.value for entry in entry_points(group=_GROUP) if entry.name not in _BUILT_IN}


def _load(entry: str) -> Any:
    module, _, name = entry.partition(":")
    return getattr(import_module(module), name)


def take_field(helper: HelperData, scheme: str, name: str, kind: type) -> Any:
    """A field of helper data, of type ``kind``.

    Raises:
        RecordError: another scheme, or the field is missing or of another type.
    """
    if helper.scheme != scheme:
        raise RecordError(
            f"the record's helper data is {helper.scheme[:60]!r}, not {scheme!r}: enrolled with another root"
        )
    value = helper.fields.get(name)
    if type(value) is not kind:
        raise RecordError(f"the record is malformed: field {name!r} of {scheme} is not of type {kind.__name__}")
    return value
