"""Masking and unmasking of chunks: bytes in, bytes out (spec/bound-model.md, sections 5 and 6).

A chunk whose pattern is all ones is encrypted and authenticated by the AEAD. Any other chunk is XORed with
``keystream AND pattern``, and the tag covers its masked bytes. Keystreams are bound to (content key, file id,
tensor, chunk) and never repeat: every binding has a fresh content key.
"""

from __future__ import annotations

import hmac
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
    """``pattern`` repeated over ``nbytes`` bytes, padded to whole 64-bit words."""
    padded = -(-nbytes // 8) * 8
    return np.resize(np.frombuffer(pattern, dtype=np.uint8), padded)


class ChunkCipher:
    """Masks and unmasks the chunks of one binding. Safe to share between threads: scratch memory is per thread."""

    def __init__(self, keys: ContentKeys, cipher: str) -> None:
        if cipher not in CIPHERS:
            raise UnsupportedError(f"cipher {cipher[:40]!r} is not known to this release; known: {', '.join(CIPHERS)}")
        self._keys = keys
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
            self._xor(nonce, pattern, data, data)
            return self._tag(nonce, data)
        if self._aes:
            encryptor = Cipher(algorithms.AES(self._keys.aead), modes.GCM(nonce)).encryptor()
            encryptor.update_into(data.data, data.data)
            encryptor.finalize()
            return encryptor.tag
        sealed = ChaCha20Poly1305(self._keys.aead).encrypt(nonce, data.data, None)
        data[:] = np.frombuffer(sealed, dtype=np.uint8, count=data.size)
        return sealed[data.size :]

    def unmask(self, tensor: int, chunk: int, pattern: Buffer | None, data: Buffer, tag: bytes, out: Buffer) -> bool:
        """Verify ``data`` against ``tag`` and write the true bytes to ``out``.

        ``data`` and ``out`` have the same length and may be the same memory. Returns ``False`` on a mismatch, with
        ``out`` zeroed.
        """
        nonce = _nonce(tensor, chunk)
        try:
            if pattern is not None:
                if not hmac.compare_digest(self._tag(nonce, data), tag):
                    raise InvalidTag
                self._xor(nonce, pattern, data, out)
            elif self._aes:
                decryptor = Cipher(algorithms.AES(self._keys.aead), modes.GCM(nonce, tag)).decryptor()
                decryptor.update_into(data.data, out.data)
                decryptor.finalize()
            else:
                plain = ChaCha20Poly1305(self._keys.aead).decrypt(nonce, data.tobytes() + tag, None)
                out[:] = np.frombuffer(plain, dtype=np.uint8)
        except InvalidTag:
            out[:] = 0
            return False
        return True

    def _tag(self, nonce: bytes, data: Buffer) -> bytes:
        if self._aes:
            encryptor = Cipher(algorithms.AES(self._keys.tag), modes.GCM(nonce)).encryptor()
            encryptor.authenticate_additional_data(data.data)
            encryptor.finalize()
            return encryptor.tag
        return ChaCha20Poly1305(self._keys.tag).encrypt(nonce, b"", data.data)

    def _xor(self, nonce: bytes, pattern: Buffer, data: Buffer, out: Buffer) -> None:
        stream, zeros = self._scratch(data.size)
        words = -(-data.size // 8)
        cipher = (
            Cipher(algorithms.AES(self._keys.mask), modes.CTR(nonce + bytes(4)))
            if self._aes
            else Cipher(algorithms.ChaCha20(self._keys.mask, bytes(4) + nonce), mode=None)
        )
        cipher.encryptor().update_into(zeros[: data.size].data, stream.data)
        keystream = stream.view(np.uint64)[:words]
        np.bitwise_and(keystream, pattern.view(np.uint64)[:words], out=keystream)
        np.bitwise_xor(data, stream[: data.size], out=out)

    def _scratch(self, nbytes: int) -> tuple[Buffer, Buffer]:
        # The keystream stays in the second-level cache from the cipher to the XOR.
        if getattr(self._local, "size", -1) < nbytes:
            size = max(nbytes, 4096)
            self._local.stream = np.empty(-(-size // 8) * 8 + 16, dtype=np.uint8)
            self._local.zeros = np.zeros(size, dtype=np.uint8)
            self._local.size = size
        return self._local.stream, self._local.zeros


def faster_cipher() -> str:
    """The cipher that masks faster on this processor: ChaCha20 wins where AES has no instructions."""
    data = np.zeros(1 << 18, dtype=np.uint8)
    key = secrets.token_bytes(32)
    pace = {}
    for name in CIPHERS:
        cipher = ChunkCipher(ContentKeys(key, key, key, key), name)
        cipher.mask(0, 0, None, data)
        start = time.perf_counter()
        cipher.mask(0, 1, None, data)
        pace[name] = time.perf_counter() - start
    # AES unless clearly slower: a busy moment should not flip the choice.
    return CIPHERS[1] if pace[CIPHERS[0]] > 2 * pace[CIPHERS[1]] else CIPHERS[0]


def _nonce(tensor: int, chunk: int) -> bytes:
    return tensor.to_bytes(4, "big") + chunk.to_bytes(8, "big")
