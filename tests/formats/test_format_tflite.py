"""TensorFlow Lite: every type and shape, what is a weight and what is not, and its own interpreter on bound models."""

from __future__ import annotations

import struct
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tflite_models import TYPES, Model, S, fully_connected, small_network

import unclone
from unclone.errors import AlreadyBoundError, UnsupportedError
from unclone.formats.tflite import Tflite
from unclone.formats.tflite_ops import DIVISORS, MOVING, OPERATORS, QUANTISED, REFUSED, STRUCTURAL
from unclone.formats.tflite_parse import DTYPES, parse
from unclone.formats.tflite_wire import Source, Table
from unclone.records import Device, DeviceKey

Interpreter = pytest.importorskip("ai_edge_litert.interpreter", reason="ai-edge-litert is not installed").Interpreter


def run(path: Path, seed: int = 0) -> tuple[Any, list[np.ndarray]]:
    made = Interpreter(model_path=str(path), num_threads=1)
    made.allocate_tensors()
    rng = np.random.default_rng(seed)
    for item in made.get_input_details():
        shape, dtype = item["shape"], item["dtype"]
        data = rng.integers(-100, 100, shape) if np.issubdtype(dtype, np.integer) else rng.normal(0, 1, shape)
        made.set_tensor(item["index"], data.astype(dtype))
    made.invoke()
    return made, [made.get_tensor(item["index"]) for item in made.get_output_details()]


def details(made: Any) -> list[str]:
    return [
        str((t["name"], t["index"], t["shape"].tolist(), t["shape_signature"].tolist(), t["dtype"], t["quantization"]))
        for t in made.get_tensor_details()
    ]


def reasons(path: Path, device: Device) -> tuple[set[str], dict[str, str]]:
    """What is masked, and why the rest is not."""
    header = unclone.bind(path, device, path.with_suffix(".bound"), force=True)
    return {tensor.name for tensor in header.tensors}, {tensor.name: tensor.reason for tensor in header.clear}


def check_restored(path: Path, bound: Path, key: DeviceKey) -> None:
    """Every constant comes back to the bit, and every masked one was changed."""
    content, masked = path.read_bytes(), bound.read_bytes()
    before, after = Tflite().layout(path).regions, Tflite().layout(bound).regions
    restored = unclone.restore(bound, key)
    names = {tensor.name for tensor in restored.header.tensors}
    assert set(before) == set(after) == set(restored)
    for name, region in before.items():
        true = content[region.offset : region.offset + region.nbytes]
        assert restored[name].data.tobytes() == true
        assert (masked[after[name].offset :][: region.nbytes] != true) == (name in names)


def test_operators_and_types_are_those_of_the_schema() -> None:
    numbers = {value: name for name, value in vars(S.BuiltinOperator).items() if isinstance(value, int)}
    assert [numbers[n] for n in range(len(OPERATORS))] == list(OPERATORS)
    for table in (STRUCTURAL, QUANTISED, MOVING, DIVISORS, REFUSED):
        assert {name for name in table if not name.startswith("custom:")} <= set(OPERATORS)
    types = {value: name.lower() for name, value in vars(S.TensorType).items() if isinstance(value, int)}
    assert {n: name for n, (name, _) in DTYPES.items()} == {n: types[n] for n in types if n not in (13, 14)}


def test_a_bound_model_runs_with_the_same_tensors_and_other_results(
    tmp_path: Path, device: Device, key: DeviceKey
) -> None:
    path = small_network().save(tmp_path / "m.tflite")
    bound = tmp_path / "b.tflite"
    header = unclone.bind(path, device, bound)
    assert [tensor.name for tensor in header.clear] == ["shape"]
    ordinary, true = run(path)
    clone, wrong = run(bound)
    assert details(clone) == details(ordinary)
    assert clone.get_signature_list() == ordinary.get_signature_list()
    assert np.isfinite(wrong[0]).all()
    assert not np.allclose(wrong[0], true[0])
    check_restored(path, bound, key)
    root = S.ModelT.InitFromPackedBuf(bound.read_bytes(), 0)
    assert [entry.name for entry in root.metadata] == [b"min_runtime_version", b"author", b"unclone"]
    assert bytes(root.buffers[root.metadata[1].buffer].data) == "vendor é".encode()
    assert bytes(root.buffers[-1].data) == Tflite().layout(bound).header
    assert path.read_bytes()[8:-200] in _unmask(path, bound)
    with pytest.raises(AlreadyBoundError):
        unclone.bind(bound, device, tmp_path / "c.tflite")


