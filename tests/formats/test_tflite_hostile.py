"""TensorFlow Lite files meant to hurt, and every kind of damage."""

from __future__ import annotations

import contextlib
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tflite_models import Model, fully_connected, small_network

import unclone
from unclone.errors import (
    FormatError,
    KeyMaterialError,
    NotBoundError,
    TamperedError,
    TensorTamperedError,
    UncloneError,
)
from unclone.formats import detect
from unclone.formats.tflite import Tflite
from unclone.formats.tflite_wire import Source, Table
from unclone.records import Device, DeviceKey

CONTENT = small_network().build()


def root(content: bytes) -> int:
    return int(struct.unpack_from("<I", content)[0])


def field(content: bytes, table: int, number: int) -> int:
    """Where a field of a table lies."""
    vtable = table - int(struct.unpack_from("<i", content, table)[0])
    return table + int(struct.unpack_from("<H", content, vtable + 4 + 2 * number)[0])


def follow(content: bytes, place: int) -> int:
    return place + int(struct.unpack_from("<I", content, place)[0])


def put(place: Callable[[bytes], int], value: bytes) -> bytes:
    """The small network with other bytes at one place."""
    content = bytearray(CONTENT)
    at = place(CONTENT)
    content[at : at + len(value)] = value
    return bytes(content)


def top(number: int) -> Callable[[bytes], int]:
    return lambda content: field(content, root(content), number)


def first(number: int, then: int) -> Callable[[bytes], int]:
    """A field of the first table in a vector of the root."""

    def place(content: bytes) -> int:
        vector = follow(content, field(content, root(content), number))
        return field(content, follow(content, vector + 4), then)

    return place


def tensor(number: int, which: int = 1) -> Callable[[bytes], int]:
    """A field of a tensor; the second is a weight, the fifth a shape."""

    def place(content: bytes) -> int:
        vector = follow(content, first(2, 0)(content))
        return field(content, follow(content, vector + 4 + 4 * which), number)

    return place


def second_buffer(content: bytes) -> int:
    vector = follow(content, field(content, root(content), 4))
    return field(content, follow(content, vector + 8), 0)


def _vtable(content: bytes) -> int:
    return root(content) - int(struct.unpack_from("<i", content, root(content))[0])


def _bomb() -> bytes:
    """A hundred thousand names of one subgraph with a thousand names of one tensor, in half a megabyte."""
    content = bytearray(CONTENT) + bytes(-len(CONTENT) % 4)
    start, names, tensors = len(content), 100_000, 1000
    graph = start + 4 + 4 * names + 8  # after its vtable
    vector = graph + 8
    empty = vector + 4 + 4 * tensors + 4
    content += struct.pack("<I", names) + b"".join(struct.pack("<I", graph - start - 4 - 4 * n) for n in range(names))
    content += struct.pack("<HHHxx", 6, 8, 4) + struct.pack("<iI", 8, 4)
    content += struct.pack("<I", tensors)
    content += b"".join(struct.pack("<I", empty - vector - 4 - 4 * n) for n in range(tensors))
    content += struct.pack("<HHi", 4, 4, 4)
    place = field(content, root(content), 2)
    struct.pack_into("<I", content, place, start - place)
    return bytes(content)


