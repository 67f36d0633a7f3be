"""safetensors: every dtype, the ordinary reader, and files meant to hurt."""

from __future__ import annotations

import contextlib
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

import unclone
from unclone.errors import AlreadyBoundError, FormatError, UncloneError, UnsupportedError
from unclone.formats.safetensors import DTYPES, Safetensors
from unclone.records import Device, DeviceKey


def write(path: Path, header: Any, data: bytes = b"") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def entry(dtype: str, shape: list[int], start: int, end: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def every_dtype(path: Path) -> dict[str, bytes]:
    rng = np.random.default_rng(5)
    header: dict[str, Any] = {"__metadata__": {"note": 'ü \U0001f600 "quoted" \\ \n', "a": ""}}
    data, true = b"", {}
    for kind, (_, bits) in DTYPES.items():
        size = 24 * bits // 8
        raw = rng.integers(0, 2, size, dtype=np.uint8).tobytes() if kind == "BOOL" else rng.bytes(size)
        header[f"t.{kind}"] = entry(kind, [4, 6], len(data), len(data) + size)
        true[f"t.{kind}"] = raw
        data += raw
    write(path, header, data)
    return true


@pytest.mark.parametrize("bits", ["finite", "all"])
def test_every_dtype_is_masked_and_restored_to_the_bit(
    bits: str, tmp_path: Path, device: Device, key: DeviceKey
) -> None:
    true = every_dtype(tmp_path / "m.safetensors")
    bound = tmp_path / "b.safetensors"
    header = unclone.bind(tmp_path / "m.safetensors", device, bound, bits=bits)
    assert [tensor.name for tensor in header.clear] == ["t.BOOL"]
    restored = unclone.restore(bound, key)
    assert {name: tensor.data.tobytes() for name, tensor in restored.items()} == true
    with safetensors.safe_open(bound, framework="numpy") as opened:
        assert set(opened.keys()) == set(true)
        assert opened.metadata()["note"] == 'ü \U0001f600 "quoted" \\ \n'
        assert opened.metadata()["a"] == ""
    content = bound.read_bytes()
    assert all(raw not in content for name, raw in true.items() if name != "t.BOOL")
    start = 8 + int.from_bytes(content[:8], "little")
    assert start % 8 == 0


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=12).filter(lambda name: name != "__metadata__"),
        st.tuples(st.sampled_from(["<f4", "<f2", "<i4", "|u1", "<f8"]), st.lists(st.integers(0, 5), max_size=4)),
        min_size=1,
        max_size=5,
    )
)
def test_any_names_and_shapes_survive(
    tmp_path_factory: pytest.TempPathFactory, device: Device, key: DeviceKey, plan: dict[str, tuple[str, list[int]]]
) -> None:
    folder = tmp_path_factory.mktemp("round")
    rng = np.random.default_rng(6)
    arrays = {
        name: np.frombuffer(rng.bytes(int(np.prod(shape)) * np.dtype(kind).itemsize), dtype=kind).reshape(shape)
        for name, (kind, shape) in plan.items()
    }
    path, bound = folder / "m.safetensors", folder / "b.safetensors"
    path.write_bytes(safetensors.numpy.save(arrays))
    if not any(array.nbytes for array in arrays.values()):
        with pytest.raises(unclone.errors.NoWeightsError):
            unclone.bind(path, device, bound)
        return
    unclone.bind(path, device, bound)
    loaded = safetensors.numpy.load_file(bound)
    restored = unclone.restore(bound, key)
    for name, array in arrays.items():
        assert loaded[name].shape == array.shape
        assert restored[name].data.tobytes() == array.tobytes()


def test_index_buffers_stay_in_clear_and_quantised_codes_do_not(tmp_path: Path, device: Device) -> None:
    arrays = {
        "e.position_ids": np.arange(16),
        "n.num_batches_tracked": np.array(9),
        "l.qweight": np.arange(64, dtype=np.int32),
        "l.g_idx": np.arange(8, dtype=np.int32),
        "g_idx_like": np.arange(8, dtype=np.int32),
        "position_ids": np.ones(4, dtype=np.float32),
    }
    safetensors.numpy.save_file(arrays, tmp_path / "m.safetensors")
    header = unclone.bind(tmp_path / "m.safetensors", device, tmp_path / "b.safetensors")
    assert {tensor.name for tensor in header.clear} == {"e.position_ids", "n.num_batches_tracked", "l.g_idx"}


def test_a_bound_file_is_not_bound_again(tmp_path: Path, device: Device) -> None:
    every_dtype(tmp_path / "m.safetensors")
    unclone.bind(tmp_path / "m.safetensors", device, tmp_path / "b.safetensors")
    with pytest.raises(AlreadyBoundError):
        unclone.bind(tmp_path / "b.safetensors", device, tmp_path / "c.safetensors")


