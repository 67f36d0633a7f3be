"""Masking and unmasking of chunks: bytes in, bytes out (spec/bound-model.md, sections 5 and 6).

A masked chunk is an AEAD ciphertext whose keystream is applied only where the pattern has a bit set:
``masked = true XOR (keystream AND pattern)``, with the AEAD's own tag over ``masked``. With a pattern of all ones it
is the AEAD, to the bit. Of a chunk that is masked in part, the other bytes have a tag of their own. Keystreams are
bound to (content key, file id, tensor, chunk) and never repeat.
"""

from __future__ import annotations

import hmac
import secrets
import threading
import time
from typing import Final

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, CipherAlgorithm, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.ciphers.modes import Mode
from numpy.typing import NDArray

from unclone.errors import UnsupportedError
from unclone.keys import ContentKeys

__all__ = [
    "ALL_BITS",
    "CHUNK",
    "CIPHERS",
    "TAG_BYTES",
    "ChunkCipher",
    "Spans",
    "Tile",
    "chunk_length",
    "faster_cipher",
    "tile_of",
]

CHUNK: Final = 1 << 20
TAG_BYTES: Final = 16
_CLEAR: Final = 1 << 31  # in the nonce: the tag of a chunk's clear bytes
ALL_BITS: Final = b"\xff"
CIPHERS: Final = ("aes-256-gcm", "chacha20-poly1305")

Buffer = NDArray[np.uint8]
Spans = list[tuple[int, int]]
"""Ranges of a chunk, (first byte, byte after the last)."""


def chunk_length(chunk: int, pattern: bytes) -> int:
    """Bytes of a tensor that one tag covers: the largest multiple of the pattern's length within ``chunk``."""
    return chunk - chunk % len(pattern)


