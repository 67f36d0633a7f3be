"""Masking and unmasking of chunks: bytes in, bytes out (spec/bound-model.md, sections 5 and 6).

A masked chunk is an AEAD ciphertext whose keystream is applied only where the pattern has a bit set:
``masked = true XOR (keystream AND pattern)``, with the AEAD's own tag over ``masked``. With a pattern of all ones it
is the AEAD, to the bit. Keystreams are bound to (content key, file id, tensor, chunk) and never repeat.
"""

from __future__ import annotations

import secrets
import threading
import time
from typing import Final

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from numpy.typing import NDArray

from unclone.errors import UnsupportedError
from unclone.keys import ContentKeys

__all__ = ["ALL_BITS", "CHUNK", "CIPHERS", "TAG_BYTES", "ChunkCipher", "chunk_length", "faster_cipher", "tile"]

CHUNK: Final = 1 << 20
TAG_BYTES: Final = 16
ALL_BITS: Final = b"\xff"
CIPHERS: Final = ("aes-256-gcm", "chacha20-poly1305")

Buffer = NDArray[np.uint8]


def chunk_length(chunk: int, pattern: bytes) -> int:
    """Bytes of a tensor that one tag covers: the largest multiple of the pattern's length within ``chunk``."""
    return chunk - chunk % len(pattern)


def tile(pattern: bytes, nbytes: int) -> Buffer:
    """``pattern`` repeated over ``nbytes`` bytes."""
    return np.tile(np.frombuffer(pattern, dtype=np.uint8), -(-nbytes // len(pattern)))[:nbytes]


class ChunkCipher:
    """Masks and unmasks the chunks of one binding. Safe to share between threads: scratch memory is per thread."""

    def __init__(self, keys: ContentKeys, cipher: str) -> None:
        if cipher not in CIPHERS:
            raise UnsupportedError(f"cipher {cipher[:40]!r} is not known to this release; known: {', '.join(CIPHERS)}")
        self._key = keys.aead
        self._aes = cipher == CIPHERS[0]
        self._local = threading.local()

    def mask(self, tensor: int, chunk: int, pattern: Buffer | None, data: Buffer) -> bytes:
        """Mask ``data`` in place and return its tag, 16 bytes.

        Args:
            tensor: index of the tensor in the header.
            chunk: index of the chunk in the tensor.
            pattern: tiled pattern at least as long as ``data``; ``None`` for all bits.
            data: ``uint8``, shape ``(nbytes,)``.
        """
        nonce = _nonce(tensor, chunk)
        if pattern is not None:
            # Whiten the bits that stay clear, so that the keystream turns them back into themselves.
            whitening = self._scratch(data.size)
            whitening[:] = 0
            self._seal(nonce, whitening)
            _clear_where(whitening, pattern)
            np.bitwise_xor(data, whitening, out=data)
        return self._seal(nonce, data)

    def unmask(self, tensor: int, chunk: int, pattern: Buffer | None, data: Buffer, tag: bytes) -> bool:
        """Verify ``data`` against ``tag`` and unmask it in place; ``False`` on a mismatch, with ``data`` zeroed."""
        nonce = _nonce(tensor, chunk)
        opened = data if pattern is None else self._scratch(data.size)
        if not self._open(nonce, data, tag, opened):
            data[:] = 0
            return False
        if pattern is not None:
            # The keystream, restricted to the pattern: opened = masked XOR keystream.
            np.bitwise_xor(opened, data, out=opened)
            _keep_where(opened, pattern)
            np.bitwise_xor(data, opened, out=data)
        return True

    def _seal(self, nonce: bytes, data: Buffer) -> bytes:
        if self._aes:
            encryptor = Cipher(algorithms.AES(self._key), modes.GCM(nonce)).encryptor()
            encryptor.update_into(data.data, data.data)
            encryptor.finalize()
            return encryptor.tag
        sealed = ChaCha20Poly1305(self._key).encrypt(nonce, data.data, None)
        data[:] = np.frombuffer(sealed, dtype=np.uint8, count=data.size)
        return sealed[data.size :]

    def _open(self, nonce: bytes, data: Buffer, tag: bytes, out: Buffer) -> bool:
        try:
            if self._aes:
                decryptor = Cipher(algorithms.AES(self._key), modes.GCM(nonce, tag)).decryptor()
                decryptor.update_into(data.data, out.data)
                decryptor.finalize()
            else:
                opened = ChaCha20Poly1305(self._key).decrypt(nonce, data.tobytes() + tag, None)
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


def _keep_where(data: Buffer, pattern: Buffer) -> None:
    np.bitwise_and(data, pattern[: data.size], out=data)


def _clear_where(data: Buffer, pattern: Buffer) -> None:
    np.bitwise_and(data, ~pattern[: data.size], out=data)


def faster_cipher() -> str:
    """The cipher that masks faster on this processor: ChaCha20 wins where AES has no instructions."""
    data = np.zeros(1 << 18, dtype=np.uint8)
    key = secrets.token_bytes(32)
    pace = {}
    for name in CIPHERS:
        cipher = ChunkCipher(ContentKeys(key, key), name)
        cipher.mask(0, 0, None, data)
        start = time.perf_counter()
        cipher.mask(0, 1, None, data)
        pace[name] = time.perf_counter() - start
    # AES unless clearly slower: a busy moment should not flip the choice.
    return CIPHERS[1] if pace[CIPHERS[0]] > 2 * pace[CIPHERS[1]] else CIPHERS[0]


def _nonce(tensor: int, chunk: int) -> bytes:
    return tensor.to_bytes(4, "big") + chunk.to_bytes(8, "big")
