"""The values that cross borders between layers: frozen, plain, without behaviour beyond their own checks.

A response is a ``uint8`` array of 0/1, shape ``(bits,)``; several readings are ``(readings, bits)``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Bits = NDArray[np.uint8]

from unclone.errors import ParameterError

__all__ = [
    "KEY_BYTES",
    "ClearTensor",
    "Device",
    "DeviceKey",
    "EnrollmentReport",
    "Header",
    "HelperData",
    "MaskedTensor",
    "Recipient",
    "Selection",
    "Slot",
]

KEY_BYTES: Final = 32


class DeviceKey:
    """The one secret of a device: 32 bytes that meet the model half through HPKE.

    Never printed, compared or pickled; ``wipe`` overwrites the bytes (see LIMITATIONS.md for what Python
    cannot promise). Anything that yields 32 secret bytes can stand in for a PUF.
    """

    __slots__ = ("_secret",)

    def __init__(self, secret: bytes | bytearray) -> None:
        if len(secret) != KEY_BYTES:
            raise ParameterError(f"a device key has {KEY_BYTES} bytes, got {len(secret)}")
        self._secret = bytearray(secret)

    @property
    def secret(self) -> memoryview:
        """The key's bytes, read-only, without a copy."""
        if not self._secret:
            raise ParameterError("this device key was wiped; reconstruct it again")
        return memoryview(self._secret).toreadonly()

    def lock(self) -> None:
        """Keep the key out of swap.

        Raises:
            ResourceError: the system's limit on locked memory is too low.
        """
        from unclone.hardening import lock_memory  # ctypes: only for those who ask

        lock_memory(self._secret)

    def wipe(self) -> None:
        """Overwrite the key; every later use raises ``ParameterError``."""
        self._secret[:] = bytes(len(self._secret))
        self._secret = bytearray()

    def __enter__(self) -> DeviceKey:
        return self

    def __exit__(self, *_: object) -> None:
        self.wipe()

    def __repr__(self) -> str:
        return "DeviceKey(<secret>)"

    def __reduce__(self) -> Any:
        raise TypeError("a DeviceKey is not pickled: hand over the device record and reconstruct")


@dataclass(frozen=True, slots=True)
class HelperData:
    """Public data of a fuzzy extractor: what ``reproduce`` needs beside a fresh response.

    Attributes:
        scheme: name and version of the construction, for example ``"code-offset-1"``.
        fields: canonical-JSON values (str, int, bool, list, dict; no floats), as spec/device-record.md lists them.
    """

    scheme: str
    fields: Mapping[str, Any]

    def __post_init__(self) -> None:
        object.__setattr__(self, "fields", MappingProxyType(dict(self.fields)))


@dataclass(frozen=True, slots=True)
class EnrollmentReport:
    """What enrolment measured. Integers, so the record stays canonical: ``_ppm`` = 1e-6, ``_millibits`` = 1e-3 bit.

    Attributes:
        readings: number of readings used.
        response_bits: bits of one reading.
        ones_ppm: share of ones in the reference response.
        error_rate_ppm: bit error rate between two single readings, from the readings, or assumed (see notes).
        raw_entropy_millibits: min-entropy of the cells that the sketch uses, before debiasing.
        debiased_entropy_millibits: the same after debiasing.
        residual_entropy_millibits: what is left after the sketch's leakage; the key needs ``key_bits``.
        key_bits: security level of the key.
        failure_log10_milli: 1000 * log10 of the predicted failure of one reconstruction, for example -9000.
        notes: short sentences: warnings, and what was assumed rather than measured.
    """

    readings: int
    response_bits: int
    ones_ppm: int
    error_rate_ppm: int
    raw_entropy_millibits: int
    debiased_entropy_millibits: int
    residual_entropy_millibits: int
    key_bits: int
    failure_log10_milli: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Device:
    """A device record: everything about one enrolled device, all of it public.

    Attributes:
        name: the vendor's name for the device, may be empty.
        root: what the key comes from: ``"puf"``, or a key provider such as ``"tpm"`` or ``"passphrase"``.
        source: kind of the source, for example ``"sim:sram"``: a remark for people, never an address to open.
        suite: name of the HPKE suite of ``public_key``.
        public_key: HPKE public key, bytes of the suite's length.
        helper: public data of the fuzzy extractor.
        sealed_key: the device key, sealed under the key that the fuzzy extractor yields.
        report: what enrolment measured.
    """

    name: str
    root: str
    source: str
    suite: str
    public_key: bytes
    helper: HelperData
    sealed_key: bytes
    report: EnrollmentReport


class Recipient(Protocol):
    """What a model can be bound to: a device, or a machine made of devices. Its key opens slots for its public key."""

    @property
    def suite(self) -> str:
        """Name of the HPKE suite of ``public_key``."""
        ...

    @property
    def public_key(self) -> bytes:
        """HPKE public key, bytes of the suite's length."""
        ...


@dataclass(frozen=True, slots=True)
class MaskedTensor:
    """One masked tensor of a bound model.

    Attributes:
        name: the tensor's name, or its path inside the file where the format gives it none.
        dtype: the format's own dtype name in lower case, for example ``"float16"``, ``"int4"``, ``"q8_0"``.
        shape: dimensions as the format gives them.
        nbytes: length in the file.
        pattern: bytes of the bit pattern, repeated over the tensor; set bits are masked; ``b"\\xff"`` masks all.
        tags: authentication tags, 16 bytes a chunk.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    pattern: bytes
    tags: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class ClearTensor:
    """A tensor left in clear, and why."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class Slot:
    """The content key, sealed for one device.

    Attributes:
        suite: name of the HPKE suite.
        hint: 8 bytes that let the device find its slot; they reveal nothing without the public key.
        sealed: HPKE encapsulation and ciphertext.
    """

    suite: str
    hint: bytes
    sealed: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Selection:
    """Which part of the weights is masked; everything by default.

    Attributes:
        select: ``"all"``, ``"random"`` (single words), or how blocks were chosen: ``"blocks"``, ``"magnitude"``,
            ``"first-layers"``, ``"saliency"``.
        share_ppm: share of the weights' bytes, in 1e-6.
        block: bytes of a block; 0 for ``"all"`` and ``"random"``.
        positions: the bitmap of masked blocks, sealed under the content key; empty for ``"all"`` and ``"random"``.
    """

    select: str = "all"
    share_ppm: int = 1_000_000
    block: int = 0
    positions: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class Header:
    """The header of a bound model (spec/bound-model.md).

    Attributes:
        version: version of the format, 1.
        file_id: 16 random bytes, fresh for each binding.
        format: name of the carrier format, for example ``"onnx"``.
        cipher: ``"aes-256-gcm"`` or ``"chacha20-poly1305"``.
        bits: ``"finite"`` or ``"all"``.
        chunk: bytes a tag covers.
        selection: which part of them is masked.
        tensors: the masked tensors, in the order of their keystreams.
        clear: the tensors left in clear.
        slots: the content key, sealed for each device.
        mac: HMAC-SHA256 over the rest of the header and the carrier's digest.
    """

    version: int
    file_id: bytes
    format: str
    cipher: str
    bits: str
    chunk: int
    selection: Selection
    tensors: tuple[MaskedTensor, ...]
    clear: tuple[ClearTensor, ...]
    slots: tuple[Slot, ...]
    mac: bytes = field(repr=False)
