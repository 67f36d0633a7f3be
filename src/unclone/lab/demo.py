"""The demo: real networks, a simulated chip, the genuine device and its clones."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import unclone
from unclone.errors import MissingExtraError, SlotError
from unclone.lab.clones import force_open
from unclone.lab.digits import forward, train_digits
from unclone.lab.filetypes import load_file_types
from unclone.lab.metrics import balanced_accuracy, identical_share
from unclone.model import RestoredModel

__all__ = ["DemoNetwork", "DemoResult", "run_demo"]

_CHIP = "sim:sram?seed=7"
_CLONE_SEED = 1000

Scores = NDArray[np.float32]


@dataclass(frozen=True)
class DemoNetwork:
    """A network with data: how to run it from a file, and from restored weights.

    ``outputs_of_file`` and ``outputs_of`` give scores, shape ``(samples, classes)``.
    """

    name: str
    path: Path
    labels: NDArray[np.int64]
    outputs_of_file: Callable[[Path], Scores]
    outputs_of: Callable[[RestoredModel], Scores]


@dataclass(frozen=True)
class DemoResult:
    """Balanced accuracies of one network, 0 to 1, and times in milliseconds.

    Attributes:
        name: the network.
        samples: how many inputs it was scored on.
        masked_bytes: bytes of weights masked.
        chance: accuracy of guessing.
        original: the file before binding.
        genuine: restored on the enrolled device.
        genuine_identical: share of samples whose outputs there are the original's, bit for bit.
        bound_as_is: the bound file in ordinary tools, without a key.
        clones: forced open with the key of each clone.
        clones_refused: how many clones the bound file refused when asked properly.
        reconstruct_ms: time to reconstruct the key.
        restore_ms: time to restore and verify the weights.
    """

    name: str
    samples: int
    masked_bytes: int
    chance: float
    original: float
    genuine: float
    genuine_identical: float
    bound_as_is: float
    clones: list[float] = field(default_factory=list)
    clones_refused: int = 0
    reconstruct_ms: float = 0.0
    restore_ms: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)


def run_demo(folder: Path, *, clones: int, report: Callable[[str], None] = lambda _: None) -> list[DemoResult]:
    """Enrol a simulated device, bind three networks to it, and score them there, as they lie, and on clones.

    Args:
        folder: where the networks, the device record and the bound models go; replaced if there.
        clones: number of clones.
        report: called with a line as work goes on.

    Raises:
        MissingExtraError: an extra of the lab is missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    report("enrolling a simulated SRAM and its clones")
    device = unclone.enroll(_CHIP, name="demo")
    record = folder / "demo.device.json"
    unclone.save_device(device, record, force=True)
    clone_keys = [_clone_key(number) for number in range(clones)]
    results = []
    for network in _networks(folder, report):
        report(f"binding and scoring {network.name}")
        results.append(_score(network, device, record, folder, clone_keys))
    return results


def _clone_key(number: int) -> unclone.DeviceKey:
    """The key of another chip of the same make, enrolled by the pirate himself."""
    source = f"sim:sram?seed={_CLONE_SEED + number}"
    return unclone.reconstruct(unclone.enroll(source), source)


def _score(
    network: DemoNetwork, device: unclone.Device, record: Path, folder: Path, clone_keys: list[unclone.DeviceKey]
) -> DemoResult:
    bound = folder / f"{network.path.stem}.bound{network.path.suffix}"
    header = unclone.bind(network.path, device, bound, force=True)
    start = time.perf_counter()
    with unclone.reconstruct(record, _CHIP) as key:
        reconstructed = time.perf_counter()
        with unclone.restore(bound, key) as restored:
            done = time.perf_counter()
            genuine = network.outputs_of(restored)
    original = network.outputs_of_file(network.path)
    forced = []
    for clone in clone_keys:
        with force_open(bound, clone) as opened:
            forced.append(balanced_accuracy(network.outputs_of(opened), network.labels))
    return DemoResult(
        name=network.name,
        samples=len(network.labels),
        masked_bytes=sum(tensor.nbytes for tensor in header.tensors),
        chance=1 / len(np.unique(network.labels)),
        original=balanced_accuracy(original, network.labels),
        genuine=balanced_accuracy(genuine, network.labels),
        genuine_identical=identical_share(genuine, original),
        bound_as_is=balanced_accuracy(network.outputs_of_file(bound), network.labels),
        clones=forced,
        clones_refused=sum(_refused(bound, clone) for clone in clone_keys),
        reconstruct_ms=(reconstructed - start) * 1e3,
        restore_ms=(done - reconstructed) * 1e3,
    )


def _refused(bound: Path, key: unclone.DeviceKey) -> bool:
    try:
        unclone.restore(bound, key)
    except SlotError:
        return True
    return False


def _networks(folder: Path, report: Callable[[str], None]) -> list[DemoNetwork]:
    report("looking for files to tell apart")
    task = load_file_types()
    magika = folder / "magika.onnx"
    magika.write_bytes(task.model.read_bytes())
    report("quantising magika to int8")
    quantised = folder / "magika-int8.onnx"
    _quantise(magika, quantised)
    report("training a digits classifier")
    digits = folder / "digits.safetensors"
    images, labels = train_digits(digits)
    return [
        _onnx_network("magika (ONNX, float32)", magika, task.inputs, task.labels),
        _onnx_network("magika (ONNX, int8)", quantised, task.inputs, task.labels),
        _digits_network(digits, images, labels),
    ]


def _quantise(model: Path, output: Path) -> None:
    import logging

    try:
        from onnxruntime.quantization import QuantType, quantize_dynamic
    except ImportError as problem:
        raise MissingExtraError(str(problem.name), "lab") from None
    logging.getLogger().setLevel(logging.ERROR)  # the quantizer advises on the root logger
    quantize_dynamic(model, output, weight_type=QuantType.QInt8)


def _onnx_network(name: str, path: Path, inputs: NDArray[np.int32], labels: NDArray[np.int64]) -> DemoNetwork:
    import onnxruntime

    from unclone.runtime.onnx import session_from

    def scores(session: onnxruntime.InferenceSession) -> Scores:
        rows = [
            session.run(None, {session.get_inputs()[0].name: inputs[i : i + 32]})[0] for i in range(0, len(inputs), 32)
        ]
        return np.concatenate(rows)

    def of_file(file: Path) -> Scores:
        return scores(onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"]))

    return DemoNetwork(name, path, labels, of_file, lambda restored: scores(session_from(restored)))


def _digits_network(path: Path, images: NDArray[np.float32], labels: NDArray[np.int64]) -> DemoNetwork:
    from safetensors.numpy import load_file

    from unclone.runtime.safetensors import arrays_of

    return DemoNetwork(
        "digits (safetensors, float32)",
        path,
        labels,
        lambda file: forward(load_file(file), images),
        lambda restored: forward(arrays_of(restored), images),
    )
