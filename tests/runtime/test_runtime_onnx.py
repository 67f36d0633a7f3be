"""ONNX Runtime on true weights: options, lifetimes, large models, nothing on disk."""

from __future__ import annotations

import gc
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, numpy_helper
from onnx import helper as h

import unclone
from unclone.errors import FormatError, MissingExtraError, ParameterError, SlotError
from unclone.records import Device, DeviceKey
from unclone.runtime.onnx import inference_session, session_from

ort.set_default_logger_severity(4)


def dense_model(size: int = 64, dtype: type = np.float32, seed: int = 0) -> onnx.ModelProto:
    rng = np.random.default_rng(seed)
    nodes = [h.make_node("MatMul", ["h", "W"], ["m"]), h.make_node("Add", ["m", "b"], ["o"])]
    kind = h.np_dtype_to_tensor_dtype(np.dtype(dtype))
    if dtype is np.float32:
        nodes.insert(0, h.make_node("Identity", ["x"], ["h"]))
        nodes.append(h.make_node("Identity", ["o"], ["y"]))
    else:
        nodes.insert(0, h.make_node("Cast", ["x"], ["h"], to=kind))
        nodes.append(h.make_node("Cast", ["o"], ["y"], to=TensorProto.FLOAT))
    graph = h.make_graph(
        nodes,
        "g",
        [h.make_tensor_value_info("x", TensorProto.FLOAT, ["n", size])],
        [h.make_tensor_value_info("y", TensorProto.FLOAT, ["n", size])],
        [
            numpy_helper.from_array(rng.normal(0, 0.1, (size, size)).astype(dtype), "W"),
            numpy_helper.from_array(rng.normal(0, 0.1, size).astype(dtype), "b"),
        ],
    )
    return h.make_model(graph, opset_imports=[h.make_opsetid("", 21)], ir_version=10)


@pytest.fixture
def bound(tmp_path: Path, device: Device) -> tuple[Path, Path]:
    path = tmp_path / "m.onnx"
    onnx.save(dense_model(), path)
    unclone.bind(path, device, tmp_path / "b.onnx")
    return path, tmp_path / "b.onnx"


X = np.random.default_rng(1).normal(size=(3, 64)).astype(np.float32)


def run(session: ort.InferenceSession) -> np.ndarray:
    return session.run(None, {"x": X})[0]


def test_the_session_is_an_ordinary_one(bound: tuple[Path, Path], key: DeviceKey) -> None:
    session = inference_session(bound[1], key)
    assert isinstance(session, ort.InferenceSession)
    assert run(session).tobytes() == run(ort.InferenceSession(bound[0])).tobytes()
    assert run(ort.InferenceSession(bound[1])).tobytes() != run(session).tobytes()
    assert "unclone" not in session.get_modelmeta().custom_metadata_map


def test_the_callers_options_count_and_are_not_altered(bound: tuple[Path, Path], key: DeviceKey) -> None:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.enable_mem_pattern = False
    options.add_session_config_entry("session.use_env_allocators", "0")
    options.add_free_dimension_override_by_name("n", 3)
    first = inference_session(bound[1], key, sess_options=options)
    second = inference_session(bound[1], key, sess_options=options)
    assert first.get_session_options().intra_op_num_threads == 1
    assert first.get_session_options().get_session_config_entry("session.use_env_allocators") == "0"
    assert first.get_inputs()[0].shape == [3, 64]
    # Added initialisers would make the options fail for the ordinary file.
    ordinary = ort.InferenceSession(bound[0], sess_options=options)
    assert run(first).tobytes() == run(second).tobytes() == run(ordinary).tobytes()


def test_the_weights_live_as_long_as_the_session(bound: tuple[Path, Path], key: DeviceKey) -> None:
    expected = run(ort.InferenceSession(bound[0]))
    session = inference_session(bound[1], key)
    gc.collect()
    waste = [np.full((64, 64), 7.0, dtype=np.float32) for _ in range(500)]
    assert run(session).tobytes() == expected.tobytes()
    assert len(waste) == 500


