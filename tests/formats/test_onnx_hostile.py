"""ONNX files meant to hurt: an error that says what is wrong, nothing read outside the folder, memory bounded."""

from __future__ import annotations

import contextlib
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto
from onnx import helper as h
from onnx_models import MODELS, constant, info, make, weights

import unclone
from unclone.errors import AlreadyBoundError, FormatError, NoWeightsError, UncloneError, UnsupportedError
from unclone.formats.onnx import Onnx
from unclone.formats.onnx_wire import field_bytes, varint
from unclone.records import Device, DeviceKey


def dense(folder: Path) -> onnx.ModelProto:
    return MODELS["initializers_in_raw_data"](folder)


def refused(path: Path, message: str, kind: type[FormatError] = FormatError) -> None:
    for read in (Onnx().draft, Onnx().layout) if kind is FormatError else (Onnx().draft,):
        with pytest.raises(kind, match=message):
            read(path)


def changed(tmp_path: Path, change: Callable[[onnx.ModelProto], None], name: str = "initializers_in_raw_data") -> Path:
    built = MODELS[name](tmp_path)
    change(built)
    path = tmp_path / "m.onnx"
    path.write_bytes(built.SerializeToString())
    return path


# Tensors


def _negative(m: onnx.ModelProto) -> None:
    m.graph.initializer[0].dims[0] = -8


def _overflow(m: onnx.ModelProto) -> None:
    m.graph.initializer[0].dims[:] = [2**40, 2**40]


def _rank(m: onnx.ModelProto) -> None:
    m.graph.initializer[0].dims[:] = [1] * 1000


def _wrong_size(m: onnx.ModelProto) -> None:
    m.graph.initializer[0].raw_data = m.graph.initializer[0].raw_data[:-1]


def _two_places(m: onnx.ModelProto) -> None:
    m.graph.initializer[0].float_data.append(1.0)


def _no_data(m: onnx.ModelProto) -> None:
    m.graph.initializer[0].ClearField("raw_data")


def _other_field(m: onnx.ModelProto) -> None:
    m.graph.initializer[0].ClearField("raw_data")
    m.graph.initializer[0].int64_data.extend([1] * 320)


def _too_few(m: onnx.ModelProto) -> None:
    m.graph.initializer[0].ClearField("raw_data")
    m.graph.initializer[0].float_data.extend([1] * 319)


def _text_as_bytes(m: onnx.ModelProto) -> None:
    m.graph.initializer[0].data_type = TensorProto.STRING


def _name_twice(m: onnx.ModelProto) -> None:
    m.graph.initializer.add().CopyFrom(m.graph.initializer[0])


def _no_name(m: onnx.ModelProto) -> None:
    m.graph.initializer[0].name = ""


def _output_twice(m: onnx.ModelProto) -> None:
    m.graph.node[1].output[0] = m.graph.node[0].output[0]


TENSORS = {
    "a negative dimension": (_negative, "negative"),
    "a size that overflows": (_overflow, "larger than any memory"),
    "a thousand dimensions": (_rank, "dimensions"),
    "raw data of another size": (_wrong_size, "bytes of data"),
    "data in two places": (_two_places, "two places"),
    "no data": (_no_data, "no data"),
    "data in another type's field": (_other_field, "another type"),
    "too few typed numbers": (_too_few, "number of elements"),
    "text as raw data": (_text_as_bytes, "text"),
    "a name twice": (_name_twice, "twice"),
    "no name": (_no_name, "no name"),
    "a value made twice": (_output_twice, "twice"),
}


@pytest.mark.parametrize("name", TENSORS)
def test_a_malformed_tensor(name: str, tmp_path: Path) -> None:
    change, message = TENSORS[name]
    refused(changed(tmp_path, change), message)


def test_what_is_not_understood_is_refused_by_name(tmp_path: Path) -> None:
    def future(m: onnx.ModelProto) -> None:
        m.graph.initializer[0].data_type = 99

    def training(m: onnx.ModelProto) -> None:
        m.training_info.add()

    refused(changed(tmp_path, future), "data type 99", UnsupportedError)
    refused(changed(tmp_path, training), "training", UnsupportedError)


# External data


