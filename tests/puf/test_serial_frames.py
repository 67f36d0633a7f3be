"""Frames of the serial protocol: every payload comes back, noise does not."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from unclone.puf.serial_frames import MAX_ENCODED, MAX_PAYLOAD, Frame, FrameReader, decode, encode

payloads = st.binary(max_size=MAX_PAYLOAD)


def test_a_frame_as_the_specification_has_it() -> None:
    # Version 1, identify, sequence 7 and its CRC-32 by zlib; no zero within, so COBS adds one byte.
    assert encode(1, 7).hex() == "0008010107c717fc7900"


@given(payloads, st.integers(0, 255), st.integers(0, 255))
def test_round_trip(payload: bytes, kind: int, sequence: int) -> None:
    line = encode(kind, sequence, payload)
    assert line.count(0) == 2
    assert len(line) - 2 <= MAX_ENCODED
    assert decode(line[1:-1]) == Frame(1, kind, sequence, payload)


@given(st.binary(max_size=600), payloads, st.integers(1, 50))
def test_a_frame_after_any_noise_in_any_pieces(noise: bytes, payload: bytes, step: int) -> None:
    reader = FrameReader()
    line = noise + encode(3, 9, payload)
    frames = [frame for at in range(0, len(line), step) for frame in reader.feed(line[at : at + step])]
    assert frames[-1] == Frame(1, 3, 9, payload)


@given(payloads, st.data())
def test_a_flipped_bit_is_noticed(payload: bytes, data: st.DataObject) -> None:
    inner = bytearray(encode(3, 9, payload)[1:-1])
    at = data.draw(st.integers(0, len(inner) - 1))
    inner[at] ^= 1 << data.draw(st.integers(0, 7))
    assert decode(bytes(inner)) != Frame(1, 3, 9, payload)


def test_noise_is_no_frame_and_memory_stays_bounded() -> None:
    reader = FrameReader()
    noise = np.random.default_rng(1).integers(1, 256, 100_000, dtype=np.uint8).tobytes()
    assert reader.feed(noise) == []
    assert len(reader._open) <= MAX_ENCODED + 1
