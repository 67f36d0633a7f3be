"""Built-in networks as machines carry them: ONNX in int8, quantised by ONNX Runtime."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from unclone.errors import MissingExtraError
from unclone.lab.contracts import Array
from unclone.lab.data import cache_folder
from unclone.lab.tasks.network_task import NetworkTask
from unclone.lab.tasks.onnx_task import OnnxTask

try:
    import onnx
    from onnx import TensorProto, helper, numpy_helper
    from onnxruntime import quantization
    from torch import nn
except ImportError as problem:
    raise MissingExtraError(str(problem.name), "lab") from None

__all__ = ["quantised"]

_OPSET: Final = 17
_SAMPLES: Final = 200
_BATCH: Final = 50


def quantised(task: NetworkTask, module: nn.Sequential) -> OnnxTask:
    """A task's network in int8, one scale for each output channel; activations calibrated on training data.

    The file is made once and kept in the user's cache. Training and test data are the task's.

    Args:
        task: of a ``nn.Sequential``.
        module: that, with any weights; names are those of its ``state_dict``.
    """
    name = f"{task.name}-int8"
    kept = cache_folder() / "victims" / f"{name}.onnx"
    train = task.train_data()
    if not kept.is_file():
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent) as folder, _quiet():
            plain, made = Path(folder, "float.onnx"), Path(folder, "int8.onnx")
            onnx.save(exported(task, module, train[0].shape[1:]), plain)
            quantization.quantize_static(
                plain,
                made,
                _Calibration(train[0][:_SAMPLES]),
                quant_format=quantization.QuantFormat.QDQ,
                per_channel=True,
            )
            made.replace(kept)
    return OnnxTask(kept, train, name=name, test=task.test_data())


def exported(task: NetworkTask, module: nn.Sequential, shape: tuple[int, ...]) -> Any:
    """The network as an ``onnx.ModelProto``, inputs of ``shape`` for each sample."""
    weights, nodes, value = task.weights(), [], "x"
    for number, layer in enumerate(module):
        parameters = [f"{number}.{kind}" for kind in ("weight", "bias") if f"{number}.{kind}" in weights]
        kind, attributes = _operator(layer)
        nodes.append(helper.make_node(kind, [value, *parameters], [f"y{number}"], **attributes))
        value = f"y{number}"
    graph = helper.make_graph(
        nodes,
        task.name,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *shape])],
        [helper.make_tensor_value_info(value, TensorProto.FLOAT, ["batch", None])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=9)
    onnx.checker.check_model(model)
    return model


def _operator(layer: Any) -> tuple[str, dict[str, Any]]:
    match layer:
        case nn.Conv2d():
            return "Conv", {"pads": [*layer.padding, *layer.padding]}
        case nn.MaxPool2d():
            return "MaxPool", {"kernel_shape": [layer.kernel_size] * 2, "strides": [layer.stride] * 2}
        case nn.Linear():
            return "Gemm", {"transB": 1}
        case _:
            return {"ReLU": "Relu", "Flatten": "Flatten"}[type(layer).__name__], {}


class _Calibration(quantization.CalibrationDataReader):  # type: ignore[misc]
    """Batches of training inputs."""

    def __init__(self, inputs: Array) -> None:
        self._batches = iter([{"x": inputs[at : at + _BATCH]} for at in range(0, len(inputs), _BATCH)])

    def get_next(self) -> dict[str, Array] | None:
        return next(self._batches, None)


@contextmanager
def _quiet() -> Iterator[None]:
    """The quantiser advises on the root logger."""
    logger = logging.getLogger()
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
