"""The second reader on what the package makes: any model, any record."""

from __future__ import annotations

import hashlib
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import unclone
from unclone import keys
from unclone.device_file import render_device
from unclone.formats.safetensors import DTYPES
from unclone.mask import CIPHERS
from unclone.records import Device, DeviceKey, EnrollmentReport, HelperData

sys.path.insert(0, str(Path(__file__).parent.parent / "spec"))
sys.path.insert(0, str(Path(__file__).parent.parent / "tools"))

import check_model
import check_record
from model_vectors import safetensors

KEY = bytes(range(32))
REPORT = EnrollmentReport(1, 1, 1, 1, 1, 1, 1, 128, -9000)
DEVICE = Device("", "puf", "", keys.SUITE, keys.public_key(DeviceKey(KEY)), HelperData("", {}), bytes(48), REPORT)
NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=8).filter(lambda name: name != "__metadata__")


@st.composite
def tensors(draw: st.DrawFn) -> tuple[str, list[int], bytes]:
    kind = draw(st.sampled_from(sorted(DTYPES)))
    bits = DTYPES[kind][1]
    shape = draw(st.lists(st.integers(0, 4), max_size=3))
    shape += [8] if bits < 8 else []
    count = bits
    for dimension in shape:
        count *= dimension
    return kind, shape, draw(st.binary(min_size=count // 8, max_size=count // 8))


@given(
    st.dictionaries(NAMES, tensors(), min_size=1, max_size=5),
    st.none() | st.dictionaries(NAMES.filter(lambda name: name != "unclone"), NAMES, max_size=2),
    st.sampled_from(CIPHERS),
    st.sampled_from(["finite", "all"]),
)
@settings(max_examples=120, deadline=None)
def test_any_model(model: dict[str, Any], metadata: dict[str, str] | None, cipher: str, bits: str) -> None:
    model["always.masked"] = ("I8", [2], b"\x01\xff")
    true = {name: hashlib.sha256(data).hexdigest() for name, (_, _, data) in model.items()}
    with tempfile.TemporaryDirectory() as folder:
        plain, bound = Path(folder) / "plain.safetensors", Path(folder) / "bound.safetensors"
        plain.write_bytes(safetensors(model, metadata))
        unclone.bind(plain, DEVICE, bound, cipher=cipher, bits=bits, threads=1)
        assert check_model.check(bound, KEY)["sha256"] == true
        with unclone.restore(bound, DeviceKey(KEY)) as restored:
            assert {n: hashlib.sha256(t.data.tobytes()).hexdigest() for n, t in restored.items()} == true


def test_a_model_of_several_chunks(tmp_path: Path) -> None:
    data = {"a": ("F32", [600_000], bytes(range(240)) * 10_000), "b": ("U8", [2**20], b"\x05" * 2**20)}
    (tmp_path / "plain.safetensors").write_bytes(safetensors(data))
    for cipher in CIPHERS:
        bound = tmp_path / f"{cipher}.safetensors"
        header = unclone.bind(tmp_path / "plain.safetensors", DEVICE, bound, cipher=cipher)
        assert [len(tensor.tags) // 16 for tensor in header.tensors] == [3, 1]
        found = check_model.check(bound, KEY)["sha256"]
        assert found == {name: hashlib.sha256(content).hexdigest() for name, (_, _, content) in data.items()}


class Chip:
    """A memory of 8 KiB, 3 % of whose cells read wrong each time."""

    kind = "test"

    def __init__(self) -> None:
        self._rng = np.random.default_rng(3)
        self._cells = self._rng.integers(0, 2, 65536, dtype=np.uint8)

    def evaluate(self, challenge: bytes = b"") -> np.ndarray[Any, np.dtype[np.uint8]]:
        wrong: np.ndarray[Any, np.dtype[np.uint8]] = (self._rng.random(65536) < 0.03).astype(np.uint8)
        return self._cells ^ wrong


def test_a_record_as_enrolled(monkeypatch: pytest.MonkeyPatch) -> None:
    """The extractor's secret, caught on its way, opens the record in the second reader."""
    caught: list[bytes] = []
    seal = keys.seal_device_key

    def catching(key: DeviceKey, secret: bytes, context: bytes) -> bytes:
        caught.append(bytes(secret))
        return seal(key, secret, context)

    monkeypatch.setattr(keys, "seal_device_key", catching)
    chip = Chip()
    device = unclone.enroll(chip, name="press 3 Ü")
    with unclone.reconstruct(device, chip) as key:
        found = check_record.check(render_device(device), [bytes(len(caught[0])), caught[0]])
        assert found["device_key"] == bytes(key.secret).hex()
