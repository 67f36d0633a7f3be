"""The header's parser: round trips, and only errors of the public tree on anything else."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unclone import canonical
from unclone.errors import FormatError, UnsupportedError
from unclone.header import encode_header, mac_input, parse_header
from unclone.keys import SUITE, SUITES
from unclone.mask import CIPHERS, chunk_length
from unclone.records import ClearTensor, Header, MaskedTensor, Selection, Slot

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)
SHAPES = st.lists(st.integers(0, 2**53 - 1), max_size=5).map(tuple)


@st.composite
def headers(draw: st.DrawFn) -> Header:
    chunk = draw(st.integers(1, 256)) << 16
    block = draw(st.sampled_from([0, 4096, 65536]))
    names = iter(draw(st.lists(TEXT, min_size=7, max_size=7, unique=True)))
    tensors, plan = [], []
    for _ in range(draw(st.integers(1, 4))):
        pattern, nbytes = draw(st.binary(min_size=1, max_size=256)), draw(st.integers(0, 300_000))
        count = (32 if block else 16) * -(-nbytes // chunk_length(chunk, pattern))
        tags = draw(st.binary(min_size=count, max_size=count))
        plan.append((nbytes, pattern))
        tensors.append(MaskedTensor(next(names), draw(TEXT), draw(SHAPES), nbytes, pattern, tags))
    clear = [ClearTensor(next(names), draw(TEXT), draw(SHAPES), draw(TEXT)) for _ in range(draw(st.integers(0, 3)))]
    sizes = [(nbytes, chunk_length(chunk, pattern)) for nbytes, pattern in plan]
    blocks = sum(-(-min(step, n - at) // block) for n, step in sizes for at in range(0, n, step)) if block else 0
    positions = draw(st.binary(min_size=(n := -(-blocks // 8) + 16 if block else 0), max_size=n))
    share = draw(st.integers(1, 999_999))
    part = st.sampled_from(["blocks", "magnitude", "first-layers", "saliency"]) if block else st.just("random")
    selection = Selection(draw(part), share, block, positions) if block or draw(st.booleans()) else Selection()
    slots = st.sampled_from(list(SUITES.values())).flatmap(
        lambda suite: st.builds(
            Slot,
            st.just(suite.name),
            st.binary(min_size=8, max_size=8),
            st.binary(min_size=8, max_size=8).map(lambda seed: (seed * suite.sealed_bytes)[: suite.sealed_bytes]),
        )
    )
    return Header(
        version=1,
        file_id=draw(st.binary(min_size=16, max_size=16)),
        format=draw(TEXT),
        cipher=draw(st.sampled_from(CIPHERS)),
        bits=draw(st.sampled_from(["finite", "all"])),
        chunk=chunk,
        selection=selection,
        tensors=tuple(tensors),
        clear=tuple(clear),
        slots=tuple(draw(st.lists(slots, max_size=3))),
        mac=draw(st.binary(min_size=32, max_size=32)),
    )


SMALL = Header(
    version=1,
    file_id=bytes(range(16)),
    format="safetensors",
    cipher="aes-256-gcm",
    bits="finite",
    chunk=65536,
    selection=Selection(),
    tensors=(MaskedTensor("w", "float32", (2, 2), 16, b"\xff\xff\xff\xbf", bytes(16)),),
    clear=(ClearTensor("ids", "int64", (1,), "index"),),
    slots=(Slot(SUITE, bytes(8), bytes(SUITES[SUITE].sealed_bytes)),),
    mac=bytes(32),
)


@given(headers())
@settings(deadline=None)
def test_round_trip(header: Header) -> None:
    text = encode_header(header)
    assert parse_header(text) == header
    assert text.isascii()


@given(headers())
@settings(max_examples=30, deadline=None)
def test_the_mac_covers_everything_but_itself(header: Header) -> None:
    value = json.loads(encode_header(header))
    del value["mac"]
    assert mac_input(header) == canonical.encode(value)


@given(st.binary(max_size=200))
def test_random_bytes(data: bytes) -> None:
    with pytest.raises(FormatError):
        parse_header(data)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)


def _paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else []
    return [found for name, item in items for found in [(*path, name), *_paths(item, (*path, name))]]


@given(st.data(), JSON)
@settings(max_examples=500, deadline=None)
def test_any_member_replaced_by_anything(data: st.DataObject, new: Any) -> None:
    value = json.loads(encode_header(SMALL))
    *parents, last = data.draw(st.sampled_from(_paths(value)))
    place = value
    for name in parents:
        place = place[name]
    place[last] = new
    text = json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
    try:
        parsed = parse_header(text)
    except FormatError:
        return
    assert encode_header(parsed) == text


@given(st.data())
@settings(max_examples=500, deadline=None)
def test_text_spliced(data: st.DataObject) -> None:
    text = encode_header(SMALL)
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(len(text), start + 20)))
    spliced = text[:start] + data.draw(st.binary(max_size=20)) + text[end:]
    try:
        parsed = parse_header(spliced)
    except FormatError:
        return
    assert encode_header(parsed) == spliced


def test_every_bit_flipped_is_refused_or_read_as_what_it_says() -> None:
    text = encode_header(SMALL)
    read = 0
    for bit in range(8 * len(text)):
        flipped = bytearray(text)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            parsed = parse_header(bytes(flipped))
        except FormatError:
            continue
        assert encode_header(parsed) == bytes(flipped)
        assert parsed != SMALL
        read += 1
    assert read > 0


@pytest.mark.parametrize("version", [0, 2, 99, -1])
def test_another_version_is_named(version: int) -> None:
    value = {**json.loads(encode_header(SMALL)), "version": version, "new": {"member": 1}}
    with pytest.raises(UnsupportedError, match=f"version {version};"):
        parse_header(canonical.encode(value))


def test_errors_name_the_member() -> None:
    base = json.loads(encode_header(SMALL))
    for name in base:
        value = copy.deepcopy(base)
        del value[name]
        with pytest.raises(FormatError, match=name):
            parse_header(canonical.encode(value))


def test_secrets_and_bulk_stay_out_of_reprs() -> None:
    header = Header(**{name: getattr(SMALL, name) for name in Header.__slots__})
    assert "tags" not in repr(header.tensors[0])
    assert "sealed" not in repr(header.slots[0])
