"""Masking: what the specification says, chunk by chunk, beside the second reader."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from hypothesis import given, settings
from hypothesis import strategies as st

from unclone.errors import UnsupportedError
from unclone.keys import ContentKeys
from unclone.mask import ALL_BITS, CIPHERS, ChunkCipher, Spans, Tile, chunk_length, faster_cipher

sys.path.insert(0, str(Path(__file__).parent.parent / "spec"))

import check_model

KEY = bytes(range(32))
KEYS = ContentKeys(KEY, bytes(32), bytes(32))
PATTERNS = st.binary(min_size=1, max_size=9)
CIPHER = st.sampled_from(CIPHERS)
INDEX = st.one_of(st.integers(0, 3), st.sampled_from([2**16, 2**32 - 1]))


def array(data: bytes) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.frombuffer(data, dtype=np.uint8).copy()


def tiled(pattern: bytes, nbytes: int) -> Tile | None:
    return None if pattern == ALL_BITS else Tile(pattern, nbytes)


@given(CIPHER, INDEX, INDEX, PATTERNS, st.binary(max_size=300))
@settings(max_examples=300, deadline=None)
def test_as_the_specification_says(cipher: str, tensor: int, chunk: int, pattern: bytes, data: bytes) -> None:
    block = array(data)
    tag = ChunkCipher(KEYS, cipher).mask(tensor, chunk, tiled(pattern, len(data)), block)
    nonce = tensor.to_bytes(4, "big") + chunk.to_bytes(8, "big")
    stream = check_model.keystream(cipher, KEY, nonce, len(data))
    repeated = (pattern * len(data))[: len(data)]
    assert block.tobytes() == bytes(a ^ (b & c) for a, b, c in zip(data, stream, repeated, strict=True))
    aead = AESGCM(KEY) if cipher == "aes-256-gcm" else ChaCha20Poly1305(KEY)
    assert aead.decrypt(nonce, block.tobytes() + tag, None) == bytes(
        a ^ b for a, b in zip(block.tobytes(), stream, strict=True)
    )


@given(CIPHER, PATTERNS, st.binary(max_size=300))
@settings(max_examples=200, deadline=None)
def test_unmask_inverts_mask(cipher: str, pattern: bytes, data: bytes) -> None:
    chunks = ChunkCipher(KEYS, cipher)
    block, pad = array(data), tiled(pattern, len(data))
    tag = chunks.mask(1, 2, pad, block)
    assert chunks.unmask(1, 2, pad, block, block, tag)
    assert block.tobytes() == data


@pytest.mark.parametrize("cipher", CIPHERS)
def test_all_bits_is_the_aead_itself(cipher: str) -> None:
    data = bytes(range(200))
    block = array(data)
    tag = ChunkCipher(KEYS, cipher).mask(0, 0, None, block)
    aead = AESGCM(KEY) if cipher == "aes-256-gcm" else ChaCha20Poly1305(KEY)
    assert block.tobytes() + tag == aead.encrypt(bytes(12), data, None)
    again = array(data)
    assert ChunkCipher(KEYS, cipher).mask(0, 0, Tile(b"\xff", 200), again) == tag
    assert again.tobytes() == block.tobytes()


@pytest.mark.parametrize("cipher", CIPHERS)
@pytest.mark.parametrize("pattern", [b"\xff", b"\xff\x3f"])
def test_every_altered_bit_is_found_and_nothing_is_handed_out(cipher: str, pattern: bytes) -> None:
    chunks, data, pad = ChunkCipher(KEYS, cipher), bytes(range(1, 20)), tiled(pattern, 19)
    block = array(data)
    tag = chunks.mask(0, 0, pad, block)
    for bit in range(8 * (len(data) + len(tag))):
        whole = bytearray(block.tobytes() + tag)
        whole[bit // 8] ^= 1 << bit % 8
        altered = array(bytes(whole[: len(data)]))
        assert not chunks.unmask(0, 0, pad, altered, altered, bytes(whole[len(data) :]))
        assert not altered.any()


@pytest.mark.parametrize("cipher", CIPHERS)
def test_tensor_chunk_key_and_cipher_are_bound(cipher: str) -> None:
    block = array(bytes(40))
    tag = ChunkCipher(KEYS, cipher).mask(3, 4, None, block)
    other = CIPHERS[1 - CIPHERS.index(cipher)]
    for chunks, tensor, chunk in [
        (ChunkCipher(KEYS, cipher), 4, 4),
        (ChunkCipher(KEYS, cipher), 3, 5),
        (ChunkCipher(ContentKeys(bytes(32), bytes(32), bytes(32)), cipher), 3, 4),
        (ChunkCipher(KEYS, other), 3, 4),
    ]:
        assert not chunks.unmask(tensor, chunk, None, block, block.copy(), tag)


@pytest.mark.parametrize("cipher", CIPHERS)
def test_views_are_masked_in_place_and_neighbours_untouched(cipher: str) -> None:
    whole = np.full(100, 7, dtype=np.uint8)
    chunks, pad = ChunkCipher(KEYS, cipher), Tile(b"\xff\x0f\x00", 60)
    tag = chunks.mask(0, 0, pad, whole[13:73])
    assert (whole[:13] == 7).all()
    assert (whole[73:] == 7).all()
    assert (whole[15:73:3] == 7).all()
    assert (whole[13:73] != 7).any()
    assert chunks.unmask(0, 0, pad, whole[13:73], whole[13:73], tag)
    assert (whole == 7).all()


@pytest.mark.parametrize("cipher", CIPHERS)
def test_a_longer_tile_serves_a_shorter_chunk(cipher: str) -> None:
    data, chunks = bytes(range(50)), ChunkCipher(KEYS, cipher)
    exact, longer = array(data), array(data)
    assert chunks.mask(0, 0, Tile(b"\x0f\xf0\x01", 50), exact) == chunks.mask(0, 0, Tile(b"\x0f\xf0\x01", 99), longer)
    assert exact.tobytes() == longer.tobytes()


@pytest.mark.parametrize("cipher", CIPHERS)
def test_threads_share_one_cipher(cipher: str) -> None:
    chunks, pad = ChunkCipher(KEYS, cipher), Tile(b"\xff\x7f", 5000)
    expected = []
    for number in range(32):
        block = np.full(5000, number, dtype=np.uint8)
        expected.append((chunks.mask(0, number, pad, block), block.tobytes()))
    made: dict[int, tuple[bytes, bytes]] = {}

    def work(numbers: range) -> None:
        for number in numbers:
            block = np.full(5000, number, dtype=np.uint8)
            made[number] = (chunks.mask(0, number, pad, block), block.tobytes())

    threads = [threading.Thread(target=work, args=(range(start, 32, 4),)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [made[number] for number in range(32)] == expected


@given(st.integers(1, 256).map(bytes), st.integers(1, 256).map(lambda units: units << 16))
def test_chunk_length(pattern: bytes, chunk: int) -> None:
    length = chunk_length(chunk, pattern)
    assert length % len(pattern) == 0
    assert chunk - len(pattern) < length <= chunk


@given(PATTERNS, st.integers(0, 100))
def test_tile(pattern: bytes, nbytes: int) -> None:
    repeated = (pattern * (nbytes // len(pattern) + 1))[:nbytes]
    assert Tile(pattern, nbytes).data.tobytes() == repeated
    data = np.full(nbytes, 0xFF, dtype=np.uint8)
    Tile(pattern, nbytes).keep(data)
    assert data.tobytes() == repeated


SPANS = st.lists(st.integers(0, 120), unique=True, max_size=8).map(
    lambda edges: [tuple(pair) for pair in zip(*[iter(sorted(edges))] * 2, strict=False)]
)


@given(CIPHER, PATTERNS, st.binary(min_size=120, max_size=140), SPANS, st.data())
@settings(max_examples=200, deadline=None)
def test_a_chunk_in_part(cipher: str, pattern: bytes, data: bytes, spans: Spans, choice: st.DataObject) -> None:
    chunks, pad, block = ChunkCipher(KEYS, cipher), tiled(pattern, len(data)), array(data)
    tag = chunks.mask(1, 2, pad, block, spans)
    inside = np.zeros(len(data), dtype=bool)
    for start, stop in spans:
        inside[start:stop] = True
    assert block[~inside].tobytes() == array(data)[~inside].tobytes()
    stream = np.frombuffer(
        check_model.keystream(cipher, KEY, bytes([0, 0, 0, 1, *bytes(7), 2]), int(inside.sum())), "u1"
    )
    repeated = array((pattern * len(data))[: len(data)])
    assert block[inside].tobytes() == (array(data)[inside] ^ (stream & repeated[inside])).tobytes()
    out = block.copy()
    assert chunks.unmask(1, 2, pad, block, out, tag, spans)
    assert out.tobytes() == data
    altered = block.copy()
    altered[choice.draw(st.integers(0, len(data) - 1))] ^= 1
    assert not chunks.unmask(1, 2, pad, altered, altered, tag, spans)
    assert not altered.any()


def test_unknown_cipher() -> None:
    with pytest.raises(UnsupportedError, match="aes-256-ctr"):
        ChunkCipher(KEYS, "aes-256-ctr")


def test_faster_cipher_is_a_known_one() -> None:
    assert faster_cipher() in CIPHERS
