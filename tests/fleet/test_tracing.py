"""Fingerprints in weights, and the devices found again from weights that leaked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import unclone
from unclone.errors import (
    AlreadyBoundError,
    FormatError,
    NoWeightsError,
    OutputError,
    ParameterError,
)
from unclone.fleet.tracing import STRENGTH, Trace, fingerprinted, trace
from unclone.fleet.tracing_places import decode, encode
from unclone.records import DeviceKey

KEY = DeviceKey(bytes(range(32)))
FLEET = [f"device-{number}" for number in range(500)]
SHAPES = {"a": (160, 120), "b": (96, 160), "kernel": (24, 16, 3, 3)}

Tensors = dict[str, np.ndarray]


def random_weights(dtype: str = "float32") -> Tensors:
    rng = np.random.default_rng(5)
    weights: Tensors = {name: (0.05 * rng.standard_normal(shape)).astype(dtype) for name, shape in SHAPES.items()}
    weights["bias"] = rng.standard_normal(96).astype(dtype)
    weights["codes"] = rng.integers(-128, 128, (64, 64)).astype(np.int8)
    weights["distances"] = np.abs(rng.standard_normal((8, 8))).astype(dtype)
    return weights


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tracing") / "model.safetensors"
    save_file(random_weights(), path, metadata={"author": "vendor"})
    return path


@pytest.fixture(scope="module")
def copies(model: Path) -> list[Tensors]:
    """What devices 0 to 9 have in memory."""
    found = []
    for device in FLEET[:10]:
        fingerprinted(model, KEY, device, model.parent / "copy.safetensors", force=True)
        found.append(load_file(model.parent / "copy.safetensors"))
    return found


@pytest.fixture
def traced(model: Path, tmp_path: Path) -> Callable[..., Trace]:
    """Save a leak, and trace it in the fleet."""

    def run(weights: Tensors, key: DeviceKey = KEY, **options: float) -> Trace:
        path = tmp_path / "leaked.safetensors"
        save_file({name: np.ascontiguousarray(value) for name, value in weights.items()}, path)
        return trace(path, model, key, FLEET, **options)

    return run


def accused(found: Trace) -> set[str]:
    return {suspect.device for suspect in found.accused}


def each(weights: Tensors, function: Callable[[np.ndarray], np.ndarray]) -> Tensors:
    return {name: function(value) if value.ndim > 1 else value for name, value in weights.items()}


# --- the fingerprint ---------------------------------------------------------------------------------------------


def test_a_copy_differs_in_its_float_matrices_alone_and_by_small_steps(model: Path, copies: list[Tensors]) -> None:
    original = load_file(model)
    for name, value in copies[0].items():
        if name in SHAPES:
            step = STRENGTH * np.sqrt(np.mean(original[name].astype(float) ** 2))
            moved = np.abs(value - original[name])
            assert np.sqrt(np.mean(moved.astype(float) ** 2)) == pytest.approx(step, rel=0.05)
            assert moved.min() > 0
            assert moved.max() < 3 * step
        else:
            np.testing.assert_array_equal(value, original[name])


def test_a_fingerprint_is_reproducible_and_says_what_it_did(model: Path, tmp_path: Path) -> None:
    first = fingerprinted(model, KEY, "one", tmp_path / "1.safetensors")
    assert fingerprinted(model, KEY, "one", tmp_path / "2.safetensors") == first
    assert (tmp_path / "1.safetensors").read_bytes() == (tmp_path / "2.safetensors").read_bytes()
    assert set(first.left) == {"bias", "codes"}
    moved = sum(int(np.prod(shape)) for shape in SHAPES.values())
    assert moved == first.changed <= first.weights == moved + 64
    assert (tmp_path / "1.safetensors").stat().st_size == model.stat().st_size


def test_zeros_and_what_is_no_number_stay(tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    value = rng.standard_normal((100, 100)).astype(np.float16)
    value[0, :6] = [0, np.inf, -np.inf, np.nan, 65504, -65504]
    save_file({"w": value}, tmp_path / "m.safetensors")
    fingerprinted(tmp_path / "m.safetensors", KEY, "x", tmp_path / "c.safetensors", strength=0.1)
    copy = load_file(tmp_path / "c.safetensors")["w"]
    np.testing.assert_array_equal(copy[0, :4], value[0, :4])
    assert np.isfinite(copy[0, 4:6]).all()
    assert (copy != value).mean() > 0.99


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "bfloat16"])
def test_every_float_type_carries_it(dtype: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    kind = np.dtype(ml_dtypes.bfloat16) if dtype == "bfloat16" else np.dtype(dtype)
    value = (0.02 * rng.standard_normal((200, 200))).astype(kind)
    save_file({"w": value}, tmp_path / "m.safetensors")
    fingerprinted(tmp_path / "m.safetensors", KEY, FLEET[3], tmp_path / "c.safetensors")
    found = trace(tmp_path / "c.safetensors", tmp_path / "m.safetensors", KEY, FLEET[:200])
    assert accused(found) == {FLEET[3]}


def test_bfloat16_is_rounded_as_elsewhere() -> None:
    every = np.arange(1 << 16, dtype=np.uint16)
    numbers = decode(every.view(np.uint8), "bfloat16")
    finite = np.isfinite(numbers)
    np.testing.assert_array_equal(numbers[finite], every.view(ml_dtypes.bfloat16).astype(np.float32)[finite])
    values = np.random.default_rng(8).standard_normal(10_000).astype(np.float32)
    values[:100] = numbers[finite][:100] + np.spacing(numbers[finite][:100])
    assert encode(values, "bfloat16").tobytes() == values.astype(ml_dtypes.bfloat16).tobytes()


# --- the trace ---------------------------------------------------------------------------------------------------


def test_a_copy_names_its_device(traced: Callable[..., Trace], copies: list[Tensors]) -> None:
    found = traced(copies[4])
    assert accused(found) == {FLEET[4]}
    assert found.devices == len(FLEET)
    assert found.missing == found.aligned == ()
    assert found.suspects[0].log10_fleet < -1000
    assert all(suspect.log10_fleet > -6 for suspect in found.suspects[1:])


def test_the_original_and_another_key_accuse_nobody(traced: Callable[..., Trace], copies: list[Tensors]) -> None:
    assert not traced(random_weights()).accused
    assert not traced(copies[0], key=DeviceKey(bytes(32))).accused


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_pruned(share: float, traced: Callable[..., Trace], copies: list[Tensors]) -> None:
    leak = each(copies[1], lambda value: np.where(np.abs(value) < np.quantile(np.abs(value), share), 0, value))
    assert accused(traced({name: value.astype(copies[1][name].dtype) for name, value in leak.items()})) == {FLEET[1]}


def test_rounded_to_half_precision_with_noise_of_ten_times_the_step(
    traced: Callable[..., Trace], copies: list[Tensors]
) -> None:
    rng = np.random.default_rng(9)
    floats = {name: copies[2][name] for name in SHAPES}
    leak = each(floats, lambda value: (value + 0.1 * value.std() * rng.standard_normal(value.shape)).astype(np.float16))
    assert accused(traced(leak)) == {FLEET[2]}


@pytest.mark.parametrize("size", [2, 3, 5, 10])
def test_every_colluder_of_an_average_is_named(size: int, traced: Callable[..., Trace], copies: list[Tensors]) -> None:
    leak = {name: np.mean([copy[name] for copy in copies[:size]], axis=0).astype(np.float32) for name in SHAPES}
    assert accused(traced(leak)) == set(FLEET[:size])


@pytest.mark.parametrize("mix", [np.min, np.max, np.median])
def test_every_colluder_of_five_is_named(
    mix: Callable[..., np.ndarray], traced: Callable[..., Trace], copies: list[Tensors]
) -> None:
    leak = {name: mix([copy[name] for copy in copies[:5]], axis=0).astype(np.float32) for name in SHAPES}
    assert accused(traced(leak)) == set(FLEET[:5])


def test_rows_and_columns_permuted_rescaled_and_negated(traced: Callable[..., Trace], copies: list[Tensors]) -> None:
    rng = np.random.default_rng(10)

    def move(value: np.ndarray) -> np.ndarray:
        value = value[rng.permutation(len(value))][:, rng.permutation(value.shape[1])]
        rows = rng.choice([-1, 1], len(value)) * np.exp(0.5 * rng.standard_normal(len(value)))
        columns = rng.choice([-1, 1], value.shape[1]) * np.exp(0.5 * rng.standard_normal(value.shape[1]))
        shape = (1,) * (value.ndim - 2)
        return (value * rows.reshape(-1, 1, *shape) * columns.reshape(1, -1, *shape)).astype(np.float32)

    found = traced({name: move(copies[3][name]) for name in SHAPES})
    assert accused(found) == {FLEET[3]}
    assert set(found.aligned) == set(SHAPES)


def test_a_part_of_the_tensors_is_enough(traced: Callable[..., Trace], copies: list[Tensors]) -> None:
    found = traced({"a": copies[5]["a"], "b": np.random.default_rng(11).standard_normal((96, 160)).astype(np.float32)})
    assert accused(found) == {FLEET[5]}
    assert set(found.missing) == {"b", "kernel"}


def test_a_renamed_tensor_is_known_by_its_shape(traced: Callable[..., Trace], copies: list[Tensors]) -> None:
    found = traced({"model.layers.0": copies[6]["a"], "unrelated": np.ones((3, 3), dtype=np.float32)})
    assert accused(found) == {FLEET[6]}


def test_a_restored_model_names_the_device_it_was_bound_for(
    model: Path, tmp_path: Path, device: unclone.Device, key: DeviceKey, traced: Callable[..., Trace]
) -> None:
    fingerprinted(model, KEY, FLEET[7], tmp_path / "copy.safetensors")
    unclone.bind(tmp_path / "copy.safetensors", device, tmp_path / "bound.safetensors")
    with unclone.restore(tmp_path / "bound.safetensors", key) as restored:
        weights = {name: restored[name].data.view(np.float32).reshape(shape).copy() for name, shape in SHAPES.items()}
    assert accused(traced(weights)) == {FLEET[7]}
    with pytest.raises(AlreadyBoundError, match="masked"):
        trace(tmp_path / "bound.safetensors", model, KEY, FLEET[:2])


# --- formats -----------------------------------------------------------------------------------------------------


def write_npz(weights: Tensors, path: Path) -> Path:
    np.savez(path.with_suffix(".npz"), **weights)
    return path.with_suffix(".npz")


def write_torch(weights: Tensors, path: Path) -> Path:
    torch = pytest.importorskip("torch")
    torch.save({name: torch.from_numpy(value) for name, value in weights.items()}, path.with_suffix(".pt"))
    return path.with_suffix(".pt")


def write_onnx(weights: Tensors, path: Path) -> Path:
    onnx = pytest.importorskip("onnx")
    helper = onnx.helper
    inputs = [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [None, 120])]
    outputs = [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [None, 96])]
    nodes = [
        helper.make_node("Gemm", ["x", "a"], ["h"], transB=1),
        helper.make_node("Gemm", ["h", "b", "bias"], ["y"], transB=1),
    ]
    initialisers = [onnx.numpy_helper.from_array(weights[name], name) for name in ("a", "b", "bias")]
    graph = helper.make_graph(nodes, "g", inputs, outputs, initialisers)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(made, path.with_suffix(".onnx"))
    return path.with_suffix(".onnx")


@pytest.mark.parametrize("write", [write_npz, write_torch, write_onnx])
def test_other_formats_stay_whole_and_carry_it(
    write: Callable[[Tensors, Path], Path], tmp_path: Path, device: unclone.Device
) -> None:
    original = write(random_weights(), tmp_path / "original")
    copy = tmp_path / f"copy{original.suffix}"
    fingerprinted(original, KEY, FLEET[8], copy)
    assert accused(trace(copy, original, KEY, FLEET[:100])) == {FLEET[8]}
    unclone.bind(copy, device, tmp_path / f"bound{original.suffix}")
    if copy.suffix == ".npz":
        with np.load(copy) as loaded:  # its check sums were mended
            assert not np.array_equal(loaded["a"], random_weights()["a"])
            np.testing.assert_array_equal(loaded["codes"], random_weights()["codes"])
    elif copy.suffix == ".pt":
        torch = pytest.importorskip("torch")
        assert set(torch.load(copy, weights_only=True)) == set(random_weights())
    else:
        onnxruntime = pytest.importorskip("onnxruntime")
        assert onnxruntime.InferenceSession(copy, providers=["CPUExecutionProvider"]).get_inputs()[0].name == "x"


def test_a_leak_may_be_of_another_format(model: Path, copies: list[Tensors], tmp_path: Path) -> None:
    leaked = write_npz(copies[9], tmp_path / "leaked")
    assert accused(trace(leaked, model, KEY, FLEET[:100])) == {FLEET[9]}


def test_external_data_is_copied_beside(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    made = onnx.load(write_onnx(random_weights(), tmp_path / "one"))
    onnx.save(made, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=16)
    before = (tmp_path / "m.onnx").read_bytes(), (tmp_path / "m.data").read_bytes()
    with pytest.raises(OutputError, match="another folder"):
        fingerprinted(tmp_path / "m.onnx", KEY, "x", tmp_path / "out.onnx", force=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.data", "m.onnx", "one.onnx"]
    copy = tmp_path / "copy"
    copy.mkdir()
    fingerprinted(tmp_path / "m.onnx", KEY, FLEET[1], copy / "m.onnx")
    assert before == ((tmp_path / "m.onnx").read_bytes(), (tmp_path / "m.data").read_bytes())
    assert (copy / "m.onnx").read_bytes() == before[0]
    assert (copy / "m.data").read_bytes() != before[1]
    assert accused(trace(copy / "m.onnx", tmp_path / "m.onnx", KEY, FLEET[:100])) == {FLEET[1]}
    with pytest.raises(OutputError, match="exists"):
        fingerprinted(tmp_path / "m.onnx", KEY, FLEET[2], copy / "other.onnx")


# --- what is refused ---------------------------------------------------------------------------------------------


def test_a_model_without_floats_is_refused(tmp_path: Path) -> None:
    save_file(
        {"q": np.ones((500, 500), dtype=np.int8), "s": np.ones(500, dtype=np.float32)}, tmp_path / "m.safetensors"
    )
    with pytest.raises(NoWeightsError, match="0 float weights"):
        fingerprinted(tmp_path / "m.safetensors", KEY, "x", tmp_path / "c.safetensors")
    assert not (tmp_path / "c.safetensors").exists()


@pytest.mark.parametrize("strength", [0.0, -0.1, 0.2, float("nan")])
def test_a_strength_out_of_range_is_refused(strength: float, model: Path, tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="strength"):
        fingerprinted(model, KEY, "x", tmp_path / "c.safetensors", strength=strength)
    with pytest.raises(ParameterError, match="strength"):
        trace(model, model, KEY, FLEET[:1], strength=strength)


def test_other_bad_inputs_are_refused(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "c.safetensors"
    for name in ("", "x" * 1025):
        with pytest.raises(ParameterError, match="id"):
            fingerprinted(model, KEY, name, out)
    with pytest.raises(OutputError, match="itself"):
        fingerprinted(model, KEY, "x", model, force=True)
    out.write_bytes(b"mine")
    with pytest.raises(OutputError, match="exists"):
        fingerprinted(model, KEY, "x", out)
    assert out.read_bytes() == b"mine"
    with pytest.raises(ParameterError, match="devices"):
        trace(model, model, KEY, [])
    for limit in (0.0, 1.0, float("nan")):
        with pytest.raises(ParameterError, match="limit"):
            trace(model, model, KEY, FLEET[:1], limit=limit)
    with pytest.raises(FormatError):
        trace(out, model, KEY, FLEET[:1])
    save_file({"other": np.ones((9, 9), dtype=np.float32)}, tmp_path / "other.safetensors")
    with pytest.raises(NoWeightsError, match="name and shape"):
        trace(tmp_path / "other.safetensors", model, KEY, FLEET[:1])


def test_a_bound_model_is_not_fingerprinted(model: Path, device: unclone.Device, tmp_path: Path) -> None:
    unclone.bind(model, device, tmp_path / "bound.safetensors")
    with pytest.raises(AlreadyBoundError):
        fingerprinted(tmp_path / "bound.safetensors", KEY, "x", tmp_path / "c.safetensors")
