"""Experiment 1: the paper reproduced (arXiv 2603.10753): a one-time pad straight from PUF responses on some weights."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from unclone.lab.contracts import Array, Task, Weights
from unclone.lab.data import data_folder
from unclone.lab.harness import Report, parallel
from unclone.lab.jobs import TaskSource
from unclone.puf.arbiter import ArbiterPUF

__all__ = ["ERROR_RATES", "SHARES", "padded", "paper_experiment"]

SHARES: Final = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
ERROR_RATES: Final = (0.0, 0.00001, 0.0001, 0.001, 0.01, 0.05, 0.1, 0.15, 0.2)
_STAGES: Final = 64
_SAMPLES: Final = 2000
_PLAUSIBLE: Final = 2.0
_CHIP: Final = "L45"


@dataclass(frozen=True)
class _Run:
    source: TaskSource
    seed: int


def paper_experiment(
    source: TaskSource, *, seeds: Sequence[int], backend: str = "loky", workers: int = -1, report: Report | None = None
) -> dict[str, Any]:
    """Pad random words with responses of a simulated arbiter PUF (64 stages), without error correction.

    Args:
        source: the task; padded are all its floating-point weights.
        seeds: of the chip, the clone and the choice of words.
        backend: see ``unclone.lab.harness.run_jobs``.
        workers: likewise.
        report: progress.

    Returns:
        JSON values: ``shares``; ``clone`` (kind of layer, or ``"all"`` -> for each seed a list of scores by share) for
        a clone that unpads with its own responses; ``repaired``: the same, once it has zeroed every weight that is no
        number or beyond 2 in magnitude, which takes no data; ``target``; ``error_rates`` and ``noisy`` (share ->
        lists) for the target whose responses flip; ``cost`` (``bits_per_weight``, ``responses``,
        ``seconds_per_million``); and ``sram``: the same with a recorded memory, where the recording is here.
    """
    task = source.open()
    found: dict[int, dict[str, Any]] = {}

    def keep(job: _Run, result: dict[str, Any]) -> None:
        found[job.seed] = result
        if report:
            report(len(found), len(seeds), "the paper's pad")

    parallel(_one_seed, [_Run(source, seed) for seed in seeds], keep, backend=backend, workers=workers)
    first = found[seeds[0]]
    return {
        "shares": list(SHARES),
        "error_rates": list(ERROR_RATES),
        "original": first["original"],
        "chance": task.chance,
        "target": [found[seed]["target"] for seed in seeds],
        "clone": {kind: [found[seed]["clone"][kind] for seed in seeds] for kind in first["clone"]},
        "repaired": {kind: [found[seed]["repaired"][kind] for seed in seeds] for kind in first["repaired"]},
        "noisy": {share: [found[seed]["noisy"][share] for seed in seeds] for share in first["noisy"]},
        "cost": {
            "bits_per_weight": first["bits"],
            "responses": first["responses"],
            "seconds_per_million": float(np.mean([found[seed]["seconds_per_million"] for seed in seeds])),
        },
        "sram": _recorded(task),
    }


def _one_seed(job: _Run) -> dict[str, Any]:
    task = job.source.open()
    weights = task.weights()
    words = [name for name, value in weights.items() if np.issubdtype(value.dtype, np.floating)]
    start = time.perf_counter()
    rng = np.random.default_rng([job.seed, 0x9AD])
    challenge_seed = int(rng.integers(2**62))
    pad = _responses(job.seed, challenge_seed, weights, words)
    seconds = time.perf_counter() - start
    other = _responses(job.seed + 500_000, challenge_seed, weights, words)
    order = {name: rng.random(weights[name].shape) for name in words}
    kinds = sorted({task.layers[name] for name in words} & {"dense", "convolutional", "recurrent", "embedding"})
    clone: dict[str, list[float]] = {}
    repaired: dict[str, list[float]] = {}
    for kind in ["all", *kinds]:
        chosen = [name for name in words if kind in ("all", task.layers[name])]
        files = [padded(padded(weights, order, chosen, share, pad), order, chosen, share, other) for share in SHARES]
        clone[kind] = [task.score(file, limit=_SAMPLES) for file in files]
        repaired[kind] = [task.score(_repaired(file), limit=_SAMPLES) for file in files]
    target = task.score(padded(padded(weights, order, words, 1.0, pad), order, words, 1.0, pad), limit=_SAMPLES)
    noisy = {
        str(share): [_noisy_score(task, weights, order, words, share, rate, rng) for rate in ERROR_RATES]
        for share in (0.2, 1.0)
    }
    bits = 8 * max(weights[name].itemsize for name in words)
    responses = sum(8 * weights[name].nbytes for name in words)
    return {
        "original": task.score(weights, limit=_SAMPLES),
        "clone": clone,
        "repaired": repaired,
        "target": target,
        "noisy": noisy,
        "bits": bits,
        "responses": responses,
        "seconds_per_million": seconds / responses * 1e6,
    }


def padded(weights: Weights, order: Weights, names: Sequence[str], share: float, pad: Weights) -> Weights:
    """XOR the ``share`` of the words of lowest ``order`` in the tensors ``names`` with ``pad``; twice is not at all."""
    result = dict(weights)
    for name in names:
        words = weights[name].copy()
        bits = words.view(pad[name].dtype)
        chosen = order[name] < share
        bits[chosen] ^= pad[name][chosen]
        result[name] = words
    return result


def _repaired(weights: Weights) -> Weights:
    """Zero what no trained weight is: no key and no data needed."""
    return {
        name: np.where(np.abs(value) <= _PLAUSIBLE, value, 0).astype(value.dtype)
        if np.issubdtype(value.dtype, np.floating)
        else value
        for name, value in weights.items()
    }


def _noisy_score(
    task: Task,
    weights: Weights,
    order: Weights,
    names: Sequence[str],
    share: float,
    rate: float,
    rng: np.random.Generator,
) -> float:
    """The right device, whose responses flip independently with probability ``rate``."""
    flips: Weights = {}
    for name in names:
        count = weights[name].nbytes
        bits = (rng.random((count, 8), dtype=np.float32) < rate).astype(np.uint8)
        flips[name] = _words(np.packbits(bits, axis=1).reshape(-1), weights[name])
    return task.score(padded(weights, order, names, share, flips), limit=_SAMPLES)


def _responses(chip: int, challenge_seed: int, weights: Weights, names: Sequence[str]) -> Weights:
    """A pad for all words of the tensors, from one response for each bit."""
    puf = ArbiterPUF(chip, stages=_STAGES, k=1, noisiness=0.0, noise_seed=0)
    rng = np.random.default_rng([challenge_seed, 0xC0DE])
    pad: Weights = {}
    for name in names:
        count = 8 * weights[name].nbytes
        packed = [
            np.packbits(
                puf.evaluate(np.unpackbits(rng.integers(0, 256, (block, _STAGES // 8), dtype=np.uint8), axis=1))
            )
            for block in _blocks(count)
        ]
        pad[name] = _words(np.concatenate(packed), weights[name])
    return pad


def _blocks(count: int, size: int = 1 << 18) -> list[int]:
    return [min(size, count - start) for start in range(0, count, size)]


def _words(packed: NDArray[np.uint8], like: Array) -> Array:
    return packed.view(f"u{like.dtype.itemsize}").reshape(like.shape)


def _recorded(task: Task) -> dict[str, Any]:
    """The same with recorded SRAM: how many weights it reaches, and what two readings of it differ by."""
    path = data_folder() / "puf" / "sram_scum.npz"
    if not path.is_file():
        return {"reason": f"{path} is not here: github.com/Sara-Fa/SRAM-PUF-key-generation has the readings"}
    with np.load(path) as data:
        readings = data[next(name for name in data.files if _CHIP in name)]
        foreign = data[next(name for name in data.files if _CHIP not in name and data[name].ndim == 2)]
    weights = task.weights()
    names = [name for name, value in weights.items() if np.issubdtype(value.dtype, np.floating)]
    first, again, other = readings[0].reshape(-1), readings[1].reshape(-1), foreign[0].reshape(-1)
    file = _masked_start(weights, names, first)
    total = sum(weights[name].size for name in names)
    reached = sum(file[name].tobytes() != weights[name].tobytes() for name in names)
    words = min(total, first.size // max(weights[name].itemsize for name in names))
    return {
        "bytes": int(first.size),
        "share_reached": words / total,
        "tensors_touched": int(reached),
        "error_rate": float(np.unpackbits(first ^ again).mean()),
        "target": task.score(_masked_start(file, names, again), limit=_SAMPLES),
        "clone": task.score(_masked_start(file, names, other), limit=_SAMPLES),
        "file": task.score(file, limit=_SAMPLES),
    }


def _masked_start(weights: Weights, names: Sequence[str], pad: NDArray[np.uint8]) -> Weights:
    """XOR the first weights with the memory, until it is used up: no bit of a pad is used twice."""
    result, position = dict(weights), 0
    for name in names:
        value = weights[name].copy()
        data = value.reshape(-1).view(np.uint8)
        take = min(data.size, pad.size - position)
        data[:take] ^= pad[position : position + take]
        position += take
        result[name] = value.reshape(weights[name].shape)
    return result
