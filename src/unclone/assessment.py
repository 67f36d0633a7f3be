"""Assess the quality of PUF responses: sources in, a report out. For one device, or many side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from unclone import quality
from unclone.enrollment import read_source
from unclone.errors import ParameterError
from unclone.extractor.entropy import alias_entropy, estimate_entropy
from unclone.puf import open_source
from unclone.puf.recorded import RecordedSource, describe_recordings

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["assess_sources"]

_LEAST_BITS = 64


def assess_sources(sources: Sequence[str], *, readings: int = 9) -> quality.QualityReport:
    """Read devices and report on their quality.

    Args:
        sources: addresses, or paths of recordings; a path stands for every device that the file holds.
        readings: how often to read a source that is alive; of a recording, every reading is used.

    Raises:
        SourceError: a source cannot be opened or read.
        ParameterError: no source, or two of the same name.
    """
    devices: dict[str, NDArray[np.uint8]] = {}
    for name, responses in _responses(sources, readings):
        if name in devices:
            raise ParameterError(f"{name} is given twice")
        devices[name] = responses
    if not devices:
        raise ParameterError("quality needs at least one source")
    return quality.assess(devices, {name: _entropy(responses) for name, responses in devices.items()} | _alias(devices))


def _responses(sources: Sequence[str], readings: int) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    for source in sources:
        if ":" not in source or Path(source).exists():
            prefix = f"{Path(source).stem}:" if len(sources) > 1 else ""
            for recording in describe_recordings(source):
                yield prefix + recording.name, _all_readings(recording.uri, readings)
        else:
            yield source, _all_readings(source, readings)


def _all_readings(uri: str, readings: int) -> NDArray[np.uint8]:
    source = open_source(uri)
    if isinstance(source, RecordedSource):
        return source.readings
    return read_source(source, readings)


def _entropy(responses: NDArray[np.uint8]) -> dict[str, float]:
    """Min-entropy in bits per cell of the majority response, by estimator."""
    reference = (2 * responses.sum(axis=0, dtype=np.int64) > len(responses)).astype(np.uint8)
    if reference.size < _LEAST_BITS:
        return {}
    estimate = estimate_entropy(reference)
    figures = {
        "most_common_value": estimate.most_common_value,
        "collision": estimate.collision,
        "markov": estimate.markov,
        "per_phase": estimate.per_phase,
        "period": float(estimate.period),
        "bound": estimate.bound,
    }
    if estimate.compression is not None:
        figures["compression"] = estimate.compression
    return figures


def _alias(devices: dict[str, NDArray[np.uint8]]) -> dict[str, dict[str, float]]:
    """Entropy left to a cell when other devices are known, over the fleet given."""
    if len(devices) < 2 or len({responses.shape[1] for responses in devices.values()}) != 1:
        return {}
    references = np.stack(
        [
            (2 * responses.sum(axis=0, dtype=np.int64) > len(responses)).astype(np.uint8)
            for responses in devices.values()
        ]
    )
    return {"all devices": {"alias": alias_entropy(references)}}