FAR = struct.pack("<I", 0x7FFF_FFF0)
HOSTILE: dict[str, tuple[bytes, str]] = {
    "only the identifier": (b"\x08\0\0\0TFL3", "out of the file"),
    "seven bytes": (CONTENT[:7], "not a TensorFlow Lite model"),
    "root beyond the end": (FAR + CONTENT[4:], "out of the file"),
    "root over the identifier": (struct.pack("<I", 4) + CONTENT[4:], "over its identifier"),
    "root that leads to itself": (bytes(4) + CONTENT[4:], "out of the file"),
    "vtable before the file": (put(root, struct.pack("<i", 0x7FFF_FFFF)), "no vtable"),
    "vtable behind the file": (put(root, struct.pack("<i", -0x7FFF_0000)), "truncated or malformed"),
    "vtable of odd length": (put(_vtable, b"\x0b\0"), "vtable at byte"),
    "vtable without end": (put(_vtable, b"\xfe\xff"), "vtable at byte"),
    "table without end": (put(lambda c: _vtable(c) + 2, b"\xff\xff"), "vtable at byte"),
    "field outside its table": (put(lambda c: _vtable(c) + 6, b"\xf0\x0f"), "outside its table"),
    "buffers beyond the end": (put(top(4), FAR), "out of the file"),
    "a billion buffers": (put(lambda c: follow(c, top(4)(c)), b"\0\0\0\x40"), "a vector at byte"),
    "a billion tensors": (put(lambda c: follow(c, first(2, 0)(c)), b"\0\0\0\x40"), "a vector at byte"),
    "a buffer of 2 GB": (put(lambda c: follow(c, second_buffer(c)), b"\0\0\0\x7f"), "a vector at byte"),
    "a buffer that is not there": (put(tensor(2), struct.pack("<I", 999)), "in buffer 999"),
    "a shape that is larger": (put(lambda c: follow(c, tensor(0)(c)) + 4, struct.pack("<i", 13)), "bytes instead"),
    "a negative shape": (put(lambda c: follow(c, tensor(0)(c)) + 4, struct.pack("<i", -1)), "has the shape"),
    "another type": (put(tensor(1, 4), b"\x0a"), "bytes instead"),
    "a name without end": (put(lambda c: follow(c, tensor(3)(c)), FAR), "over the limit"),
    "a name that is no text": (put(lambda c: follow(c, tensor(3)(c)) + 4, b"\xff"), "not UTF-8"),
    "an operator without code": (
        put(lambda c: field(c, follow(c, follow(c, first(2, 3)(c)) + 8), 0), struct.pack("<I", 77)), "has code 77"
    ),
    "an input that is not there": (
        put(lambda c: follow(c, field(c, follow(c, follow(c, first(2, 3)(c)) + 4), 1)) + 4, struct.pack("<i", 4096)),
        "names a tensor that is not there",
    ),
    "weights over tables": (put(second_buffer, struct.pack("<I", 8)), "share the bytes|vector at byte|bytes instead"),
    "a graph named a million times": (_bomb(), "names its parts more than"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_with_what_is_wrong(name: str, tmp_path: Path) -> None:
    content, message = HOSTILE[name]
    (tmp_path / "m.tflite").write_bytes(content)
    for read in (Tflite().draft, Tflite().layout):
        with pytest.raises(FormatError, match=message):
            read(tmp_path / "m.tflite")


def test_weights_that_share_bytes_in_part_are_refused(tmp_path: Path) -> None:
    model = Model()
    x = model.tensor("x", [1, 8], "float32")
    # Each buffer holds what would be a buffer of its own within.
    inner = struct.pack("<I", 128) + bytes(128)
    w = model.tensor("w", [8, 8], "float32", bytes(100) + inner + bytes(24))
    v = model.tensor("v", [4, 8], "float32", np.ones(32, dtype=np.float32))
    y, z = model.tensor("y", [1, 8], "float32"), model.tensor("z", [1, 4], "float32")
    fully_connected(model, x, w, -1, y)
    fully_connected(model, y, v, -1, z)
    path = model.save(tmp_path / "m.tflite")
    outer = Tflite().layout(path).regions["w"].offset
    with Source(path) as source:
        buffers = Table(source, source.follow(0), 10).vector(4)
        assert buffers is not None
        place = Table(source, buffers.targets()[2], 3).place(0, 4)
    content = bytearray(path.read_bytes())
    assert place < outer
    struct.pack_into("<I", content, place, outer + 100 - place)
    path.write_bytes(content)
    for read in (Tflite().draft, Tflite().layout):
        with pytest.raises(FormatError, match="share the bytes"):
            read(path)


def test_memory_is_bounded_by_what_describes_the_model(tmp_path: Path) -> None:
    model = small_network()
    model.constant("large", np.zeros(1 << 22, dtype=np.float32))
    path = model.save(tmp_path / "m.tflite")
    tracemalloc.start()
    Tflite().draft(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert path.stat().st_size > 16 << 20
    assert peak < 1 << 20


def test_a_file_cut_off_anywhere_is_refused_or_whole(tmp_path: Path) -> None:
    path = tmp_path / "m.tflite"
    whole = set(Tflite().layout(small_network().save(path)).regions)
    for length in range(len(CONTENT)):
        path.write_bytes(CONTENT[:length])
        try:
            regions = Tflite().layout(path).regions
        except FormatError:
            continue
        # Only bytes that nothing names can go: padding at the end.
        assert set(regions) == whole
        assert length > len(CONTENT) - 64


def test_any_flipped_bit_of_a_bound_model_is_noticed(tmp_path: Path, device: Device, key: DeviceKey) -> None:
    path, bound = small_network().save(tmp_path / "m.tflite"), tmp_path / "b.tflite"
    unclone.bind(path, device, bound)
    content = bound.read_bytes()
    rng = np.random.default_rng(7)
    regions = Tflite().layout(bound).regions
    masked = [regions[name] for name in ("w1", "b1", "w2")]
    header = Tflite().layout(bound).header_offset
    places = {*range(64), *range(header - 40, header + 40), *rng.integers(0, len(content), 150).tolist()}
    changed = tmp_path / "c.tflite"
    for place in sorted(places):
        altered = bytearray(content)
        altered[place] ^= 1 << int(rng.integers(8))
        changed.write_bytes(altered)
        with pytest.raises((FormatError, KeyMaterialError, NotBoundError, TamperedError)) as caught:
            unclone.restore(changed, key)
        if any(region.offset <= place < region.offset + region.nbytes for region in masked):
            assert isinstance(caught.value, TensorTamperedError)


@settings(max_examples=250, deadline=None)
@given(data=st.data())
def test_damage_never_escapes_the_error_tree(
    tmp_path_factory: pytest.TempPathFactory, device: Device, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    path = folder / "m.tflite"
    content = bytearray(CONTENT)
    if data.draw(st.booleans()):
        path.write_bytes(content)
        unclone.bind(path, device, folder / "b.tflite")
        content = bytearray((folder / "b.tflite").read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 4))
        value = data.draw(
            st.one_of(
                st.binary(max_size=4), st.sampled_from([bytes(4), b"\xff" * 4, FAR, b"\x01\0\0\0", b"\0\0\0\x80"])
            )
        )
        content[place : place + len(value)] = value
    path.write_bytes(content)
    for read in (Tflite().draft, Tflite().layout):
        with contextlib.suppress(UncloneError):
            read(path)


def test_content_decides(tmp_path: Path) -> None:
    (tmp_path / "m.bin").write_bytes(CONTENT)
    assert detect(tmp_path / "m.bin").name == "tflite"
    (tmp_path / "m.tflite").write_bytes(b"\x1c\0\0\0TFL4" + CONTENT[8:])
    with pytest.raises(FormatError, match="called a tflite model but is damaged"):
        detect(tmp_path / "m.tflite")
