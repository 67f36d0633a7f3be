"""ONNX Runtime: a session on the true weights of a bound model, nothing on disk.

The session gets the model's graph without its large weights, and those from the restored buffer, in one of two ways.
``add_external_initializers`` is right at every level of graph optimisation, but ONNX Runtime copies what it is given.
``add_initializer`` copies nothing, but optimisation does not see the value: it serves weights of operators that take
them as they are, and their place in the graph points to an empty file, so that whatever does look at one fails, and
the session is made in the first way.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from unclone.errors import FormatError, MissingExtraError, ParameterError, UnsupportedError
from unclone.formats.base import Copy, Literal
from unclone.formats.onnx import PROTOBUF_LIMIT
from unclone.formats.onnx_graph import Model
from unclone.formats.onnx_ops import KNOWN_DOMAINS
from unclone.formats.onnx_parse import parse_model
from unclone.formats.onnx_tensor import DTYPE_NUMBERS, DTYPES, Tensor, embed, make_external
from unclone.formats.onnx_wire import Edit, Source, apply
from unclone.licence import LicenceSource
from unclone.model import RestoredModel, restore
from unclone.model.carrier import KEPT_LIMIT
from unclone.records import DeviceKey

__all__ = ["inference_session", "session_from"]

_EMBED_BELOW: Final = 4096
"""Smaller tensors go into the graph, where constant folding and fusions look at them."""

_EXTERNAL: Final = "restored-in-memory"

_EMPTY_FILE: Final = Path(os.devnull)
_FOLDER: Final = "session.model_external_initializers_file_folder_path"

_TAKES_AS_IT_IS: Final = {
    *(("", op, 1) for op in ("MatMul", "Gemm")),
    ("", "Gather", 0),
    *(("", op, number) for op in ("RNN", "GRU", "LSTM") for number in (1, 2)),
}
"""Domain, operator and number of the input: no optimisation turns it round in place."""

_MULTIPLIED_IN: Final = ("", "BatchNormalization")
"""Optimisation multiplies this into a product before it."""


def inference_session(
    path: str | os.PathLike[str],
    key: DeviceKey,
    *,
    sess_options: Any = None,
    providers: Sequence[Any] | None = None,
    licence: LicenceSource | None = None,
) -> Any:
    """An ``onnxruntime.InferenceSession`` on the true weights of a bound model; nothing is written to disk.

    Replaces ``onnxruntime.InferenceSession(path)``.

    Args:
        path: the bound model.
        key: the device key, from ``reconstruct``.
        licence: of a release, or its path; by default the model's own slots are tried.
        sess_options: ``onnxruntime.SessionOptions``; not altered.
        providers: execution providers as ONNX Runtime takes them; the processor by default.

    Raises:
        MissingExtraError: onnxruntime is not installed.
        ParameterError: the options would write the true weights to disk.
        UncloneError: as ``unclone.restore``.
    """
    _onnxruntime()  # before the work
    return session_from(restore(path, key, licence=licence), sess_options=sess_options, providers=providers)


def session_from(restored: RestoredModel, *, sess_options: Any = None, providers: Sequence[Any] | None = None) -> Any:
    """A session on a model that is restored already, which must not be wiped while the session lives.

    Raises:
        FormatError: not an ONNX model.
        MissingExtraError: onnxruntime is not installed.
        ParameterError: the options would write the true weights to disk.
    """
    onnxruntime = _onnxruntime()
    if restored.header.format != "onnx":
        raise FormatError(f"a {restored.header.format} model was given where ONNX is needed")
    _refuse_output(sess_options)
    chosen = list(providers or ["CPUExecutionProvider"])
    with Source(restored.layout.files[0], _verified(restored)) as source:
        model = parse_model(source)
        options, copied = _options(onnxruntime, sess_options, model)
        shared = _shared(model) if copied and chosen == ["CPUExecutionProvider"] else set()
        if shared:
            plan = _plan(source, model, restored, external=True, shared=shared)
            try:
                return _session(onnxruntime, plan, options, chosen, restored)
            except Exception:  # optimisation looked at a weight, or this platform has no such file: the other way
                options, _ = _options(onnxruntime, sess_options, model)
        plan = _plan(source, model, restored, external=copied, shared=set())
    return _session(onnxruntime, plan, options, chosen, restored)


def _session(onnxruntime: Any, plan: _Plan, options: Any, providers: list[Any], restored: RestoredModel) -> Any:
    values = {
        name: onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(array, DTYPE_NUMBERS[dtype])
        for name, (array, dtype) in plan.arrays.items()
    }
    injected = [name for name in values if name not in plan.shared]
    if injected:
        options.add_external_initializers(injected, [values[name] for name in injected])
    if plan.shared:
        options.add_session_config_entry(_FOLDER, str(_EMPTY_FILE.parent))
    for name in plan.shared:
        options.add_initializer(name, values[name])
    session = onnxruntime.InferenceSession(plan.graph, sess_options=options, providers=providers)
    # The session reads its weights from the restored buffer: both live as long as it does.
    session._unclone_weights = (restored, plan.arrays, values)
    return session


def _shared(model: Model) -> set[str]:
    """The initialisers of the main graph that optimisation leaves alone."""
    main = model.graphs[0]
    ends = {value.name for value in main.outputs}
    if any(node.kind == _MULTIPLIED_IN for node in main.nodes):
        return set()
    return {
        name
        for name, value in main.values.items()
        if value.tensor is not None and name not in ends and not value.onward and value.uses
        if all((*node.kind, number) in _TAKES_AS_IT_IS for node, number in value.uses)
    }


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise MissingExtraError("onnxruntime", "onnx") from None
    return onnxruntime


def _verified(restored: RestoredModel) -> Callable[[int, int], bytes] | None:
    """The graph as it was verified: the file may be another by now. ``None`` for a model that nobody verified."""
    carrier = restored.carrier
    if carrier is None:
        return None
    if not carrier.kept:
        raise UnsupportedError(
            f"{restored.layout.files[0]}: the graph and what stays in clear pass {KEPT_LIMIT >> 20} MiB; keep large "
            "tensors that are not weights out of the model"
        )
    return lambda start, end: carrier.read(0, start, end)


def _refuse_output(sess_options: Any) -> None:
    if sess_options is None:
        return
    if sess_options.optimized_model_filepath:
        raise ParameterError(
            "sess_options.optimized_model_filepath would write the true weights to disk; leave it empty"
        )
    try:
        context = sess_options.get_session_config_entry("ep.context_enable")
    except Exception:  # ONNX Runtime's way to say that an entry is not set
        return
    if context == "1":
        raise ParameterError("ep.context_enable would write a compiled model to disk; leave it off")


def _options(onnxruntime: Any, given: Any, model: Model) -> tuple[Any, bool]:
    """Options for the session, and whether initialisers may be added to them (they are not the caller's own).

    ``SessionOptions`` has no copy, but a session hands out one of those it was made with, all but execution providers
    and custom operators; where these matter, the caller's object is used as it is, and everything is embedded.
    """
    if given is None:
        return onnxruntime.SessionOptions(), True
    foreign = any(node.kind[0] not in KNOWN_DOMAINS for graph in model.graphs for node in graph.nodes)
    if foreign or given.has_providers():
        return given, False
    profiling, given.enable_profiling = given.enable_profiling, False
    try:
        probe = onnxruntime.InferenceSession(_PROBE, sess_options=given, providers=["CPUExecutionProvider"])
        options = probe.get_session_options()
    finally:
        given.enable_profiling = profiling
    options.enable_profiling = profiling
    return options, True


_PROBE: Final = (
    b'\x08\x07:7\n\x10\n\x01x\x12\x01y"\x08Identity\x12\x01gZ\x0f\n\x01x\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01'
    b"b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01B\x04\n\x00\x10\r"
)
"""A ModelProto that is one Identity node."""


@dataclass(frozen=True, slots=True)
class _Plan:
    """The graph as bytes, and the initialisers that stay outside it.

    Attributes:
        arrays: name -> array and dtype.
        shared: names of those that are handed over without a copy.
    """

    graph: bytes
    arrays: dict[str, tuple[np.ndarray[Any, Any], str]]
    shared: set[str]


def _plan(source: Source, model: Model, restored: RestoredModel, *, external: bool, shared: set[str]) -> _Plan:
    edits: list[Edit] = []
    arrays: dict[str, tuple[np.ndarray[Any, Any], str]] = {}
    main = model.graphs[0]
    overridable = {value.name for value in main.inputs}
    masked = {tensor.name for tensor in restored.header.tensors}
    for name, tensor in model.tensors.items():
        if name not in restored:
            continue
        data = restored[name].data
        value = main.values.get(name)
        initializer = value is not None and value.tensor is tensor and value.producer is None
        initializer = initializer and tensor not in model.sparse
        wide = DTYPES[DTYPE_NUMBERS[tensor.dtype]][1] >= 8
        if external and initializer and wide and name not in overridable and data.nbytes >= _EMBED_BELOW:
            edits += make_external(tensor, _EMPTY_FILE.name if name in shared else _EXTERNAL, 0)
            arrays[name] = (_array(tensor, data), tensor.dtype)
        elif name in masked or tensor.storage == "external":
            edits += embed(tensor, Literal(data.tobytes()))
    if model.header_entry is not None:
        edits.append(Edit(model.header_entry.start, model.header_entry.end, (), 0, source.root))
    pieces = apply(source.root, edits, PROTOBUF_LIMIT)
    if pieces is None:
        raise UnsupportedError(f"{source.path}: its constants and subgraphs alone pass protobuf's 2 GiB")
    parts: list[bytes] = []
    for piece in pieces:
        if isinstance(piece, Copy):
            parts.append(source.read(piece.offset, piece.offset + piece.nbytes))
        elif isinstance(piece, Literal):
            parts.append(piece.data)
    return _Plan(b"".join(parts), arrays, shared & arrays.keys())


def _array(tensor: Tensor, data: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The bytes as an array of words of the tensor's size: ONNX Runtime is told the type itself."""
    native = {"float16", "float32", "float64", "complex64", "complex128"}
    bits = DTYPES[DTYPE_NUMBERS[tensor.dtype]][1]
    plain = tensor.dtype if "int" in tensor.dtype or tensor.dtype in native else f"uint{bits}"
    return data.view("bool" if tensor.dtype == "bool" else plain).reshape(tensor.shape)
