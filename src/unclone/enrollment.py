"""Enrol a device once; reconstruct its key wherever it runs.

The device half's top: a source, the fuzzy extractor and the record. It knows nothing of models.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from unclone import extractor, keys, quality
from unclone.device_file import load_device, seal_context
from unclone.errors import EnrollmentError, ParameterError, ReconstructionError, SourceError
from unclone.providers import KeyProvider, find_provider
from unclone.puf import PUF, open_source
from unclone.puf.recorded import RecordedSource
from unclone.records import Device, DeviceKey

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["HealthReport", "Source", "enroll", "health", "read_source", "reconstruct", "refresh"]

Source = str | PUF | KeyProvider
"""Where a key comes from: a PUF, a key provider (which is none), or the address of either."""

DEFAULT_READINGS: Final = 9
READINGS_LIMIT: Final = 100
MARGIN_TO_REFRESH: Final = 1.5


def enroll(
    source: Source,
    *,
    name: str = "",
    readings: int = DEFAULT_READINGS,
    key_bits: int = 128,
    failure: float = 1e-9,
    error_rate: float | None = None,
    suite: str = "x25519",
) -> Device:
    """Enrol a device: read its PUF, make helper data, and seal a fresh device key that only this chip opens.

    With a key provider (``"tpm:"``, ``"passphrase:"``) instead of a PUF, the key is sealed under the provider's secret,
    the record's ``root`` says so, and the arguments about readings and noise mean nothing.

    Args:
        source: a source or provider, or its address (``"sim:sram?seed=7"``).
        name: the vendor's name for the device.
        readings: how often to read, 1 to 100; more readings tell stable cells from unstable ones.
        key_bits: min-entropy that must be left, in bits.
        failure: accepted probability that one reconstruction fails.
        error_rate: bit error rate to design for; by default the highest of 25, 20, 15 ... % that this memory bears.
        suite: ``"x25519"``, or ``"hybrid"``: ML-KEM-768 with X25519, safe also from quantum computers.

    Returns:
        The record. All of it is public.

    Raises:
        SourceError: the source cannot be opened or read.
        EnrollmentError: this memory cannot carry the key; the message says why, with the figure.
        ParameterError: an argument is out of range.
    """
    suite = keys.suite_named(suite)
    puf = _opened(source)
    if isinstance(puf, KeyProvider):
        provided = puf.create()
        with keys.new_device_key() as key:
            public = keys.public_key(key, suite)
            blank = Device(name, puf.root, puf.root, suite, public, provided.helper, b"", provided.report)
            return _seal(blank, key, provided.secret)
    responses = read_source(puf, readings)
    _check_limit(puf, responses.shape[1])
    findings = quality.check(responses)
    for finding in findings:
        if finding.severity == "fatal":
            raise EnrollmentError(f"enrolment refused: {finding.message}")
    generated = extractor.generate(responses, key_bits=key_bits, failure=failure, error_rate=error_rate)
    notes = (*generated.report.notes, *(finding.message for finding in findings), *getattr(puf, "notes", ()))
    report = replace(generated.report, notes=notes)
    with keys.new_device_key() as key:
        public = keys.public_key(key, suite)
        blank = Device(name, "puf", puf.kind, suite, public, generated.helper, b"", report)
        return _seal(blank, key, generated.secret)


def _check_limit(puf: PUF, bits: int) -> None:
    """Refuse responses that cannot be as good as independent: the extractor's accounting takes them for it."""
    limit = getattr(puf, "entropy_limit", float(bits))
    if limit < bits:
        raise EnrollmentError(
            f"{puf.kind} can hold {int(limit):,} bits at most in its {bits:,} responses, so they are not independent: "
            "helper data could reveal them all: fewer responses (bits), or more chains or stages"
        )


def reconstruct(device: Device | str | os.PathLike[str], source: Source, *, readings: int = 1) -> DeviceKey:
    """The device key, from a fresh reading of the device's PUF, or from its key provider.

    Args:
        device: the record, or its path.
        source: the source, or its address; a key provider where the record's ``root`` names one.
        readings: readings to combine; more withstand more noise.

    Raises:
        ReconstructionError: another chip, altered helper data or too much noise; which of them is not told.
        RecordError: the record is malformed.
        SourceError: the source cannot be opened or read, or is not of the record's root.
    """
    record = device if isinstance(device, Device) else load_device(device)
    opened = _opened(source, record.root)
    if isinstance(opened, KeyProvider):
        return _open(record, [opened.recover(record.helper)])[0]
    return _open_read(record, read_source(opened, readings))[0]


def _opened(source: Source, root: str | None = None) -> PUF | KeyProvider:
    """The source or the provider; with ``root``, refused if a record of that root has no use for it."""
    found = source if not isinstance(source, str) else find_provider(source, plug_ins=root != "puf")
    kind = found.root if isinstance(found, KeyProvider) else "puf"
    if root not in (None, kind):
        what = "a PUF" if root == "puf" else f"{root}:"
        raise SourceError(f"this record's root is {root!r}, so its source is {what}, not {kind if found else source!r}")
    return open_source(str(source)) if found is None else found


def _open_read(record: Device, responses: NDArray[np.uint8]) -> tuple[DeviceKey, bytes]:
    """The device key, and the extractor's secret that opened it."""
    return _open(record, extractor.reproduce(responses, record.helper))