def external(tmp_path: Path, location: str, **entries: str) -> Path:
    def change(m: onnx.ModelProto) -> None:
        tensor = m.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in {"location": location, **entries}.items():
            tensor.external_data.add(key=key, value=value)

    (tmp_path / "model").mkdir(exist_ok=True)
    path = tmp_path / "model" / "m.onnx"
    built = dense(tmp_path)
    change(built)
    path.write_bytes(built.SerializeToString())
    return path


@pytest.mark.parametrize(
    "location",
    ["../secret", "a/../../secret", "/etc/passwd", "", "..", "C:\\x", "a\\..\\b", "file:///etc/passwd", "a\0b"],
)
def test_external_data_outside_the_folder_is_not_read(location: str, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(bytes(4096))
    refused(external(tmp_path, location), "folder")


def test_a_link_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(bytes(4096))
    path = external(tmp_path, "link")
    (path.parent / "link").symlink_to(tmp_path / "secret")
    refused(path, "by a link")
    path = external(tmp_path, "sub/secret")
    (path.parent / "sub").symlink_to(tmp_path)
    refused(path, "by a link")


def test_a_link_inside_the_folder_is_followed(tmp_path: Path, device: Device, key: DeviceKey) -> None:
    path = external(tmp_path, "link")
    (path.parent / "blob").write_bytes(weights(8, 40, seed=77).tobytes())
    (path.parent / "link").symlink_to("blob")
    unclone.bind(path, device, tmp_path / "b.onnx")
    assert unclone.restore(tmp_path / "b.onnx", key)["W"].data.tobytes() == weights(8, 40, seed=77).tobytes()


def test_external_data_that_is_no_ordinary_file(tmp_path: Path) -> None:
    path = external(tmp_path, "pipe")
    refused(path, "missing")
    os.mkfifo(path.parent / "pipe")  # reading it would wait for ever
    refused(path, "no ordinary file")


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"offset": "-1"}, "offset"),
        ({"offset": "1e3"}, "offset"),
        ({"offset": "9" * 40}, "offset"),
        ({"offset": "4096"}, "ends beyond"),
        ({"length": "1"}, "needs"),
        ({"length": "99999999999"}, "needs"),
    ],
)
def test_external_ranges_are_checked(entries: dict[str, str], message: str, tmp_path: Path) -> None:
    path = external(tmp_path, "data", **entries)
    (path.parent / "data").write_bytes(bytes(4096))
    refused(path, message)


def test_a_small_file_that_many_tensors_share_does_not_blow_up(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.write_bytes(bytes(1 << 20))
    tensors = []
    for number in range(200):
        tensor = TensorProto(name=f"w{number}", data_type=TensorProto.FLOAT, dims=[1 << 18])
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="data")
        tensors.append(tensor)
    path = tmp_path / "m.onnx"
    path.write_bytes(make([h.make_node("Sum", [t.name for t in tensors], ["y"])], tensors).SerializeToString())
    refused(path, "share", UnsupportedError)


# Structure


def test_recursion_bombs(tmp_path: Path) -> None:
    graph = b""
    for _ in range(5_000):
        attribute = field_bytes(1, b"body") + field_bytes(6, graph)
        graph = field_bytes(1, field_bytes(4, b"If") + field_bytes(5, attribute))
    path = tmp_path / "m.onnx"
    path.write_bytes(field_bytes(7, graph))
    refused(path, "nested deeper")