class Tile:
    """A bit pattern repeated over a chunk.

    Args:
        pattern: bytes of one period, or of the whole chunk.
        nbytes: length of the longest chunk it serves.
    """

    def __init__(self, pattern: bytes | Buffer, nbytes: int) -> None:
        period = np.frombuffer(pattern, dtype=np.uint8)
        self._period = period.size
        self.data: Buffer = np.tile(period, -(-nbytes // period.size))[:nbytes]
        # A word is an operand that stays in a register: one stream less to read.
        self._word = np.tile(period, 8 // period.size).view(np.uint64)[0] if 8 % period.size == 0 else None

    def keep(self, data: Buffer) -> None:
        """Clear the bits of ``data`` that the pattern has not."""
        if self._word is not None and data.size % 8 == 0 and data.ctypes.data % 8 == 0:
            words = data.view(np.uint64)
            np.bitwise_and(words, self._word, out=words)
        else:
            np.bitwise_and(data, self.data[: data.size], out=data)

    def within(self, spans: Spans) -> Tile:
        """The pattern of the bytes in ``spans``, one after the other."""
        if all(start % self._period == 0 and stop % self._period == 0 for start, stop in spans):
            return self  # each range begins where the pattern does
        part = gather(self.data, spans)
        return Tile(part, part.size)


def tile_of(pattern: bytes, chunk: int) -> Tile | None:
    """The tile of a tensor's pattern for chunks of ``chunk`` bytes; ``None`` for all bits."""
    return None if pattern == ALL_BITS else Tile(pattern, chunk_length(chunk, pattern))


def gather(data: Buffer, spans: Spans) -> Buffer:
    """The bytes in ``spans``, one after the other: a view of ``data`` where there is but one, else a new array."""
    if len(spans) == 1:
        start, stop = spans[0]
        return data[start:stop]
    return np.concatenate([data[start:stop] for start, stop in spans]) if spans else np.empty(0, dtype=np.uint8)


def scatter(part: Buffer, spans: Spans, out: Buffer) -> None:
    """The opposite of ``gather``: nothing is left to do for a view."""
    if len(spans) == 1:
        return
    position = 0
    for start, stop in spans:
        out[start:stop] = part[position : position + stop - start]
        position += stop - start


def _outside(nbytes: int, spans: Spans) -> Spans:
    edges = [0, *(edge for span in spans for edge in span), nbytes]
    return [(edges[i], edges[i + 1]) for i in range(0, len(edges), 2) if edges[i] < edges[i + 1]]


class ChunkCipher:
    """Masks and unmasks the chunks of one binding. Safe to share between threads: scratch memory is per thread."""

    def __init__(self, keys: ContentKeys, cipher: str) -> None:
        if cipher not in CIPHERS:
            raise UnsupportedError(f"cipher {cipher[:40]!r} is not known to this release; known: {', '.join(CIPHERS)}")
        self._key = keys.aead
        self._aes = cipher == CIPHERS[0]
        self._local = threading.local()

    @property
    def key(self) -> bytes:
        """The key of every keystream of the binding, for ciphers elsewhere than on this processor."""
        return self._key

    def mask(self, tensor: int, chunk: int, pattern: Tile | None, data: Buffer, spans: Spans | None = None) -> bytes:
        """Mask ``data`` in place and return its tag, 16 bytes, or 32 with ``spans``: for the masked part and the rest.

        Args:
            tensor: index of the tensor in the header.
            chunk: index of the chunk in the tensor.
            pattern: of at least the length of ``data``; ``None`` for all bits.
            data: ``uint8``, shape ``(nbytes,)``.
            spans: the ranges to mask, ascending and apart; the rest is authenticated and stays. ``None``: everything.
        """
        nonce = _nonce(tensor, chunk)
        if spans is None:
            return self._mask(nonce, pattern, data)
        part = gather(data, spans)
        tag = self._mask(nonce, pattern.within(spans) if pattern and spans else None, part)
        scatter(part, spans, data)
        return tag + self._clear_tag(tensor, chunk, data, spans)

    def unmask(
        self,
        tensor: int,
        chunk: int,
        pattern: Tile | None,
        masked: Buffer,
        out: Buffer,
        tag: bytes,
        spans: Spans | None = None,
        *,
        verify_clear: bool = True,
    ) -> bool:
        """Verify ``masked`` against ``tag`` and unmask it into ``out``; ``False`` on a mismatch, with ``out`` zeroed.

        With ``spans``, ``out`` holds the bytes of ``masked`` already, or is the same memory; the bytes outside the
        spans are not read without ``verify_clear``.
        """
        nonce = _nonce(tensor, chunk)
        if spans is None:
            return self._unmask(nonce, pattern, masked, out, tag)
        part = gather(masked, spans)
        opened = gather(out, spans) if len(spans) == 1 else part
        tile = pattern.within(spans) if pattern and spans else None
        whole = not verify_clear or hmac.compare_digest(self._clear_tag(tensor, chunk, masked, spans), tag[TAG_BYTES:])
        if not whole or not self._unmask(nonce, tile, part, opened, tag[:TAG_BYTES]):
            out[:] = 0
            return False
        scatter(opened, spans, out)
        return True

    def _clear_tag(self, tensor: int, chunk: int, data: Buffer, spans: Spans) -> bytes:
        """The tag of the bytes outside ``spans``: associated data of an empty message."""
        clear = [data[start:stop] for start, stop in _outside(data.size, spans)]
        return self._seal(_nonce(tensor | _CLEAR, chunk), np.empty(0, dtype=np.uint8), clear)

    def keystream(self, tensor: int, chunk: int, nbytes: int) -> Buffer:
        """The bytes that the cipher XORs to a chunk."""
        return self._stream_into(_nonce(tensor, chunk), np.empty(nbytes, dtype=np.uint8))

    def _mask(self, nonce: bytes, pattern: Tile | None, data: Buffer) -> bytes:
        if pattern is not None:
            # Whiten the bits that stay clear, so that the keystream turns them back into themselves.
            whitening = self._stream_into(nonce, self._scratch(data.size))
            np.bitwise_xor(data, whitening, out=data)
            pattern.keep(whitening)
            np.bitwise_xor(data, whitening, out=data)
        return self._seal(nonce, data, [])

    def _unmask(self, nonce: bytes, pattern: Tile | None, masked: Buffer, out: Buffer, tag: bytes) -> bool:
        if pattern is not None and np.may_share_memory(masked, out):
            masked = self._scratch(out.size)
            masked[:] = out
        if not self._open(nonce, masked, tag, out):
            out[:] = 0
            return False
        if pattern is not None:
            # out = masked XOR keystream; the keystream, restricted to the pattern, gives the true bytes.
            np.bitwise_xor(out, masked, out=out)
            pattern.keep(out)
            np.bitwise_xor(out, masked, out=out)
        return True

    def _stream_into(self, nonce: bytes, out: Buffer) -> Buffer:
        """The keystream: zeros, enciphered."""
        mode: tuple[CipherAlgorithm, Mode | None]
        if self._aes:  # GCM itself, whose code interleaves blocks: twice as fast as OpenSSL's counter mode
            mode = algorithms.AES(self._key), modes.GCM(nonce)
        else:  # RFC 8439, section 2.8: from the block after the one-time authenticator's key
            mode = algorithms.ChaCha20(self._key, (1).to_bytes(4, "little") + nonce), None
        out[:] = 0
        Cipher(*mode).encryptor().update_into(out.data, out.data)
        return out

    def _seal(self, nonce: bytes, data: Buffer, clear: list[Buffer]) -> bytes:
        if self._aes:
            encryptor = Cipher(algorithms.AES(self._key), modes.GCM(nonce)).encryptor()
            for part in clear:
                encryptor.authenticate_additional_data(part.data)
            encryptor.update_into(data.data, data.data)
            encryptor.finalize()
            return encryptor.tag
        sealed = ChaCha20Poly1305(self._key).encrypt(nonce, data.data, _joined(clear))
        data[:] = np.frombuffer(sealed, dtype=np.uint8, count=data.size)
        return sealed[data.size :]

    def _open(self, nonce: bytes, masked: Buffer, tag: bytes, out: Buffer) -> bool:
        try:
            if self._aes:
                decryptor = Cipher(algorithms.AES(self._key), modes.GCM(nonce, tag)).decryptor()
                decryptor.update_into(masked.data, out.data)
                decryptor.finalize()
            else:
                opened = ChaCha20Poly1305(self._key).decrypt(nonce, masked.tobytes() + tag, None)
                out[:] = np.frombuffer(opened, dtype=np.uint8)
        except InvalidTag:
            return False
        return True

    def _scratch(self, nbytes: int) -> Buffer:
        # Of a chunk's size, so that it stays in the second-level cache from the cipher to the XOR.
        scratch: Buffer | None = getattr(self._local, "scratch", None)
        if scratch is None or scratch.size < nbytes:
            scratch = self._local.scratch = np.empty(max(nbytes, 4096), dtype=np.uint8)
        return scratch[:nbytes]


def _joined(parts: list[Buffer]) -> bytes | None:
    return b"".join(part.tobytes() for part in parts) or None


def faster_cipher() -> str:
    """The cipher that masks faster on this processor: ChaCha20 wins where AES has no instructions."""
    data = np.zeros(1 << 18, dtype=np.uint8)
    key = secrets.token_bytes(32)
    pace = {}
    for name in CIPHERS:
        cipher = ChunkCipher(ContentKeys(key, key, key), name)
        cipher.mask(0, 0, None, data)
        start = time.perf_counter()
        cipher.mask(0, 1, None, data)
        pace[name] = time.perf_counter() - start
    # AES unless clearly slower: a busy moment should not flip the choice.
    return CIPHERS[1] if pace[CIPHERS[0]] > 2 * pace[CIPHERS[1]] else CIPHERS[0]


def _nonce(tensor: int, chunk: int) -> bytes:
    return tensor.to_bytes(4, "big") + chunk.to_bytes(8, "big")
