"""Bound models for spec/vectors: the good ones, and the base that model_faults.py alters in one place at a time."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from unittest import mock

import ml_dtypes
import numpy as np
from make_vectors import Folder, Stream, seeded
from record_vectors import DEVICES, HYBRID_DEVICES, device

from unclone.model import bind
from unclone.patterns import finite_pattern
from unclone.records import Device, DeviceKey

Tensor = tuple[str, list[int], bytes]
"""safetensors dtype, shape, data."""


def safetensors(tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> bytes:
    """An ordinary file, written by hand: the library's numpy side knows fewer dtypes."""
    entries: dict[str, Any] = {} if metadata is None else {"__metadata__": metadata}
    position = 0
    for name, (dtype, shape, data) in tensors.items():
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [position, position + len(data)]}
        position += len(data)
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + b"".join(data for _, _, data in tensors.values())


def key_of(name: str) -> DeviceKey:
    return device(name)[1]


def record_of(name: str) -> Device:
    return device(name)[0]


def bound(label: str, plain: bytes, devices: Iterable[str], **options: Any) -> bytes:
    """``plain`` bound, every random byte from the stream ``label``."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "plain.safetensors", Path(folder) / "bound.safetensors"
        source.write_bytes(plain)
        with seeded(label):
            bind(source, [record_of(name) for name in devices], target, threads=1, **options)
        return target.read_bytes()


def _reals(label: str, count: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Numbers between -1 and 1, of the sizes that weights have."""
    raw = np.frombuffer(Stream(label).take(count), dtype=np.uint8)
    return (raw.astype(np.float64) - 127.5) / 127.5


def _every_dtype() -> dict[str, Tensor]:
    reals = _reals("reals", 15)
    special = np.array([np.inf, -np.inf, np.nan, 0.0, -0.0, 0.5])
    small, large = reals * 1e-3, np.abs(reals) * 300
    return {
        "f64": ("F64", [3, 5], small.astype("<f8").tobytes()),
        "f32": ("F32", [15], reals.astype("<f4").tobytes()),
        "f32.large.positive": ("F32", [15], large.astype("<f4").tobytes()),
        "f32.special": ("F32", [6], special.astype("<f4").tobytes()),
        "f32.zero": ("F32", [4], bytes(16)),
        "f32.subnormal": ("F32", [2], b"\x01\x00\x00\x00\xff\xff\x7f\x80"),
        "f16": ("F16", [5, 3], reals.astype("<f2").tobytes()),
        "f16.largest": ("F16", [2], np.array([65504, -1], dtype="<f2").tobytes()),
        "bf16": ("BF16", [15, 1], small.astype(ml_dtypes.bfloat16).tobytes()),
        "f8.e4m3": ("F8_E4M3", [15], reals.astype(ml_dtypes.float8_e4m3fn).tobytes()),
        "f8.e5m2": ("F8_E5M2", [15], small.astype(ml_dtypes.float8_e5m2).tobytes()),
        "f8.e4m3fnuz": ("F8_E4M3FNUZ", [15], reals.astype(ml_dtypes.float8_e4m3fnuz).tobytes()),
        "f8.e5m2fnuz": ("F8_E5M2FNUZ", [15], reals.astype(ml_dtypes.float8_e5m2fnuz).tobytes()),
        "f8.e8m0": ("F8_E8M0", [4], b"\x7e\x7f\x80\x81"),
        "f4": ("F4", [3, 2], b"\x12\x3f\xa5"),
        "c64": ("C64", [3], (reals[:3] + 1j * reals[3:6]).astype("<c8").tobytes()),
        **{
            kind.lower(): (kind, [3], Stream(kind).take(3 * width))
            for kind, width in [
                ("I8", 1),
                ("U8", 1),
                ("I16", 2),
                ("U16", 2),
                ("I32", 4),
                ("U32", 4),
                ("I64", 8),
                ("U64", 8),
            ]
        },
        "empty": ("F32", [0, 4], b""),
        "scalar": ("F32", [], np.float32(0.25).tobytes()),
        "block.0.bäckwärds \U0001f916": ("I8", [2], b"\x01\xff"),
        'quote " back \\ slash': ("I8", [1], b"\x7f"),
        "mask": ("BOOL", [3], b"\x01\x00\x01"),
        "embeddings.position_ids": ("I64", [2], np.arange(2, dtype="<i8").tobytes()),
    }


