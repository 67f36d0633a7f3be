"""Device records as files: round trips, and only errors of the public tree on anything else."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unclone import canonical
from unclone.device_file import RECORD_LIMIT, load_device, parse_device, render_device, save_device, seal_context
from unclone.errors import (
    OutputError,
    RecordAlteredError,
    RecordError,
    UnsupportedError,
)
from unclone.keys import HYBRID, SUITE
from unclone.records import Device, EnrollmentReport, HelperData

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
FIGURES = st.integers(-(2**53) + 1, 2**53 - 1)
NAMES = st.text(st.characters(max_codepoint=127), max_size=6)
FIELDS = st.dictionaries(
    NAMES,
    st.recursive(
        st.none() | st.booleans() | FIGURES | TEXT,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
        max_leaves=6,
    ),
    max_size=4,
)
KEYS = [(SUITE, 1), (HYBRID, 38)]
"""Suites, and the length of their public keys in 32 bytes."""
DEVICES = st.builds(
    lambda suite, seed, **members: Device(suite=suite[0], public_key=seed * suite[1], **members),
    suite=st.sampled_from(KEYS),
    seed=st.binary(min_size=32, max_size=32),
    name=TEXT,
    root=TEXT,
    source=TEXT,
    helper=st.builds(HelperData, TEXT, FIELDS),
    sealed_key=st.binary(min_size=48, max_size=48),
    report=st.builds(EnrollmentReport, *[FIGURES] * 9, st.lists(TEXT, max_size=3).map(tuple)),
)
EXPECTED = (RecordError, RecordAlteredError, UnsupportedError)
SMALL = Device(
    name="press-17",
    root="puf",
    source="sim:sram",
    suite=SUITE,
    public_key=bytes(range(32)),
    helper=HelperData("vector", {"offset": "00ff", "cells": [1, 2]}),
    sealed_key=bytes(range(48)),
    report=EnrollmentReport(5, 64, 500_000, 60_000, 1, 2, 3, 128, -9000, ("assumed",)),
)


def same(one: Device, other: Device) -> bool:
    """Equal, and indistinguishable to JSON: to Python, True is 1."""
    return one == other and render_device(one) == render_device(other)


@given(DEVICES)
@settings(deadline=None)
def test_round_trip(device: Device) -> None:
    assert same(parse_device(render_device(device)), device)


@given(DEVICES)
@settings(max_examples=50, deadline=None)
def test_white_space_and_order_carry_nothing(device: Device) -> None:
    value = json.loads(render_device(device))
    reordered = json.dumps(dict(reversed(value.items())), indent=7, ensure_ascii=False).encode()
    assert same(parse_device(reordered), device)
    assert seal_context(parse_device(reordered)) == seal_context(device)


@given(DEVICES)
@settings(max_examples=50, deadline=None)
def test_the_seal_context_is_the_record_without_seal_and_digest(device: Device) -> None:
    value = json.loads(render_device(device))
    del value["sealed_key"]
    del value["digest"]
    assert seal_context(device) == canonical.encode(value)


def test_every_bit_flipped_is_refused_or_the_same_device() -> None:
    data = render_device(SMALL)
    outcomes = {"altered": 0, "malformed": 0}
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            device = parse_device(bytes(flipped))
        except RecordAlteredError:
            outcomes["altered"] += 1
        except (RecordError, UnsupportedError):
            outcomes["malformed"] += 1
        else:
            assert same(device, SMALL)
    assert min(outcomes.values()) > 0


@given(st.binary(max_size=200))
def test_random_bytes(data: bytes) -> None:
    with pytest.raises(RecordError):
        parse_device(data)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)


def _paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else []
    return [found for name, item in items for found in [(*path, name), *_paths(item, (*path, name))]]


@given(st.data(), JSON, st.booleans())
@settings(max_examples=500, deadline=None)
def test_any_member_replaced_by_anything(data: st.DataObject, new: Any, redigest: bool) -> None:
    value = json.loads(render_device(SMALL))
    *parents, last = data.draw(st.sampled_from(_paths(value)))
    place = value
    for name in parents:
        place = place[name]
    place[last] = new
    if redigest and "digest" in value:
        rest = {name: item for name, item in value.items() if name != "digest"}
        text = json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()
        value["digest"] = hashlib.sha256(text).hexdigest()
    try:
        device = parse_device(json.dumps(value).encode())
    except EXPECTED:
        return
    assert json.loads(render_device(device)) == value


@given(st.data())
@settings(max_examples=500, deadline=None)
def test_text_spliced(data: st.DataObject) -> None:
    text = render_device(SMALL)
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(len(text), start + 20)))
    spliced = text[:start] + data.draw(st.binary(max_size=20)) + text[end:]
    try:
        device = parse_device(spliced)
    except EXPECTED:
        return
    assert same(device, SMALL)


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "press-17.device.json"
    save_device(SMALL, path)
    assert same(load_device(path), SMALL)
    with pytest.raises(OutputError, match="exists"):
        save_device(SMALL, path)
    save_device(SMALL, path, force=True)
    assert [item.name for item in tmp_path.iterdir()] == [path.name]


def test_errors_name_the_file(tmp_path: Path) -> None:
    path = tmp_path / "odd.device.json"
    with pytest.raises(RecordError, match=r"odd\.device\.json"):
        load_device(path)
    with pytest.raises(RecordError, match=tmp_path.name):
        load_device(tmp_path)
    for data, error in [
        (b"", RecordError),
        (b"{}", RecordError),
        (b"\x00" * 100, RecordError),
        (render_device(SMALL).replace(b"press-17", b"press-18"), RecordAlteredError),
        (render_device(SMALL).replace(b'"version": 1', b'"version": 2'), UnsupportedError),
    ]:
        path.write_bytes(data)
        with pytest.raises(error, match=r"odd\.device\.json"):
            load_device(path)


def test_oversized_records_are_refused_before_they_are_parsed(tmp_path: Path) -> None:
    path = tmp_path / "large.json"
    good = render_device(SMALL)
    path.write_bytes(good + b" " * (RECORD_LIMIT - len(good)))
    assert same(load_device(path), SMALL)
    path.write_bytes(good + b" " * (RECORD_LIMIT - len(good) + 1))
    with pytest.raises(RecordError, match=str(RECORD_LIMIT)):
        load_device(path)