def _unmask(path: Path, bound: Path) -> bytes:
    """The bound file with the ordinary one's weights."""
    content = bytearray(bound.read_bytes())
    before, after = Tflite().layout(path).regions, Tflite().layout(bound).regions
    for name, region in before.items():
        data = path.read_bytes()[region.offset : region.offset + region.nbytes]
        content[after[name].offset : after[name].offset + region.nbytes] = data
    return bytes(content)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_every_type_and_shape_comes_back_to_the_bit(
    tmp_path_factory: pytest.TempPathFactory, device: Device, key: DeviceKey, data: st.DataObject
) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    model = Model()
    constants = [model.constant("w", rng.normal(0, 1, 70).astype(np.float32))]
    for number in range(data.draw(st.integers(0, 4))):
        dtype = data.draw(st.sampled_from(sorted(set(TYPES) - {"string"})))
        shape = data.draw(st.lists(st.integers(0, 5), max_size=4))
        bits = dict(DTYPES.values())[dtype]
        name = data.draw(st.sampled_from(["", "a", "b", f"t{number}", "é"]))
        content = rng.bytes(-(-int(np.prod(shape)) * bits // 8))
        constants.append(model.tensor(name, shape, dtype, content))
    model.operator("CONCATENATION", constants, [model.tensor("y", [1], "float32")])
    folder = tmp_path_factory.mktemp("t")
    path = model.save(folder / "m.tflite")
    unclone.bind(path, device, folder / "b.tflite", bits=data.draw(st.sampled_from(["all", "finite"])))
    restored = unclone.restore(folder / "b.tflite", key)
    content = path.read_bytes()
    for name, region in Tflite().layout(path).regions.items():
        assert restored[name].data.tobytes() == content[region.offset : region.offset + region.nbytes]
    held = [model.root.buffers[tensor.buffer].data for tensor in model.root.subgraphs[0].tensors]
    assert len(restored) == sum(1 for item in held if item is not None and len(item))


def test_quantised_weights_and_biases_are_masked_and_shapes_are_not(tmp_path: Path, device: Device) -> None:
    rng = np.random.default_rng(3)
    model = Model()
    x = model.tensor("x", [1, 6, 6, 2], "int8", scale=0.1)
    pad = model.constant("paddings", np.array([[0, 0], [1, 1], [1, 1], [0, 0]], dtype=np.int32))
    padded = model.tensor("padded", [1, 8, 8, 2], "int8", scale=0.1)
    model.operator("PAD", [x, pad], [padded], ("PadOptions", S.PadOptionsT()))
    w = model.constant("w", rng.integers(-127, 128, (4, 3, 3, 2)).astype(np.int8), scale=0.02)
    b = model.constant("b", rng.integers(-500, 500, 4).astype(np.int32), scale=0.002)
    c = model.tensor("c", [1, 6, 6, 4], "int8", scale=0.2)
    options = S.Conv2DOptionsT()
    options.padding, options.strideH, options.strideW = 1, 1, 1
    options.dilationHFactor = options.dilationWFactor = 1
    model.operator("CONV_2D", [padded, w, b], [c], ("Conv2DOptions", options))
    places = [model.constant(name, np.array(v, dtype=np.int32)) for name, v in
              (("begin", [0, 1, 1, 0]), ("end", [1, 5, 5, 4]), ("strides", [1, 2, 2, 1]))]  # fmt: skip
    y = model.tensor("y", [1, 2, 2, 4], "int8", scale=0.2)
    model.operator("STRIDED_SLICE", [c, *places], [y], ("StridedSliceOptions", S.StridedSliceOptionsT()))
    model.ends([x], [y])
    masked, clear = reasons(model.save(tmp_path / "m.tflite"), device)
    assert masked == {"w", "b"}
    assert clear == {"paddings": "padding", **dict.fromkeys(("begin", "end", "strides"), "index or axis")}
    _, true = run(tmp_path / "m.tflite")
    _, wrong = run(tmp_path / "m.bound")
    assert not np.array_equal(true[0], wrong[0])


def test_numbers_that_a_shape_is_computed_from_stay_true(tmp_path: Path, device: Device) -> None:
    model = Model()
    x = model.tensor("x", [1, 4, 4, 1], "float32")
    shape = model.tensor("shape", [4], "int32")
    options = S.ShapeOptionsT()
    options.outType = TYPES["int32"]
    model.operator("SHAPE", [x], [shape], ("ShapeOptions", options))
    floats = model.tensor("floats", [4], "float32")
    model.operator("CAST", [shape], [floats], ("CastOptions", S.CastOptionsT()))
    factor = model.constant("factor", np.array([1, 2, 2, 1], dtype=np.float32))
    scaled = model.tensor("scaled", [4], "float32")
    model.operator("MUL", [floats, factor], [scaled], ("MulOptions", S.MulOptionsT()))
    whole = model.tensor("whole", [4], "int32")
    options = S.CastOptionsT()
    options.outDataType = TYPES["int32"]
    model.operator("CAST", [scaled], [whole], ("CastOptions", options))
    begin, size = (model.constant(name, np.array([v], dtype=np.int32)) for name, v in (("begin", 1), ("size", 2)))
    two = model.tensor("two", [2], "int32")
    model.operator("SLICE", [whole, begin, size], [two], ("SliceOptions", S.SliceOptionsT()))
    y = model.tensor("y", [1, 8, 8, 1], "float32")
    model.operator("RESIZE_NEAREST_NEIGHBOR", [x, two], [y], ("ResizeNearestNeighborOptions",
                                                              S.ResizeNearestNeighborOptionsT()))  # fmt: skip
    gain = model.constant("gain", np.array([0.25], dtype=np.float32))
    z = model.tensor("z", [1, 8, 8, 1], "float32")
    model.operator("MUL", [y, gain], [z], ("MulOptions", S.MulOptionsT()))
    model.ends([x], [z])
    masked, clear = reasons(model.save(tmp_path / "m.tflite"), device)
    assert masked == {"gain"}
    assert clear["factor"] == "shape, index or count computed from it"
    _, wrong = run(tmp_path / "m.bound")
    assert wrong[0].shape == (1, 8, 8, 1)


def test_loops_end_and_their_weights_are_masked(tmp_path: Path, device: Device, key: DeviceKey) -> None:
    rng = np.random.default_rng(4)
    model = Model()
    condition, body = model.graph(), model.graph()
    i, x = model.constant("zero", np.array(0, dtype=np.int32)), model.tensor("x", [1, 4], "float32")
    ends = model.tensor("n", [], "int32"), model.tensor("y", [1, 4], "float32")
    options = S.WhileOptionsT()
    options.condSubgraphIndex, options.bodySubgraphIndex = condition, body
    model.operator("WHILE", [i, x], ends, ("WhileOptions", options))
    model.ends([x], [ends[1]])
    a = model.tensor("i", [], "int32", graph=condition), model.tensor("x", [1, 4], "float32", graph=condition)
    limit = model.constant("limit", np.array(3, dtype=np.int32), graph=condition)
    go = model.tensor("go", [], "bool", graph=condition)
    model.operator("LESS", [a[0], limit], [go], ("LessOptions", S.LessOptionsT()), graph=condition)
    model.constant("epsilon", np.array(0.5, dtype=np.float32), graph=condition)
    model.ends(a, [go], condition)
    c = model.tensor("i", [], "int32", graph=body), model.tensor("x", [1, 4], "float32", graph=body)
    step = model.constant("step", np.array(1, dtype=np.int32), graph=body)
    n = model.tensor("n", [], "int32", graph=body)
    model.operator("ADD", [c[0], step], [n], ("AddOptions", S.AddOptionsT()), graph=body)
    w = model.constant("w", rng.normal(0, 0.5, (4, 4)).astype(np.float32), graph=body)
    y = model.tensor("y", [1, 4], "float32", graph=body)
    fully_connected(model, c[1], w, -1, y, body)
    model.ends(c, [n, y], body)
    path = model.save(tmp_path / "m.tflite")
    masked, clear = reasons(path, device)
    assert masked == {"subgraph[2]/w"}
    assert set(clear) == {"zero", "subgraph[1]/limit", "subgraph[1]/epsilon", "subgraph[2]/step"}
    assert clear["subgraph[1]/epsilon"] == "bound of a loop"
    _, true = run(path)
    _, wrong = run(tmp_path / "m.bound")
    assert not np.allclose(true[0], wrong[0])
    check_restored(path, tmp_path / "m.bound", key)


def test_tensors_that_share_bytes_are_masked_once_and_stay_shared(
    tmp_path: Path, device: Device, key: DeviceKey
) -> None:
    model = Model()
    rng = np.random.default_rng(5)
    x = model.tensor("x", [1, 6], "float32")
    first = model.constant("first", rng.normal(0, 1, (6, 6)).astype(np.float32))
    second = model.tensor("second", [6, 6], "float32", buffer=model.root.subgraphs[0].tensors[first].buffer)
    third = model.constant("third", rng.normal(0, 1, (6, 6)).astype(np.float32))
    h, k, y = (model.tensor(name, [1, 6], "float32") for name in "hky")
    fully_connected(model, x, first, -1, h)
    fully_connected(model, h, second, -1, k)
    fully_connected(model, k, third, -1, y)
    # A buffer that a shape and a weight share stays true for the shape.
    numbers = model.constant("numbers", np.array([1, 6], dtype=np.int32))
    bias = model.tensor("bias", [2], "float32", buffer=model.root.subgraphs[0].tensors[numbers].buffer)
    z = model.tensor("z", [1, 6], "float32")
    model.operator("RESHAPE", [y, numbers], [z], ("ReshapeOptions", S.ReshapeOptionsT()))
    model.operator("ADD", [bias, bias], [model.tensor("s", [2], "float32")], ("AddOptions", S.AddOptionsT()))
    model.ends([x], [z])
    path = model.save(tmp_path / "m.tflite")
    masked, clear = reasons(path, device)
    assert masked == {"first", "third"}
    assert clear == {"numbers": "shape"}
    check_restored(path, tmp_path / "m.bound", key)
    # Two Buffer tables that lead to the same vector are one.
    content = bytearray(path.read_bytes())
    layout = Tflite().layout(path).regions
    with Source(path) as source:
        places = [Table(source, at, 3).place(0, 4) for at in parse(source).root.buffers]
    leads = {place + int.from_bytes(content[place : place + 4], "little") + 4: place for place in places if place}
    here, there = leads[layout["third"].offset], layout["first"].offset - 4
    content[here : here + 4] = (there - here).to_bytes(4, "little")
    path.write_bytes(content)
    masked, _ = reasons(path, device)
    assert masked == {"first"}
    check_restored(path, tmp_path / "m.bound", key)


def test_buffers_outside_the_flatbuffer_move_with_it(tmp_path: Path, device: Device, key: DeviceKey) -> None:
    model = small_network()
    weights = [bytes(model.root.buffers[n].data) for n in (1, 4)]
    for n in (1, 4):
        model.root.buffers[n].data = None
        model.root.buffers[n].offset = model.root.buffers[n].size = 1 << 40  # room for the numbers
    length = -(-len(model.build()) // 16) * 16
    places = (length, length + 512)
    for n, place, data in zip((1, 4), places, weights, strict=True):
        model.root.buffers[n].offset, model.root.buffers[n].size = place, len(data)
    content = model.build().ljust(length, b"\0") + weights[0].ljust(512, b"\0") + weights[1]
    path, bound = tmp_path / "m.tflite", tmp_path / "b.tflite"
    path.write_bytes(content)
    header = unclone.bind(path, device, bound)
    assert {tensor.name for tensor in header.tensors} == {"w1", "b1", "w2"}
    check_restored(path, bound, key)
    ordinary, true = run(path)
    assert np.array_equal(true[0], run(small_network().save(tmp_path / "inside.tflite"))[1][0])
    clone, wrong = run(bound)
    assert details(ordinary) == details(clone)
    assert not np.allclose(true[0], wrong[0])


def test_sparse_weights_are_masked_and_their_places_are_not(tmp_path: Path, device: Device, key: DeviceKey) -> None:
    model = Model()
    w = model.tensor("w", [4, 4], "float32", np.arange(1, 5, dtype=np.float32))
    sparsity = S.SparsityParametersT()
    sparsity.traversalOrder = [0, 1]
    rows, columns = S.DimensionMetadataT(), S.DimensionMetadataT()
    rows.format, rows.denseSize = 0, 4
    columns.format = 1
    columns.arraySegmentsType = columns.arrayIndicesType = 1
    columns.arraySegments, columns.arrayIndices = S.Int32VectorT(), S.Int32VectorT()
    columns.arraySegments.values, columns.arrayIndices.values = [0, 1, 2, 3, 4], [0, 1, 2, 3]
    sparsity.dimMetadata = [rows, columns]
    model.root.subgraphs[0].tensors[w].sparsity = sparsity
    dense, x, y = (model.tensor(n, s, "float32") for n, s in (("dense", [4, 4]), ("x", [1, 4]), ("y", [1, 4])))
    model.operator("DENSIFY", [w], [dense], ("DensifyOptions", S.DensifyOptionsT()))
    fully_connected(model, x, dense, -1, y)
    model.ends([x], [y])
    path, bound = model.save(tmp_path / "m.tflite"), tmp_path / "b.tflite"
    header = unclone.bind(path, device, bound)
    assert [(t.name, t.shape, t.nbytes) for t in header.tensors] == [("w", (4,), 16)]
    check_restored(path, bound, key)
    assert not np.allclose(run(path)[1][0], run(bound)[1][0])


def test_a_buffer_that_nobody_names_is_masked(tmp_path: Path, device: Device, key: DeviceKey) -> None:
    model = small_network()
    number = model.buffer(b"left over" * 9)
    path, bound = model.save(tmp_path / "m.tflite"), tmp_path / "b.tflite"
    header = unclone.bind(path, device, bound)
    assert f"buffer[{number}]" in {tensor.name for tensor in header.tensors}
    assert b"left over" not in bound.read_bytes()
    check_restored(path, bound, key)


def _custom(name: str, options: bytes, *constants: np.ndarray) -> Model:
    model = small_network()
    inputs = [model.constant(f"c{n}", array) for n, array in enumerate(constants)]
    model.operator(name, inputs, [model.tensor("z", [1], "float32")], custom=options)
    return model


def _changed(change: Any) -> Model:
    model = small_network()
    change(model.root)
    return model


def _external(root: Any) -> None:
    root.externalBuffers = [S.ExternalBufferT()]


def _blocked(root: Any) -> None:
    root.subgraphs[0].tensors[1].externalBuffer = 3


def _metadata_is_a_tensor(root: Any) -> None:
    root.metadata[1].buffer = root.subgraphs[0].tensors[1].buffer


def _outside(root: Any) -> None:
    root.subgraphs[0].operators[0].largeCustomOptionsOffset = 4096


REFUSED_MODELS = {
    "large options": (_custom("Landmarks", bytes(300)), "custom:Landmarks has 300 bytes of options"),
    "integers": (_custom("Lookup", b"", np.zeros(3, dtype=np.int32)), "custom:Lookup takes the integers 'c0'"),
    "an accelerator": (_custom("edgetpu-custom-op", bytes(8)), "edgetpu-custom-op holds a network compiled"),
    "an unknown operator": (_custom(500, b""), "operator number 500"),  # type: ignore[arg-type]
    "boundaries": (_custom("BUCKETIZE", b""), "BUCKETIZE keeps numbers"),
    "schema 2": (_changed(lambda root: setattr(root, "version", 2)), "schema version 2"),
    "external buffers": (_changed(_external), "external buffers"),
    "an external buffer": (_changed(_blocked), "'w1' is in an external buffer"),
    "metadata that is a tensor": (_changed(_metadata_is_a_tensor), "'w1' is metadata as well"),
    "options elsewhere": (_changed(_outside), "FULLY_CONNECTED keeps its options outside"),
}


@pytest.mark.parametrize("name", REFUSED_MODELS)
def test_what_may_hold_weights_and_is_not_understood_is_refused_by_name(name: str, tmp_path: Path) -> None:
    model, message = REFUSED_MODELS[name]
    with pytest.raises(UnsupportedError, match=message):
        Tflite().draft(model.save(tmp_path / "m.tflite"))


def test_a_detection_head_with_its_settings_is_bound(tmp_path: Path, device: Device) -> None:
    anchors = np.random.default_rng(6).normal(0, 1, (30, 4)).astype(np.float32)
    model = _custom("TFLite_Detection_PostProcess", bytes(222), anchors)
    masked, _ = reasons(model.save(tmp_path / "m.tflite"), device)
    assert "c0" in masked


def _real() -> list[Any]:
    found = []
    for package in ("pymicro_wakeword", "pyopen_wakeword", "tflite_micro", "mediapipe"):
        spec = find_spec(package)
        if spec is not None and spec.origin is not None:
            found += sorted(Path(spec.origin).parent.rglob("*.tflite"))
    if not found:
        return [pytest.param(None, marks=pytest.mark.skip("no package with .tflite models is installed"))]
    return [pytest.param(path, id=f"{path.parent.name}/{path.stem}") for path in found]


REFUSED_NETWORKS = {"face_landmark_with_attention": "Landmarks2TransformMatrix"}
# Other programs run these: an operator of their own, or an input that has no size before it is set.
NOT_RUN = {"selfie_segmentation", "selfie_segmentation_landscape", "melspectrogram"}


@pytest.mark.slow
@pytest.mark.parametrize("path", _real())
def test_real_networks(path: Path, tmp_path: Path, device: Device, key: DeviceKey) -> None:
    if path.stem in REFUSED_NETWORKS:
        with pytest.raises(UnsupportedError, match=REFUSED_NETWORKS[path.stem]):
            unclone.bind(path, device, tmp_path / "b.tflite")
        return
    bound = tmp_path / "b.tflite"
    header = unclone.bind(path, device, bound)
    check_restored(path, bound, key)
    reason_words = {tensor.reason for tensor in header.clear}
    assert reason_words <= {"shape", "padding", "index or axis", "infinity"}
    if path.stem not in NOT_RUN:
        ordinary, true = run(path)
        clone, wrong = run(bound)
        assert details(ordinary) == details(clone)
        assert [item.shape for item in true] == [item.shape for item in wrong]


@pytest.mark.slow
def test_the_interpreter_of_microcontrollers_takes_a_bound_model(tmp_path: Path, device: Device) -> None:
    micro = pytest.importorskip("tflite_micro.python.tflite_micro.runtime", reason="tflite-micro is not installed")
    path, bound = small_network().save(tmp_path / "m.tflite"), tmp_path / "b.tflite"
    unclone.bind(path, device, bound)
    x = np.random.default_rng(0).normal(0, 1, (2, 8)).astype(np.float32)

    def answer(model: Path) -> np.ndarray:
        made = micro.Interpreter.from_file(str(model), arena_size=20_000)
        made.set_input(x, 0)
        made.invoke()
        return made.get_output(0)

    true, wrong = answer(path), answer(bound)
    assert true.shape == wrong.shape == (4, 3)
    assert not np.allclose(true, wrong)


@pytest.mark.slow
def test_the_compiled_model_takes_a_bound_model(tmp_path: Path, device: Device) -> None:
    compiled = pytest.importorskip("ai_edge_litert.compiled_model", reason="this ai-edge-litert has no CompiledModel")
    path, bound = small_network().save(tmp_path / "m.tflite"), tmp_path / "b.tflite"
    unclone.bind(path, device, bound)
    results = []
    for model in (path, bound):
        made = compiled.CompiledModel.from_file(str(model))
        inputs, outputs = made.create_input_buffers(0), made.create_output_buffers(0)
        inputs[0].write(np.linspace(-1, 1, 16, dtype=np.float32))
        made.run_by_index(0, inputs, outputs)
        results.append(outputs[0].read(12, np.float32))
    assert np.isfinite(results[1]).all()
    assert not np.allclose(*results)


def test_the_header_is_read_from_its_place(tmp_path: Path, device: Device) -> None:
    bound = tmp_path / "b.tflite"
    unclone.bind(small_network().save(tmp_path / "m.tflite"), device, bound)
    layout = Tflite().layout(bound)
    content = bound.read_bytes()
    assert layout.header_offset % 16 == 0
    assert struct.unpack_from("<I", content, layout.header_offset - 4)[0] == layout.header_nbytes
    shift = len(content) - (tmp_path / "m.tflite").stat().st_size
    assert shift % 64 == 0