def _chunks() -> dict[str, Tensor]:
    """Two chunks under a pattern of three bytes, so that a chunk is one byte shorter than 65,536."""
    return {"triple": ("I8", [65537], bytes(range(256)) * 256 + b"\x22"), "one": ("U8", [1], b"\x44")}


def _dial() -> dict[str, Tensor]:
    """Two chunks of blocks, the last of each tensor short; the middle of the wide one has the largest weights."""
    wide = np.ones(9000, dtype="<f8")
    wide[4000:5000] = -5.0
    return {
        "early": ("F16", [2], np.ones(2, dtype="<f2").tobytes()),
        "wide": ("F64", [9000], wide.tobytes()),
        "late": ("F32", [3], np.ones(3, dtype="<f4").tobytes()),
    }


def base() -> dict[str, Tensor]:
    """The model that model_faults.py alters."""
    reals = _reals("base", 16)
    return {
        "layer.weight": ("F32", [2, 4], reals[:8].astype("<f4").tobytes()),
        "layer.bias": ("F16", [4], np.abs(reals[8:12]).astype("<f2").tobytes()),
        "other.bias": ("F16", [4], np.abs(reals[12:]).astype("<f2").tobytes()),
        "mask": ("BOOL", [2], b"\x01\x00"),
    }


def digests(tensors: dict[str, Tensor]) -> dict[str, str]:
    return {name: hashlib.sha256(data).hexdigest() for name, (_, _, data) in tensors.items()}


def make(folder: Folder) -> None:
    """Write the good models, then those with one fault each."""
    import model_faults

    def good(
        name: str, what: str, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None, **options: Any
    ) -> None:
        devices = options.pop("devices", ["press-17"])
        data = bound(name, safetensors(tensors, metadata), devices, **options)
        members = {"devices": devices, "sha256": digests(tensors)}
        folder.good(f"models/{name}.safetensors", data, what, **members)

    every = _every_dtype()
    author = {"author": "vendor", "zuständig": 'a "b" \\ \U0001f916'}
    good("finite-aes", "every dtype, finite, AES-256-GCM", every, author, cipher="aes-256-gcm")
    good("finite-chacha", "every dtype, finite, ChaCha20-Poly1305", every, cipher="chacha20-poly1305")
    good("all-aes", "every dtype, all bits, AES-256-GCM", every, bits="all", cipher="aes-256-gcm")
    good("all-chacha", "every dtype, all bits, ChaCha20-Poly1305", every, bits="all", cipher="chacha20-poly1305")
    good("base", "the model that the files with one fault start from", base(), {}, cipher="aes-256-gcm")
    good("slots", "three slots", base(), {"author": "vendor"}, cipher="aes-256-gcm", devices=DEVICES)
    hybrid = {"cipher": "aes-256-gcm", "devices": HYBRID_DEVICES}
    good("hybrid", "two slots of the hybrid suite", base(), {}, **hybrid)
    mixed = ["press-17", "press-40"]
    good("hybrid-mixed", "slots of both suites", base(), {}, cipher="aes-256-gcm", devices=mixed)

    for select in ("blocks", "magnitude"):
        what = f"a quarter of the weights, {select}"
        good(f"share-{select}", what, _dial(), cipher="aes-256-gcm", share=0.25, select=select)
    good("share-random", "words at random, AES", every, cipher="aes-256-gcm", share=0.4, select="random")
    chacha = {"cipher": "chacha20-poly1305", "share": 0.4}
    good("share-random-all", "words at random, all bits, ChaCha20", every, bits="all", select="random", **chacha)
    saliency = {"early": np.zeros(2), "wide": np.arange(9000), "late": np.full(3, 1e6)}
    good(
        "share-saliency", "pages picked by saliency, ChaCha20", _dial(), select="saliency", saliency=saliency, **chacha
    )

    def pattern(dtype: str, blocks: Any) -> bytes:
        return b"\xff\x0f\xf0" if dtype == "int8" else finite_pattern(dtype, blocks)

    with mock.patch("unclone.model.binding.finite_pattern", pattern):
        good("chunks", "several chunks, and a pattern that does not divide them", _chunks(), cipher="aes-256-gcm")
    model_faults.make(folder)
