"""Every bit of a small bound file flipped, one at a time, read by the package and by the second reader."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import unclone
from unclone.errors import InputError, KeyMaterialError, TamperedError

sys.path.insert(0, str(Path(__file__).parent.parent / "spec"))

import check_model

from test_spec_vectors import INDEX, VECTORS

KEY = bytes.fromhex(INDEX["devices"]["press-17"]["device_key"])
GOOD = (VECTORS / "models" / "base.safetensors").read_bytes()


def _package(path: Path, true: dict[str, bytes] | None) -> str:
    try:
        with unclone.restore(path, unclone.DeviceKey(KEY), threads=1) as model:
            assert true is None or {name: tensor.data.tobytes() for name, tensor in model.items()} == true
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


@given(st.data())
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_json_of_the_carrier_spliced(tmp_path: Path, data: st.DataObject) -> None:
    """The safetensors header altered at random, the length in front made to fit: both readers say the same."""
    length = int.from_bytes(GOOD[:8], "little")
    text, body = GOOD[8 : 8 + length], GOOD[8 + length :]
    start = data.draw(st.integers(0, length))
    end = data.draw(st.integers(start, min(length, start + 12)))
    json_like = st.text(st.sampled_from('{}[]",:0123456789-.eE \\untrF8I6_é\ud800'), max_size=12)
    inserted = data.draw(st.binary(max_size=4) | json_like.map(lambda s: s.encode("utf-8", "surrogatepass")))
    text = text[:start] + inserted + text[end:]
    path = tmp_path / "spliced.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)
    outcome = _package(path, None)
    assert outcome == _second(path)
    assert outcome != "true weights" or inserted == GOOD[8 + start : 8 + end]


VALUES = st.one_of(
    st.none() | st.booleans() | st.integers(-2, 60) | st.sampled_from([2**31, 2**53, 2**63, 2**64, 10**30, 1.0, 0.5]),
    st.sampled_from(["", "F32", "I8", "BOOL", "F4", "F6_E2M3", "f32", "unclone", "layer.weight", "\u00e9"]),
    st.sampled_from([[], [0, 32], [32, 0], [2, 4], [-1, 5], [8], [0, 2**63], [1] * 65, [True, 8], {}, {"a": "b"}]),
)


@given(st.data(), VALUES)
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_members_of_the_carrier_replaced(tmp_path: Path, data: st.DataObject, new: Any) -> None:
    """The safetensors header altered as JSON: both readers say the same."""
    length = int.from_bytes(GOOD[:8], "little")
    value = json.loads(GOOD[8 : 8 + length])
    name = data.draw(st.sampled_from(["mask", "layer.weight", "layer.bias", "__metadata__", "new", "\u00e9"]))
    member = data.draw(st.sampled_from(["dtype", "shape", "data_offsets", "odd", "unclone"]))
    if data.draw(st.booleans()) or not isinstance(value.get(name), dict):
        value[name] = new
    else:
        value[name][member] = new
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=data.draw(st.booleans())).encode()
    path = tmp_path / "replaced.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + GOOD[8 + length :])
    assert _package(path, None) == _second(path)