def test_a_bound_file_that_another_program_rewrote_is_refused(tmp_path: Path, device: Device, key: DeviceKey) -> None:
    safetensors.numpy.save_file({"w": np.ones(8, np.float32)}, tmp_path / "m.safetensors", metadata={"a": "b"})
    unclone.bind(tmp_path / "m.safetensors", device, tmp_path / "b.safetensors")
    with safetensors.safe_open(tmp_path / "b.safetensors", framework="numpy") as opened:
        metadata = dict(reversed(opened.metadata().items()))
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    write(
        tmp_path / "c.safetensors",
        {"__metadata__": metadata, "w": entry("F32", [8], 0, 32)},
        tensors["w"].tobytes(),
    )
    with pytest.raises((FormatError, unclone.errors.TamperedError)):
        unclone.restore(tmp_path / "c.safetensors", key)


HOSTILE = {
    "no header": (b"", b"", "truncated"),
    "a JSON list": (b"[1]", b"", "does not start"),
    "broken JSON": (b'{"a":', b"", "no JSON"),
    "not UTF-8": (b'{"\xff":1}', b"", "no JSON"),
    "a lone surrogate": (b'{"\\ud800":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}', b"", "no JSON"),
    "deep nesting": (b'{"a":' + b"[" * 200_000, b"", "no JSON"),
    "a huge number": (b'{"a":' + b"9" * 5000 + b"}", b"", "no JSON"),
    "a name twice": (b'{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"a":{}}', b"", "twice"),
    "metadata that is no text": ({"__metadata__": {"a": 1}}, b"", "map of strings"),
    "an unknown member": ({"a": {**entry("U8", [1], 0, 1), "x": 1}}, b"1", "exactly"),
    "a missing member": ({"a": {"dtype": "U8", "shape": [1]}}, b"1", "exactly"),
    "an unknown dtype": ({"a": entry("Q4", [1], 0, 1)}, b"1", "unknown dtype"),
    "a dtype that is a list": ({"a": {**entry("U8", [1], 0, 1), "dtype": ["U8"]}}, b"1", "unknown dtype"),
    "a negative size": ({"a": entry("U8", [-1], 0, 1)}, b"1", "malformed"),
    "a negative offset": ({"a": entry("U8", [1], -1, 0)}, b"1", "malformed"),
    "offsets reversed": ({"a": entry("U8", [1], 1, 0)}, b"1", "malformed"),
    "a boolean size": ({"a": entry("U8", [True], 0, 1)}, b"1", "malformed"),
    "a float offset": ({"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1.0]}}, b"1", "malformed"),
    "a size that overflows": ({"a": entry("U8", [2**32, 2**32], 0, 1)}, b"1", "larger than any memory"),
    "another size than the shape's": ({"a": entry("F32", [2], 0, 7)}, b"1234567", "instead"),
    "half a byte": ({"a": entry("F4", [3], 0, 2)}, b"12", "instead"),
    "an overlap": ({"a": entry("U8", [4], 0, 4), "b": entry("U8", [4], 2, 6)}, b"123456", "overlaps"),
    "a hole": ({"a": entry("U8", [2], 0, 2), "b": entry("U8", [2], 4, 6)}, b"123456", "hole"),
    "bytes of nobody": ({"a": entry("U8", [2], 0, 2)}, b"123", "no tensor"),
    "data cut off": ({"a": entry("U8", [4], 0, 4)}, b"123", "truncated"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_with_what_is_wrong(name: str, tmp_path: Path) -> None:
    header, data, message = HOSTILE[name]
    path = write(tmp_path / "m.safetensors", header, data)
    if name == "no header":
        path.write_bytes(b"\x01\x00{")
        with pytest.raises(FormatError):
            Safetensors().draft(path)
        return
    for read in (Safetensors().draft, Safetensors().layout):
        with pytest.raises(FormatError, match=message):
            read(path)


@pytest.mark.parametrize("length", [100_000_001, 2**31, 2**63, 2**64 - 1])
def test_a_huge_header_is_refused_before_it_is_read(length: int, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(struct.pack("<Q", length) + b"{}")
    with pytest.raises(FormatError, match="over the limit"):
        unclone.inspect(path)


def test_unsupported_is_said_by_name(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="'X9'"):
        Safetensors().draft(write(tmp_path / "m.safetensors", {"a": entry("X9", [1], 0, 1)}, b"1"))


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_damage_never_escapes_the_error_tree(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    path = folder / "m.safetensors"
    safetensors.numpy.save_file({"w": np.ones((2, 3), np.float32), "v": np.arange(4)}, path, metadata={"k": "v"})
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    path.write_bytes(content)
    for read in (Safetensors().draft, Safetensors().layout):
        with contextlib.suppress(UncloneError):
            read(path)