def test_nothing_is_written(bound: tuple[Path, Path], key: DeviceKey, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = bound[0].parent
    monkeypatch.chdir(folder)
    before = sorted(folder.rglob("*"))
    run(inference_session(bound[1], key))
    assert sorted(folder.rglob("*")) == before


def test_options_that_would_write_the_weights_are_refused(bound: tuple[Path, Path], key: DeviceKey) -> None:
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(bound[0].parent / "optimised.onnx")
    with pytest.raises(ParameterError, match="true weights"):
        inference_session(bound[1], key, sess_options=options)
    options = ort.SessionOptions()
    options.add_session_config_entry("ep.context_enable", "1")
    with pytest.raises(ParameterError, match="compiled"):
        inference_session(bound[1], key, sess_options=options)


def test_another_key_and_another_format(bound: tuple[Path, Path], key: DeviceKey, device: Device) -> None:
    with pytest.raises(SlotError):
        inference_session(bound[1], DeviceKey(bytes(32)))
    from safetensors.numpy import save_file

    other = bound[0].parent
    save_file({"w": np.ones(4)}, other / "m.safetensors")
    unclone.bind(other / "m.safetensors", device, other / "b.safetensors")
    with pytest.raises(FormatError, match="safetensors"):
        inference_session(other / "b.safetensors", key)


def test_a_file_swapped_after_it_was_verified(
    bound: tuple[Path, Path], key: DeviceKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    genuine = run(ort.InferenceSession(bound[0]))

    def swap(path: Path, key: DeviceKey, **_: object) -> unclone.model.RestoredModel:
        restored = unclone.restore(path, key)
        path.write_bytes(path.read_bytes().replace(b"MatMul", b"MatMvl").replace(b"Add", b"Sub"))
        return restored

    monkeypatch.setattr("unclone.runtime.onnx.restore", swap)
    assert np.array_equal(run(inference_session(bound[1], key)), genuine)


def test_without_onnxruntime(bound: tuple[Path, Path], key: DeviceKey, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match=r"unclone\[onnx\]"):
        inference_session(bound[1], key)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_large_tensors_of_other_types_stay_outside_the_graph(
    dtype: type, tmp_path: Path, device: Device, key: DeviceKey
) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(dense_model(dtype=dtype), path)
    unclone.bind(path, device, tmp_path / "b.onnx")
    try:
        expected = run(ort.InferenceSession(path))
    except ort.capi.onnxruntime_pybind11_state.NotImplemented:
        pytest.skip(f"no MatMul of {dtype.__name__} on this processor")
    assert run(inference_session(tmp_path / "b.onnx", key)).tobytes() == expected.tobytes()


def test_initialisers_that_a_caller_may_override(tmp_path: Path, device: Device, key: DeviceKey) -> None:
    built = dense_model()
    built.graph.input.append(h.make_tensor_value_info("W", TensorProto.FLOAT, [64, 64]))
    path = tmp_path / "m.onnx"
    onnx.save(built, path)
    unclone.bind(path, device, tmp_path / "b.onnx")
    session = inference_session(tmp_path / "b.onnx", key)
    assert run(session).tobytes() == run(ort.InferenceSession(path)).tobytes()
    zero = np.zeros((64, 64), dtype=np.float32)
    bias = numpy_helper.to_array(built.graph.initializer[1])
    assert np.array_equal(session.run(None, {"x": X, "W": zero})[0], np.tile(bias, (3, 1)))


def test_a_model_restored_elsewhere(bound: tuple[Path, Path], key: DeviceKey) -> None:
    with unclone.restore(bound[1], key) as restored:
        session = session_from(restored)
        assert run(session).tobytes() == run(ort.InferenceSession(bound[0])).tobytes()
        del session


@pytest.mark.slow
def test_above_two_gigabytes(tmp_path: Path, device: Device, key: DeviceKey) -> None:
    """640 M parameters of float32 in external data: more than a protobuf can hold, streamed and restored."""
    rows, columns = 20_000, 32_000
    graph = h.make_graph(
        [h.make_node("Gather", ["E", "ids"], ["y"])],
        "g",
        [h.make_tensor_value_info("ids", TensorProto.INT64, [4])],
        [h.make_tensor_value_info("y", TensorProto.FLOAT, [4, columns])],
        [TensorProto(name="E", data_type=TensorProto.FLOAT, dims=[rows, columns], data_location=TensorProto.EXTERNAL)],
    )
    graph.initializer[0].external_data.add(key="location", value="m.data")
    path = tmp_path / "m.onnx"
    path.write_bytes(h.make_model(graph, opset_imports=[h.make_opsetid("", 17)], ir_version=8).SerializeToString())
    rng = np.random.default_rng(2)
    with (tmp_path / "m.data").open("wb") as stream:
        for _ in range(20):
            stream.write(rng.normal(size=(rows // 20, columns)).astype(np.float32))
    bound = tmp_path / "b.onnx"
    unclone.bind(path, device, bound)
    onnx.checker.check_model(str(bound))
    ids = {"ids": np.array([0, 1, rows // 2, rows - 1])}
    expected = ort.InferenceSession(path).run(None, ids)[0]
    masked = ort.InferenceSession(bound).run(None, ids)[0]
    assert np.isfinite(masked).all()
    assert not np.array_equal(masked, expected)
    assert inference_session(bound, key).run(None, ids)[0].tobytes() == expected.tobytes()
