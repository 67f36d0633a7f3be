"""``pkcs11:``, a secret that a token (HSM, smart card) encrypts under an AES key that never leaves it. Not a PUF.

For vendors: the key that licenses releases rests on a token. At enrolment 32 random bytes are encrypted by the token
with AES-256-GCM (PKCS #11 v3.0, section 2.13); their ciphertext is the record's helper data. The token's key is
sensitive and not extractable; it is made at first use if the token has none of that label.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from unclone import canonical
from unclone.errors import MissingExtraError, ReconstructionError, RecordError, SourceError
from unclone.files import read_bounded
from unclone.providers.base import Provided, take_field
from unclone.puf.base import SourceURI
from unclone.records import EnrollmentReport, HelperData

__all__ = ["SCHEME", "PKCS11Provider", "open_pkcs11"]

SCHEME: Final = "pkcs11-aes-gcm-1"
DEFAULT_LABEL: Final = "unclone"
_SECRET_BYTES: Final = 32
_NONCE_BYTES: Final = 12
_TAG_BITS: Final = 128
_KEY_BITS: Final = 256
_FIELDS: Final = {"label", "nonce", "sealed"}
_CONTEXT: Final = b"unclone v1 pkcs11"
_PIN_LIMIT: Final = 256
_REFUSED: Final = "the token did not release the key: another token or key, or an altered record"


class PKCS11Provider:
    """A secret encrypted by a token.

    Args:
        module: path of the token's PKCS #11 library.
        token: the token's label; empty for the only one.
        label: label of the AES key in it.
        pin: file whose first line is the user PIN; empty for tokens with a key pad of their own.
    """

    root = "pkcs11"

    def __init__(self, module: str, *, token: str = "", label: str = DEFAULT_LABEL, pin: Path | None = None) -> None:
        self._module, self._token, self._label, self._pin = module, token, label, pin

    def create(self) -> Provided:
        """See ``KeyProvider.create``.

        Raises:
            SourceError: the token cannot be reached, or can neither find nor make the key.
        """
        secret, nonce = secrets.token_bytes(_SECRET_BYTES), secrets.token_bytes(_NONCE_BYTES)
        with self._session() as (pkcs11, session), _translated(pkcs11, SourceError, "the token cannot encrypt"):
            sealed = _key(pkcs11, session, self._label, make=True).encrypt(secret, **_gcm(pkcs11, nonce))
        fields = {
            "label": self._label,
            "nonce": canonical.b64encode(nonce),
            "sealed": canonical.b64encode(sealed),
        }
        note = "root pkcs11: not a PUF; a random secret encrypted by a token's key"
        bits = 8000 * _SECRET_BYTES
        report = EnrollmentReport(0, 0, 0, 0, bits, bits, bits, 128, 0, (note,))
        return Provided(HelperData(SCHEME, fields), secret, report)

    def recover(self, helper: HelperData) -> bytes:
        """See ``KeyProvider.recover``."""
        label: str = take_field(helper, SCHEME, "label", str)
        try:
            nonce, sealed = (canonical.b64decode(take_field(helper, SCHEME, name, str)) for name in ("nonce", "sealed"))
        except canonical.CanonicalError:
            raise RecordError(f"the record is malformed: base64 of {SCHEME}") from None
        if set(helper.fields) != _FIELDS or (len(nonce), len(sealed)) != (_NONCE_BYTES, _SECRET_BYTES + 16):
            raise RecordError(f"the record is malformed: fields of {SCHEME}")
        with self._session() as (pkcs11, session), _translated(pkcs11, ReconstructionError, _REFUSED):
            secret = bytes(_key(pkcs11, session, label, make=False).decrypt(sealed, **_gcm(pkcs11, nonce)))
        if len(secret) != _SECRET_BYTES:
            raise ReconstructionError(_REFUSED)
        return secret

    @contextmanager
    def _session(self) -> Iterator[tuple[Any, Any]]:
        try:
            import pkcs11
        except ImportError:
            raise MissingExtraError("python-pkcs11", "pkcs11") from None
        pin = None if self._pin is None else _first_line(self._pin)
        try:
            library = pkcs11.lib(self._module)
        except (RuntimeError, pkcs11.PKCS11Error) as problem:
            raise SourceError(f"no PKCS #11 library at {self._module}: {problem or type(problem).__name__}") from None
        with _translated(pkcs11, SourceError, f"the token {self._token or 'at ' + self._module} cannot be opened"):
            tokens = list(library.get_tokens(token_label=self._token) if self._token else library.get_tokens())
            tokens = [token for token in tokens if pkcs11.TokenFlag.TOKEN_INITIALIZED in token.flags]
            if len(tokens) != 1:
                raise SourceError(
                    f"{len(tokens)} tokens at {self._module}{' are called ' + self._token if self._token else ''}: "
                    "name one with token="
                )
            session = tokens[0].open(rw=True, user_pin=pin if pin is not None else pkcs11.PROTECTED_AUTH)
        with session:
            yield pkcs11, session


def _key(pkcs11: Any, session: Any, label: str, *, make: bool) -> Any:
    """The AES key of that label, made if asked to and there is none."""
    try:
        return session.get_key(object_class=pkcs11.ObjectClass.SECRET_KEY, key_type=pkcs11.KeyType.AES, label=label)
    except pkcs11.NoSuchKey:
        if not make:
            raise
    attribute = pkcs11.Attribute
    template = {attribute.SENSITIVE: True, attribute.EXTRACTABLE: False, attribute.TOKEN: True}
    return session.generate_key(pkcs11.KeyType.AES, _KEY_BITS, label=label, store=True, template=template)


def _gcm(pkcs11: Any, nonce: bytes) -> dict[str, Any]:
    parameters = pkcs11.GCMParams(nonce, _CONTEXT, _TAG_BITS)
    return {"mechanism": pkcs11.Mechanism.AES_GCM, "mechanism_param": parameters}


@contextmanager
def _translated(pkcs11: Any, error: type[SourceError] | type[ReconstructionError], message: str) -> Iterator[None]:
    try:
        yield
    except (pkcs11.PinIncorrect, pkcs11.PinLocked, pkcs11.PinLenRange) as problem:
        raise SourceError(f"the token refuses the PIN: {type(problem).__name__}") from None
    except pkcs11.PKCS11Error as problem:
        raise error(f"{message} ({type(problem).__name__})") from None


def _first_line(path: Path) -> str:
    line = read_bounded(path, _PIN_LIMIT, SourceError).partition(b"\n")[0]
    try:
        return line.decode("utf-8").removesuffix("\r")
    except UnicodeDecodeError:
        raise SourceError(f"the PIN in {path} is not UTF-8 text") from None


def open_pkcs11(address: SourceURI) -> PKCS11Provider:
    """Open ``pkcs11:LIBRARY?token=LABEL&key=LABEL&pin-file=PATH``; a PIN never stands in an address.

    Raises:
        SourceError: an unknown option, or no library.
    """
    token, label = address.text_option("token", ""), address.text_option("key", DEFAULT_LABEL)
    pin = address.text_option("pin-file", "")
    address.finish(("token", "key", "pin-file"))
    if not address.path:
        raise SourceError("pkcs11: takes the path of a PKCS #11 library: pkcs11:/usr/lib/softhsm/libsofthsm2.so")
    return PKCS11Provider(address.path, token=token, label=label, pin=Path(pin) if pin else None)
