"""Every bit of a small bound file flipped, one at a time, read by the package and by the second reader."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import pytest

import unclone
from unclone.errors import InputError, KeyMaterialError, TamperedError

sys.path.insert(0, str(Path(__file__).parent.parent / "spec"))

import check_model

from test_spec_vectors import INDEX, VECTORS

KEY = bytes.fromhex(INDEX["devices"]["press-17"]["device_key"])
GOOD = (VECTORS / "models" / "base.safetensors").read_bytes()


def _package(path: Path, true: dict[str, bytes]) -> str:
    try:
        with unclone.restore(path, unclone.DeviceKey(KEY), threads=1) as model:
            assert {name: tensor.data.tobytes() for name, tensor in model.items()} == true
    except (InputError, KeyMaterialError, TamperedError) as problem:
        return type(problem).__name__
    return "true weights"


def _second(path: Path) -> str:
    try:
        check_model.check(path, KEY)
    except check_model.Finding as finding:
        return finding.error
    return "true weights"


def _flip_every_bit(path: Path) -> Counter[str]:
    path.write_bytes(GOOD)
    with unclone.restore(path, unclone.DeviceKey(KEY)) as model:
        true = {name: tensor.data.tobytes() for name, tensor in model.items()}
    outcomes: Counter[str] = Counter()
    for bit in range(8 * len(GOOD)):
        flipped = bytearray(GOOD)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        outcome = _package(path, true)
        outcomes[outcome] += 1
        assert outcome == _second(path), bit
    return outcomes


def test_every_bit_flipped(tmp_path: Path) -> None:
    outcomes = _flip_every_bit(tmp_path / "flipped.safetensors")
    assert outcomes.total() == 8 * len(GOOD)
    assert outcomes["true weights"] == 0, "every byte of a safetensors file carries something"
    masked = 8 * (32 + 8 + 8)
    assert outcomes["TensorTamperedError"] == masked
    assert {"SlotError", "HeaderTamperedError", "FormatError"} <= set(outcomes)


def test_truncated_at_every_byte(tmp_path: Path) -> None:
    path = tmp_path / "cut.safetensors"
    for size in range(len(GOOD)):
        path.write_bytes(GOOD[:size])
        with pytest.raises(InputError):
            unclone.restore(path, unclone.DeviceKey(KEY))