def test_millions_of_parts_are_refused_in_bounded_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unclone.formats.onnx_wire._MESSAGE_LIMIT", 10_000)
    path = tmp_path / "m.onnx"
    path.write_bytes(field_bytes(7, b"\x0a\x00" * 1_000_000))
    tracemalloc.start()
    refused(path, "parts")
    assert tracemalloc.get_traced_memory()[1] < 64 << 20
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (field_bytes(8, b""), "one graph"),
        (field_bytes(7, b"") * 2, "one graph"),
        (varint(7 << 3 | 2) + varint(2**63), "truncated"),
        (varint(7 << 3 | 2) + b"\xff" * 20, "no whole number"),
        (b"\x3b", "wire type"),
        (varint(7 << 3 | 0) + b"\x01", "wire type"),
        (b"\x00\x00", "field number"),
        (field_bytes(7, b"") + b"\x80", "no whole number"),
        (field_bytes(7, field_bytes(1, field_bytes(4, b"A") * 2)), "twice"),
        (field_bytes(7, field_bytes(1, field_bytes(1, b"\xff"))), "UTF-8"),
        (field_bytes(7, field_bytes(5, field_bytes(9, b"") * 2)), "twice"),
    ],
)
def test_broken_wire_format(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    refused(path, message)


def test_bound_twice_and_two_headers(tmp_path: Path, device: Device, key: DeviceKey) -> None:
    path, bound = tmp_path / "m.onnx", tmp_path / "b.onnx"
    path.write_bytes(dense(tmp_path).SerializeToString())
    unclone.bind(path, device, bound)
    with pytest.raises(AlreadyBoundError):
        unclone.bind(bound, device, tmp_path / "c.onnx")
    entry = field_bytes(14, field_bytes(1, b"unclone") + field_bytes(2, b"{}"))
    bound.write_bytes(bound.read_bytes() + entry)
    with pytest.raises(FormatError, match="twice"):
        unclone.restore(bound, key)


def test_a_model_without_weights(tmp_path: Path, device: Device) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(
        make([h.make_node("Reshape", ["x", "s"], ["y"])], [constant(np.array([4, 4]), "s")]).SerializeToString()
    )
    with pytest.raises(NoWeightsError):
        unclone.bind(path, device, tmp_path / "b.onnx")


# Operators


def attributes(operator: str, domain: str, **attribute: object) -> onnx.ModelProto:
    return make([h.make_node(operator, ["x"], ["y"], domain=domain, **attribute)], [])


@pytest.mark.parametrize(
    ("model", "named"),
    [
        (attributes("LinearClassifier", "ai.onnx.ml", coefficients=[1.0, 2.0]), "LinearClassifier"),
        (attributes("TreeEnsembleRegressor", "ai.onnx.ml", nodes_values=[1.0]), "TreeEnsembleRegressor"),
        (attributes("Scaler", "ai.onnx.ml", scale=[1.0]), "Scaler"),
        (attributes("Mystery", "someone", table=[1.0] * 5), "someone.Mystery"),
        (attributes("Mystery", "someone", codes=list(range(100))), "someone.Mystery"),
        (attributes("Mystery", "someone", blob="x" * 5000), "someone.Mystery"),
        (attributes("Mystery", "someone", t=constant(np.arange(9), "")), "Mystery"),
        (attributes("EPContext", "com.microsoft", ep_cache_context="x"), "EPContext"),
        (attributes("Relu", "", blob="x" * 5000), "Relu"),
        (make([h.make_node("Mystery", ["x", "c"], ["y"], domain="someone")], [constant(np.arange(9), "c")]), "Mystery"),
    ],
)
def test_an_operator_that_may_keep_weights_elsewhere(model: onnx.ModelProto, named: str, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    refused(path, named, UnsupportedError)


def test_floats_in_a_foreign_operator_are_masked(tmp_path: Path) -> None:
    built = make(
        [h.make_node("Mystery", ["x", "w"], ["y"], domain="someone", alpha=0.5, t=constant(weights(9), ""))],
        [constant(weights(9), "w")],
    )
    path = tmp_path / "m.onnx"
    path.write_bytes(built.SerializeToString())
    assert {w.name for w in Onnx().draft(path).weights} == {"w", "node[0:Mystery]/t"}


def reason_of(built: onnx.ModelProto, tmp_path: Path) -> dict[str, str]:
    path = tmp_path / "m.onnx"
    path.write_bytes(built.SerializeToString())
    draft = Onnx().draft(path)
    return {**{w.name: "" for w in draft.weights}, **{c.name: c.reason for c in draft.clear}}


def test_a_bias_on_the_way_to_a_shape_is_still_a_weight(tmp_path: Path) -> None:
    """x W + b decides how often something repeats; that does not make b a shape."""
    built = make(
        [
            h.make_node("MatMul", ["x", "W"], ["h"]),
            h.make_node("Add", ["h", "b"], ["s"]),
            h.make_node("Cast", ["s"], ["i"], to=TensorProto.INT64),
            h.make_node("Reshape", ["x", "i"], ["y"]),
        ],
        [constant(weights(8, 2), "W"), constant(weights(2), "b")],
    )
    assert reason_of(built, tmp_path) == {"W": "", "b": ""}


def test_many_floats_on_the_way_to_a_shape_are_weights(tmp_path: Path) -> None:
    built = make(
        [
            h.make_node("Mul", ["few", "f"], ["a"]),
            h.make_node("Cast", ["a"], ["i"], to=TensorProto.INT64),
            h.make_node("Reshape", ["x", "i"], ["y"]),
            h.make_node("Mul", ["many", "f"], ["b"]),
            h.make_node("Cast", ["b"], ["j"], to=TensorProto.INT64),
            h.make_node("Reshape", ["x", "j"], ["z"]),
        ],
        [constant(weights(2), "few"), constant(weights(65), "many"), constant(weights(), "f")],
    )
    found = reason_of(built, tmp_path)
    assert (found["few"], found["many"], found["f"]) == ("shape", "", "shape")


def test_a_divisor_of_integers_stays_true(tmp_path: Path) -> None:
    built = make(
        [h.make_node("Div", ["n", "d"], ["y"])],
        [constant(np.full(100, 3, dtype=np.int8), "d")],
        inputs=[info("n", [100], TensorProto.INT8)],
        outputs=[info("y", [100], TensorProto.INT8)],
    )
    assert reason_of(built, tmp_path) == {"d": "divisor of an integer division"}


def test_quantisation_annotations_are_heeded(tmp_path: Path) -> None:
    built = make([h.make_node("Mul", ["x", "s"], ["y"])], [constant(weights(), "s")])
    assert reason_of(built, tmp_path) == {"s": ""}
    annotation = built.graph.quantization_annotation.add(tensor_name="x")
    annotation.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="s")
    assert reason_of(built, tmp_path) == {"s": "quantisation scale or zero point"}


@settings(max_examples=400, deadline=None)
@given(data=st.data(), name=st.sampled_from(sorted(MODELS)))
def test_damage_never_escapes_the_error_tree(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, name: str
) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    path = folder / "m.onnx"
    content = bytearray(MODELS[name](folder).SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    path.write_bytes(content)
    for read in (Onnx().draft, Onnx().layout):
        with contextlib.suppress(UncloneError):
            read(path)


def test_typed_numbers_convert_as_the_onnx_package_converts_them(
    tmp_path: Path, device: Device, key: DeviceKey
) -> None:
    """Packed and unpacked, negative and large: against onnx.numpy_helper."""
    rng = np.random.default_rng(9)
    tensors = [
        h.make_tensor("i64", TensorProto.INT64, [300], rng.integers(-(2**63), 2**63 - 1, 300).tolist()),
        h.make_tensor("i32", TensorProto.INT32, [300], rng.integers(-(2**31), 2**31 - 1, 300).tolist()),
        h.make_tensor("i16", TensorProto.INT16, [300], rng.integers(-(2**15), 2**15 - 1, 300).tolist()),
        h.make_tensor("i8", TensorProto.INT8, [300], rng.integers(-128, 127, 300).tolist()),
        h.make_tensor("u64", TensorProto.UINT64, [300], [int(n) for n in rng.integers(0, 2**64 - 1, 300, np.uint64)]),
        h.make_tensor("u32", TensorProto.UINT32, [300], rng.integers(0, 2**32 - 1, 300).tolist()),
        h.make_tensor("u8", TensorProto.UINT8, [300], rng.integers(0, 255, 300).tolist()),
        h.make_tensor("i4", TensorProto.INT4, [7], [-8, 7, 1, -1, 3, 0, -3]),
        h.make_tensor("bf", TensorProto.BFLOAT16, [4], [1.5, -2.0, 3e5, 1e-3]),
        h.make_tensor("c", TensorProto.COMPLEX64, [2], [1 + 2j, -3j]),
    ]
    path = tmp_path / "m.onnx"
    path.write_bytes(make([h.make_node("Relu", ["x"], ["y"])], tensors).SerializeToString())
    unclone.bind(path, device, tmp_path / "b.onnx")
    restored = unclone.restore(tmp_path / "b.onnx", key)
    for tensor in tensors:
        array = onnx.numpy_helper.to_array(tensor)
        raw = restored[tensor.name].data.tobytes()
        if tensor.name == "i4":
            low, high = np.frombuffer(raw, np.uint8) & 15, np.frombuffer(raw, np.uint8) >> 4
            assert np.stack([low, high], 1).ravel()[:7].tolist() == [int(n) & 15 for n in array]
        else:
            assert raw == array.tobytes(), tensor.name