def _open(record: Device, candidates: list[bytes]) -> tuple[DeviceKey, bytes]:
    """The device key, and the one of the candidate secrets that opened it."""
    opened = keys.open_device_key(record.sealed_key, candidates, seal_context(record), record.public_key, record.suite)
    if opened is None:
        why = (
            "its reading is too noisy"
            if record.root == "puf"
            else f"this {record.root} is not the one it was enrolled with"
        )
        raise ReconstructionError(f"this is not the enrolled device, its record was altered, or {why}: no key")
    return opened


@dataclass(frozen=True, slots=True)
class HealthReport:
    """How a device fares in the field.

    Attributes:
        state: ``"good"``, ``"refresh"`` (refresh soon: the margin is below 1.5), or ``"late"`` (the accepted failure
            is exceeded already).
        correction: what the reconstruction had to correct, and how much more noise it bears; ``None`` for a root
            that is no PUF and has no noise.
        failure: the failure that ``correction.reach`` and ``correction.margin`` refer to.
        root: the root of the device's key.
    """

    state: str
    correction: extractor.Correction | None
    failure: float
    root: str = "puf"


def health(
    device: Device | str | os.PathLike[str], source: Source, *, readings: int = 3, failure: float = 1e-9
) -> HealthReport:
    """Reconstruct, count what had to be corrected, and say how much noise the device still bears.

    Args:
        device: the record, or its path.
        source: the source, or its address.
        readings: readings; combined to reconstruct, averaged to measure.
        failure: accepted probability that one reconstruction fails.

    Raises:
        ReconstructionError: no key; see ``reconstruct``.
        RecordError: the record is malformed.
        SourceError: the source cannot be opened or read.
    """
    record = device if isinstance(device, Device) else load_device(device)
    puf = _opened(source, record.root)
    if isinstance(puf, KeyProvider):
        reconstruct(record, puf).wipe()
        return HealthReport("good", None, failure, record.root)
    responses = read_source(puf, readings)
    key, secret = _open_read(record, responses)
    key.wipe()
    correction = extractor.measure(responses, record.helper, secret, failure=failure)
    state = "late" if correction.margin < 1 else "refresh" if correction.margin < MARGIN_TO_REFRESH else "good"
    return HealthReport(state, correction, failure)


def refresh(
    device: Device | str | os.PathLike[str],
    source: Source,
    *,
    readings: int = DEFAULT_READINGS,
    failure: float = 1e-9,
    error_rate: float | None = None,
) -> Device:
    """New helper data for the same device key, after ageing or a move to another climate.

    The device key is opened with the old record and sealed again under a new secret, so bound models go on. Old and
    new helper data together leak no more than one of them (docs/extractor.md). With a key provider:
    a fresh secret and, at a prompt, a new passphrase.

    Args:
        device: the record in use, or its path.
        source: the source, or its address.
        readings: fresh readings.
        failure: accepted probability that one reconstruction fails.
        error_rate: bit error rate to design for, as in ``enroll``.

    Returns:
        The new record, with the same public key. The old one still opens as long as the noise allows.

    Raises:
        ReconstructionError: the old record does not open on this device.
        EnrollmentError: helper data that cannot be refreshed safely, or a memory that no longer carries the key.
    """
    record = device if isinstance(device, Device) else load_device(device)
    puf = _opened(source, record.root)
    if isinstance(puf, KeyProvider):
        with reconstruct(record, puf) as key:
            provided = puf.create()
            return _seal(replace(record, helper=provided.helper, report=provided.report), key, provided.secret)
    responses = read_source(puf, readings)
    key, _ = _open_read(record, responses)
    with key:
        key_bits = record.report.key_bits
        new = extractor.regenerate(responses, record.helper, key_bits=key_bits, failure=failure, error_rate=error_rate)
        report = replace(new.report, notes=(*new.report.notes, *getattr(puf, "notes", ())))
        return _seal(replace(record, helper=new.helper, report=report), key, new.secret)


def _seal(device: Device, key: DeviceKey, secret: bytes) -> Device:
    return replace(device, sealed_key=keys.seal_device_key(key, secret, seal_context(device)))


def read_source(puf: PUF, readings: int) -> NDArray[np.uint8]:
    """Several fresh readings, ``uint8`` of 0/1, shape ``(readings, bits)``.

    Raises:
        ParameterError: ``readings`` is out of range.
        SourceError: a reading is not a response, or readings differ in length.
    """
    if not 1 <= readings <= READINGS_LIMIT:
        raise ParameterError(f"readings is 1 to {READINGS_LIMIT}, not {readings}")
    if isinstance(puf, RecordedSource):
        readings = min(readings, len(puf.readings))  # a reading counted twice would overstate reliability
    responses = [np.asarray(puf.evaluate()) for _ in range(readings)]
    for response in responses:
        if response.dtype != np.uint8 or response.ndim != 1 or not response.size or response.max() > 1:
            raise SourceError(f"source {puf.kind!r} gave something other than a uint8 array of 0/1")
        if response.size != responses[0].size:
            raise SourceError(f"source {puf.kind!r} gave readings of different lengths")
    return np.stack(responses)
