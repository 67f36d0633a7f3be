"""``tpm:``, a secret sealed in a TPM 2.0, on request to the boot state (PCRs). Not a PUF, but bound to a chip as well.

At enrolment 32 random bytes are sealed in an object under a storage primary key of the owner hierarchy; the object's
public and private areas, which only this TPM can load, are the record's helper data. The primary key comes from a fixed
template, so the same TPM makes the same key again after every start, until its owner hierarchy is cleared. Secrets
cross the bus under parameter encryption with a session salted to that key, and its name is in the record, so somebody
between processor and TPM can neither read along nor take its place (TCG, "TPM 2.0 Library", part 1, sections 19, 21).
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from unclone import canonical
from unclone.errors import MissingExtraError, ReconstructionError, RecordError, SourceError
from unclone.providers.base import Provided, take_field
from unclone.puf.base import SourceURI
from unclone.records import EnrollmentReport, HelperData

__all__ = ["SCHEME", "TPMProvider", "open_tpm"]

SCHEME: Final = "tpm2-sealed-1"
DEFAULT_TCTI: Final = "device:/dev/tpmrm0"
_SECRET_BYTES: Final = 32
_PCRS: Final = 24
_BLOB_LIMIT: Final = 1024
_FIELDS: Final = {"parent", "public", "private", "pcrs"}
_REFUSED: Final = "the TPM did not release the key: another TPM, a cleared one, or an altered record"


class TPMProvider:
    """A secret sealed in a TPM.

    Args:
        pcrs: PCRs of the SHA-256 bank, 0 to 23, whose values at enrolment must hold again; none by default.
        tcti: how to reach the TPM, in the words of tpm2-tss.
    """

    root = "tpm"

    def __init__(self, pcrs: tuple[int, ...] = (), *, tcti: str = DEFAULT_TCTI) -> None:
        if len(set(pcrs)) != len(pcrs) or not all(0 <= pcr < _PCRS for pcr in pcrs):
            raise SourceError(f"PCRs are distinct numbers, 0 to {_PCRS - 1}, not {list(pcrs)}")
        self._pcrs = tuple(sorted(pcrs))
        self._tcti = tcti

    def create(self) -> Provided:
        """See ``KeyProvider.create``."""
        secret = secrets.token_bytes(_SECRET_BYTES)
        refused = f"the TPM at {self._tcti} cannot seal"
        with _connected(self._tcti) as tpm, _translated(SourceError, refused), _storage_key(tpm) as (parent, name):
            public, private = _seal(tpm, parent, secret, self._pcrs)
        fields = {
            "parent": canonical.b64encode(name),
            "public": canonical.b64encode(public),
            "private": canonical.b64encode(private),
            "pcrs": list(self._pcrs),
        }
        bound = (
            f"released at the present values of PCRs {list(self._pcrs)}"
            if self._pcrs
            else "released to anybody who uses it"
        )
        note = f"root tpm: not a PUF; a random secret sealed in the TPM, {bound}"
        bits = 8 * _SECRET_BYTES
        entropy = 1000 * bits
        report = EnrollmentReport(0, 0, 0, 0, entropy, entropy, entropy, bits, 0, (note,))
        return Provided(HelperData(SCHEME, fields), secret, report)

    def recover(self, helper: HelperData) -> bytes:
        """See ``KeyProvider.recover``. PCRs are those of the record."""
        name, public, private = (_blob(helper, field) for field in ("parent", "public", "private"))
        pcrs = take_field(helper, SCHEME, "pcrs", list)
        distinct = all(type(pcr) is int and 0 <= pcr < _PCRS for pcr in pcrs) and sorted(set(pcrs)) == pcrs
        if not distinct or set(helper.fields) != _FIELDS:
            raise RecordError(f"the record is malformed: fields of {SCHEME}")
        refused = _REFUSED + (f"; or the boot state changed (PCRs {pcrs})" if pcrs else "")
        with _connected(self._tcti) as tpm, _translated(ReconstructionError, refused), _storage_key(tpm) as own:
            parent, found = own
            if found != name:
                raise ReconstructionError(_REFUSED)
            return _unseal(tpm, parent, public, private, pcrs)


def open_tpm(address: SourceURI) -> TPMProvider:
    """Open ``tpm:?pcrs=0,7&tcti=device:/dev/tpmrm0``.

    Raises:
        SourceError: an unknown option or a bad number.
    """
    text = address.text_option("pcrs", "")
    tcti = address.text_option("tcti", DEFAULT_TCTI)
    address.finish(("pcrs", "tcti"))
    if address.path:
        raise SourceError(f"{address.text!r}: the TPM is chosen by tcti=, for example tpm:?tcti=device:/dev/tpmrm0")
    try:
        pcrs = tuple(int(number) for number in text.split(",")) if text else ()
    except ValueError:
        raise SourceError(f"pcrs={text!r} in {address.text!r} is not a list of numbers such as 0,7") from None
    return TPMProvider(pcrs, tcti=tcti)


def _blob(helper: HelperData, name: str) -> bytes:
    try:
        data = canonical.b64decode(take_field(helper, SCHEME, name, str))
    except canonical.CanonicalError:
        raise RecordError(f"the record is malformed: {name} is not base64") from None
    if not 0 < len(data) <= _BLOB_LIMIT:
        raise RecordError(f"the record is malformed: {name} is not 1 to {_BLOB_LIMIT} bytes long")
    return data


@contextmanager
def _connected(tcti: str) -> Iterator[Any]:
    try:
        from tpm2_pytss import ESAPI, TSS2_Exception
    except ImportError:
        raise MissingExtraError("tpm2-pytss", "tpm") from None
    # The stack's own log prints every refusal; what matters of them becomes our errors.
    os.environ.setdefault("TSS2_LOG", "all+NONE")
    try:
        tpm = ESAPI(tcti)
    except (TSS2_Exception, RuntimeError) as problem:
        raise SourceError(
            f"no TPM answers at {tcti!r}: {problem}; is there one, and may this user read it (group tss)?"
        ) from None
    try:
        yield tpm
    finally:
        tpm.close()


@contextmanager
def _translated(error: type[SourceError] | type[ReconstructionError], message: str) -> Iterator[None]:
    """What the TPM refuses becomes ``error``; a TPM that locks out or is busy is a ``SourceError`` always."""
    from tpm2_pytss import TSS2_Exception

    try:
        yield
    except TSS2_Exception as problem:
        # TPM 2.0 part 2, section 6.6: bits 16 up are the layer, 0 for the TPM's own; format-zero warnings are 0x9xx.
        if int(problem.rc) >> 16 or int(problem.rc) & 0x980 == 0x900:
            raise SourceError(f"the TPM did not do what was asked: {problem}") from None
        raise error(f"{message} ({problem})" if error is SourceError else message) from None


@contextmanager
def _storage_key(tpm: Any) -> Iterator[tuple[Any, bytes]]:
    """Handle and name of the storage primary key: ECC P-256 with AES-128-CFB, the same at every call."""
    from tpm2_pytss.constants import TPMA_OBJECT
    from tpm2_pytss.types import TPM2B_PUBLIC, TPM2B_SENSITIVE_CREATE

    attributes = (
        TPMA_OBJECT.FIXEDTPM
        | TPMA_OBJECT.FIXEDPARENT
        | TPMA_OBJECT.SENSITIVEDATAORIGIN
        | TPMA_OBJECT.USERWITHAUTH
        | TPMA_OBJECT.NODA
        | TPMA_OBJECT.RESTRICTED
        | TPMA_OBJECT.DECRYPT
    )
    template = TPM2B_PUBLIC.parse("ecc256:aes128cfb", objectAttributes=attributes)
    handle, public, *_ = tpm.create_primary(TPM2B_SENSITIVE_CREATE(), template)
    with _flushed(tpm, handle):
        yield handle, bytes(public.get_name())


@contextmanager
def _flushed(tpm: Any, handle: Any) -> Iterator[Any]:
    """A TPM without resource manager has room for three objects."""
    try:
        yield handle
    finally:
        tpm.flush_context(handle)


def _seal(tpm: Any, parent: Any, secret: bytes, pcrs: tuple[int, ...]) -> tuple[bytes, bytes]:
    from tpm2_pytss.constants import TPM2_SE, TPMA_OBJECT
    from tpm2_pytss.types import TPM2B_PUBLIC, TPM2B_SENSITIVE_CREATE, TPM2B_SENSITIVE_DATA, TPMS_SENSITIVE_CREATE

    attributes = TPMA_OBJECT.FIXEDTPM | TPMA_OBJECT.FIXEDPARENT | TPMA_OBJECT.NODA
    policy = b""
    if pcrs:
        with _session(tpm, parent, TPM2_SE.TRIAL, pcrs) as trial:
            policy = bytes(tpm.policy_get_digest(trial))
    else:
        attributes |= TPMA_OBJECT.USERWITHAUTH
    template = TPM2B_PUBLIC.parse("keyedhash", objectAttributes=attributes, authPolicy=policy)
    sensitive = TPM2B_SENSITIVE_CREATE(TPMS_SENSITIVE_CREATE(data=TPM2B_SENSITIVE_DATA(secret)))
    with _session(tpm, parent, TPM2_SE.HMAC) as session:
        private, public, *_ = tpm.create(parent, sensitive, template, session1=session)
    return public.marshal(), private.marshal()


def _unseal(tpm: Any, parent: Any, public: bytes, private: bytes, pcrs: list[int]) -> bytes:
    from tpm2_pytss.constants import TPM2_SE
    from tpm2_pytss.types import TPM2B_PRIVATE, TPM2B_PUBLIC

    areas = _unmarshalled(TPM2B_PRIVATE, private), _unmarshalled(TPM2B_PUBLIC, public)
    with _session(tpm, parent, TPM2_SE.HMAC) as session:
        sealed = tpm.load(parent, *areas, session1=session)
    kind = TPM2_SE.POLICY if pcrs else TPM2_SE.HMAC
    with _flushed(tpm, sealed), _session(tpm, parent, kind, tuple(pcrs)) as session:
        return bytes(tpm.unseal(sealed, session1=session))


def _unmarshalled(kind: Any, data: bytes) -> Any:
    from tpm2_pytss import TSS2_Exception

    try:
        value, taken = kind.unmarshal(data)
    except TSS2_Exception:
        taken = -1
    if taken != len(data):
        raise RecordError(f"the record is malformed: not a {kind.__name__}")
    return value


@contextmanager
def _session(tpm: Any, parent: Any, kind: Any, pcrs: tuple[int, ...] = ()) -> Iterator[Any]:
    """A session salted to the storage key, with encrypted parameters, and with PolicyPCR where there are PCRs."""
    from tpm2_pytss.constants import ESYS_TR, TPM2_ALG, TPMA_SESSION
    from tpm2_pytss.types import (
        TPM2B_DIGEST,
        TPML_PCR_SELECTION,
        TPMT_SYM_DEF,
        TPMU_SYM_KEY_BITS,
        TPMU_SYM_MODE,
    )

    symmetric = TPMT_SYM_DEF(
        algorithm=TPM2_ALG.AES, keyBits=TPMU_SYM_KEY_BITS(aes=128), mode=TPMU_SYM_MODE(aes=TPM2_ALG.CFB)
    )
    with _flushed(tpm, tpm.start_auth_session(parent, ESYS_TR.NONE, kind, symmetric, TPM2_ALG.SHA256)) as session:
        tpm.trsess_set_attributes(
            session, TPMA_SESSION.CONTINUESESSION | TPMA_SESSION.DECRYPT | TPMA_SESSION.ENCRYPT, 0xFF
        )
        if pcrs:
            selection = TPML_PCR_SELECTION.parse("sha256:" + ",".join(map(str, pcrs)))
            tpm.policy_pcr(session, TPM2B_DIGEST(), selection)
        yield session
