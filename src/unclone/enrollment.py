"""Enrol a device once; reconstruct its key wherever it runs.

The device half's top: a source, the fuzzy extractor and the record. It knows nothing of models.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import numpy as np

from unclone import extractor, keys, quality
from unclone.device_file import load_device, seal_context
from unclone.errors import EnrollmentError, ParameterError, ReconstructionError, SourceError
from unclone.puf import PUF, open_source
from unclone.records import Device, DeviceKey

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["enroll", "read_source", "reconstruct"]

DEFAULT_READINGS: Final = 9
READINGS_LIMIT: Final = 100


def enroll(
    source: str | PUF,
    *,
    name: str = "",
    readings: int = DEFAULT_READINGS,
    key_bits: int = 128,
    failure: float = 1e-9,
    error_rate: float | None = None,
) -> Device:
    """Enrol a device: read its PUF, make helper data, and seal a fresh device key that only this chip opens.

    Args:
        source: a source, or its address (``"sim:sram?seed=7"``).
        name: the vendor's name for the device.
        readings: how often to read, 1 to 100; more readings tell stable cells from unstable ones.
        key_bits: min-entropy that must be left, in bits.
        failure: accepted probability that one reconstruction fails.
        error_rate: bit error rate to design for; by default the higher of 15 % and a bound on what was measured.

    Returns:
        The record. All of it is public.

    Raises:
        SourceError: the source cannot be opened or read.
        EnrollmentError: this memory cannot carry the key; the message says why, with the figure.
        ParameterError: an argument is out of range.
    """
    puf = open_source(source)
    responses = read_source(puf, readings)
    for finding in quality.check(responses):
        if finding.severity == "fatal":
            raise EnrollmentError(f"enrolment refused: {finding.message}")
    generated = extractor.generate(responses, key_bits=key_bits, failure=failure, error_rate=error_rate)
    with keys.new_device_key() as key:
        device = Device(
            name=name,
            root="puf",
            source=puf.kind,
            suite=keys.SUITE,
            public_key=keys.public_key(key),
            helper=generated.helper,
            sealed_key=b"",
            report=generated.report,
        )
        return replace(device, sealed_key=keys.seal_device_key(key, generated.secret, seal_context(device)))


def reconstruct(device: Device | str | os.PathLike[str], source: str | PUF, *, readings: int = 1) -> DeviceKey:
    """The device key, from a fresh reading of the device's PUF.

    Args:
        device: the record, or its path.
        source: the source, or its address.
        readings: readings to combine; more withstand more noise.

    Raises:
        ReconstructionError: another chip, altered helper data or too much noise; which of them is not told.
        RecordError: the record is malformed.
        SourceError: the source cannot be opened or read.
    """
    record = device if isinstance(device, Device) else load_device(device)
    return _open(record, read_source(open_source(source), readings))[0]


def _open(record: Device, responses: NDArray[np.uint8]) -> tuple[DeviceKey, bytes]:
    """The device key, and the extractor's secret that opened it."""
    candidates = extractor.reproduce(responses, record.helper)
    opened = keys.open_device_key(record.sealed_key, candidates, seal_context(record), record.public_key)
    if opened is None:
        raise ReconstructionError(
            "this is not the enrolled device, its record was altered, or its reading is too noisy: no key"
        )
    return opened


def read_source(puf: PUF, readings: int) -> NDArray[np.uint8]:
    """Several fresh readings, ``uint8`` of 0/1, shape ``(readings, bits)``.

    Raises:
        ParameterError: ``readings`` is out of range.
        SourceError: a reading is not a response, or readings differ in length.
    """
    if not 1 <= readings <= READINGS_LIMIT:
        raise ParameterError(f"readings is 1 to {READINGS_LIMIT}, not {readings}")
    responses = [np.asarray(puf.evaluate()) for _ in range(readings)]
    for response in responses:
        if response.dtype != np.uint8 or response.ndim != 1 or not response.size or response.max() > 1:
            raise SourceError(f"source {puf.kind!r} gave something other than a uint8 array of 0/1")
        if response.size != responses[0].size:
            raise SourceError(f"source {puf.kind!r} gave readings of different lengths")
    return np.stack(responses)
