"""Bound models with a fault in the carrier or in the weights; part of model_faults.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

import check_model
from model_vectors import base, safetensors

from unclone.errors import (
    FormatError,
    HeaderTamperedError,
    NotBoundError,
    TensorTamperedError,
    UnsupportedError,
)

if TYPE_CHECKING:
    from model_faults import Faults

OPENING = check_model.OPENING


def make(faults: Faults) -> None:
    """Write them."""
    _carrier(faults)
    _weights(faults)


def _carrier(faults: Faults) -> None:
    model, good = faults.model, faults.model.file()
    add = faults.add
    add("ordinary", safetensors(base()), "an ordinary model", NotBoundError)
    add("empty", b"", "an empty file", FormatError)
    for name, size in [("length", 5), ("json", 200), ("weights", len(good) - 1)]:
        add(f"truncated-{name}", good[:size], f"truncated to {size} bytes", FormatError)
    add("trailing", good + b"\x00", "a byte after the last tensor", FormatError)
    for name, length in [("2g", 2**31), ("limit", 100_000_001), ("huge", 2**64 - 1)]:
        add(f"oversized-{name}", length.to_bytes(8, "little") + good[8:], f"a header of {length} bytes", FormatError)
    for name, old, new, what, error in [
        ("duplicate", b'"mask":{', b'"layer.bias":{', "a tensor stands twice", FormatError),
        ("dtype", b'"BOOL"', b'"BOOM"', "an unknown dtype", UnsupportedError),
        ("shape", b'"shape":[2]', b'"shape":[3]', "a shape that does not fit its bytes", FormatError),
        ("overlap", b'"data_offsets":[40,48]', b'"data_offsets":[39,47]', "tensors overlap", FormatError),
        ("member", b'"dtype":"BOOL",', b'"dtype":"BOOL","odd":1,', "an unknown member of a tensor", FormatError),
        ("renamed", b'"layer.bias":{', b'"layer.bios":{', "a masked tensor renamed", HeaderTamperedError),
        ("retyped", b'"dtype":"F32"', b'"dtype":"I32"', "a masked tensor of another dtype", HeaderTamperedError),
        ("reshaped", b'"shape":[2,4]', b'"shape":[4,2]', "a masked tensor of another shape", HeaderTamperedError),
        ("clear-renamed", b'"mask":{', b'"mosk":{', "a clear tensor renamed", HeaderTamperedError),
        ("spelled", b'"mask":{', b'"m\\u0061sk":{', "a name spelled with an escape", HeaderTamperedError),
        ("metadata", b'"},"', b'","odd":""},"', "another metadata entry added", HeaderTamperedError),
        ("metadata-type", b'"},"', b'","odd":1},"', "a metadata entry that is no string", FormatError),
    ]:
        if old not in model.rest:
            raise ValueError(f"{name}: {old!r} is not in {model.rest!r}")
        add(f"carrier-{name}", model.file(rest=model.rest.replace(old, new, 1)), f"carrier: {what}", error)
    add("carrier-padding", model.file(rest=model.rest + b" "), "carrier: padding added", HeaderTamperedError)
    swapped = model.rest.replace(b"[32,40]", b"[x]").replace(b"[40,48]", b"[32,40]").replace(b"[x]", b"[40,48]")
    add("carrier-swapped", model.file(rest=swapped), "carrier: two masked tensors change places", HeaderTamperedError)
    moved = b'{"__metadata__":{"a":"","unclone":"' + good[8 + len(OPENING) : -len(model.body)]
    moved = len(moved).to_bytes(8, "little") + moved + model.body
    add("carrier-place", moved, "carrier: the header is not the first metadata entry", FormatError)
    respelled = good.replace(b'\\"bits\\"', b'\\u0022bits\\"', 1)
    respelled = (int.from_bytes(good[:8], "little") + 4).to_bytes(8, "little") + respelled[8:]
    add("carrier-quote", respelled, "carrier: a quote of the header escaped another way", FormatError)


def _weights(faults: Faults) -> None:
    model = faults.model

    def changed(position: int, mask: int) -> bytes:
        body = bytearray(model.body)
        body[position] ^= mask
        return model.file(body=bytes(body))

    weight, bias, clear = model.start("layer.weight"), model.start("layer.bias"), model.start("mask")
    pattern = bytes.fromhex(model.header["tensors"][0]["pattern"])
    outside = ~pattern[3] & 0x7F
    if not outside:
        raise ValueError("the pattern leaves no exponent bit in clear")
    for name, position, mask, what, tensor in [
        ("first", weight, 1, "first masked byte altered", "layer.weight"),
        ("last", bias - 1, 0x80, "last masked byte altered", "layer.weight"),
        ("outside", weight + 3, outside & -outside, "a bit outside the pattern altered", "layer.weight"),
        ("second", bias, 1, "second tensor altered", "layer.bias"),
    ]:
        faults.add(f"weights-{name}", changed(position, mask), what, TensorTamperedError, tensor=tensor)
    faults.add("weights-clear", changed(clear, 1), "a byte of a clear tensor altered", HeaderTamperedError)
    other = model.start("other.bias")
    body = bytearray(model.body)
    body[bias : bias + 8], body[other : other + 8] = body[other : other + 8], body[bias : bias + 8]
    what = "the bytes of two masked tensors change places"
    faults.add("weights-swapped", model.file(body=bytes(body)), what, TensorTamperedError, tensor="layer.bias")
