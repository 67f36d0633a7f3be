"""Frames of the serial protocol, version 1 (spec/serial-protocol.md): COBS between zeros, with a CRC-32.

Consistent overhead byte stuffing (Cheshire and Baker, IEEE/ACM Transactions on Networking 7, 1999) removes zeros from a
frame, so a zero is a boundary wherever it comes, and a receiver that lost the thread is back at the next one.
"""

from __future__ import annotations

import struct
from binascii import crc32
from typing import Final, NamedTuple

__all__ = ["MAX_ENCODED", "MAX_PAYLOAD", "VERSION", "Frame", "FrameReader", "decode", "encode"]

VERSION: Final = 1
MAX_PAYLOAD: Final = 192
MAX_ENCODED: Final = 3 + MAX_PAYLOAD + 4 + 1


class Frame(NamedTuple):
    """A frame whose checksum was right; of any version."""

    version: int
    kind: int
    sequence: int
    payload: bytes


def encode(kind: int, sequence: int, payload: bytes = b"", version: int = VERSION) -> bytes:
    """A frame as it goes over the line, between two zeros. The payload has at most ``MAX_PAYLOAD`` bytes."""
    body = bytes([version, kind, sequence]) + payload
    body += struct.pack("<I", crc32(body))
    # At most 199 bytes, so no block reaches COBS' limit of 254.
    return b"\0" + b"".join(bytes([len(block) + 1]) + block for block in body.split(b"\0")) + b"\0"


def decode(encoded: bytes) -> Frame | None:
    """The frame in what stood between two zeros, or ``None`` for noise."""
    if not 8 <= len(encoded) <= MAX_ENCODED:
        return None
    body = bytearray()
    at = 0
    while at < len(encoded):
        code = encoded[at]
        if at + code > len(encoded) or not code:
            return None
        body += encoded[at + 1 : at + code] + b"\0"
        at += code
    body.pop()
    if struct.unpack("<I", body[-4:])[0] != crc32(body[:-4]):
        return None
    return Frame(body[0], body[1], body[2], bytes(body[3:-4]))


class FrameReader:
    """Takes bytes as they come, gives the frames in them, and drops everything else; bounded memory."""

    def __init__(self) -> None:
        self._open = bytearray()

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that ``data`` completes."""
        *ended, rest = data.split(b"\0")
        frames = []
        for part in ended:
            self._open += part[: MAX_ENCODED + 1]
            frame = decode(bytes(self._open))
            self._open.clear()
            if frame is not None:
                frames.append(frame)
        self._open += rest[: MAX_ENCODED + 1]
        del self._open[MAX_ENCODED + 1 :]
        return frames
