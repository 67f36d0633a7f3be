"""A serial line to a microcontroller: requests, answers, time-outs, repetition. The host's half of the protocol."""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from unclone.errors import MissingExtraError, SourceError
from unclone.puf.serial_frames import VERSION, Frame, FrameReader, encode

__all__ = ["Description", "Link", "open_link"]

IDENTIFY: Final = 0x01
DESCRIBE: Final = 0x02
READ: Final = 0x03
FINISH: Final = 0x04
_ANSWER: Final = 0x80
_REFUSED: Final = 0xFF
_NAME: Final = b"unclone\0"
_TRIES: Final = 4
_WIPED: Final = 3
_REFUSALS: Final = {
    1: "it does not know this request",
    2: "the range lies outside of its window",
    _WIPED: "its window was wiped; switch it off and on",
    4: f"it does not speak version {VERSION} of the protocol",
}


@dataclass(frozen=True, slots=True)
class Description:
    """What a device says of itself.

    Attributes:
        address: of the window in the device's memory.
        length: of the window, in bytes.
        readings: readings finished since start-up.
        wiped: the window holds the start-up pattern no more.
        remanence: bits of the 256-bit marker that stood at start-up; about 128 after a power-off, 256 after a reset.
        block: most bytes in one answer.
    """

    address: int
    length: int
    readings: int
    wiped: bool
    remanence: int
    block: int


class Link:
    """An open line. ``timeout`` is for one answer, in seconds; a request is repeated three times before it fails."""

    def __init__(self, line: Any, port: str, timeout: float) -> None:
        self._line = line
        self._port = port
        self._timeout = timeout
        self._frames = FrameReader()
        self._sequence = 0

    def identify(self) -> tuple[int, int]:
        """The firmware's version: major, minor.

        Raises:
            SourceError: nothing answers, or something else than this firmware, or another version of the protocol.
        """
        payload = self._ask(IDENTIFY)
        if len(payload) < 10 or payload[:8] != _NAME:
            raise SourceError(f"what answers on {self._port} is not firmware of unclone")
        return payload[8], payload[9]

    def describe(self) -> Description:
        """Window and state.

        Raises:
            SourceError: no answer, or one that makes no sense.
        """
        payload = self._ask(DESCRIBE)
        if len(payload) < 24:
            raise SourceError(f"the device on {self._port} describes itself in {len(payload)} bytes; 24 are due")
        address, length, readings, wiped, remanence, block = struct.unpack("<6I", payload[:24])
        if not 1 <= block <= 188 or not 1 <= length <= 1 << 24 or remanence > 256:
            raise SourceError(
                f"the description from {self._port} makes no sense: window of {length}, blocks of {block}"
            )
        return Description(address, length, readings, bool(wiped), remanence, block)

    def read(self, offset: int, length: int, block: int) -> bytes:
        """Bytes of the window.

        Raises:
            SourceError: no answer, a refusal, or an answer to something else.
        """
        data = bytearray()
        while len(data) < length:
            count = min(block, length - len(data))
            payload = self._ask(READ, struct.pack("<II", offset + len(data), count))
            if len(payload) != 4 + count or payload[:4] != struct.pack("<I", offset + len(data)):
                raise SourceError(f"the device on {self._port} sent another part of its window than it was asked for")
            data += payload[4:]
        return bytes(data)

    def finish(self, *, wipe: bool) -> None:
        """Count the reading, and wipe the window if asked to."""
        self._ask(FINISH, bytes([wipe]))

    def _ask(self, kind: int, payload: bytes = b"") -> bytes:
        self._sequence = self._sequence % 255 + 1
        request = encode(kind, self._sequence, payload)
        with _line_errors(self._port):
            for _ in range(_TRIES):
                self._line.write(request)
                answer = self._await(kind)
                if answer is not None:
                    return answer.payload
        raise SourceError(
            f"no answer on {self._port} within {_TRIES} x {self._timeout:g} s: is the firmware on the board, and the "
            "baud rate right?"
        )

    def _await(self, kind: int) -> Frame | None:
        """The answer to the last request, or ``None`` after the time-out. Echoes, old answers and noise are dropped."""
        deadline = time.monotonic() + self._timeout
        while time.monotonic() < deadline:
            for frame in self._frames.feed(self._line.read(max(1, self._line.in_waiting))):
                if frame.sequence != self._sequence or not frame.kind & _ANSWER:
                    continue
                if frame.version != VERSION:
                    raise SourceError(
                        f"the firmware on {self._port} speaks version {frame.version} of the protocol, this release "
                        f"version {VERSION}: put the firmware of this release on the board (docs/hardware.md)"
                    )
                if frame.kind == _REFUSED:
                    code = frame.payload[0] if frame.payload else 0
                    raise SourceError(
                        f"the device on {self._port} refused: {_REFUSALS.get(code, f'for reason {code}')}"
                    )
                if frame.kind == kind | _ANSWER:
                    return frame
        return None


@contextmanager
def open_link(port: str, baud: int, timeout: float) -> Iterator[Link]:
    """Open and lock a port (``flock``), and close it at the end.

    Raises:
        SourceError: no such port, no permission, or another program has it.
        MissingExtraError: pyserial is not installed.
    """
    try:
        import serial
    except ImportError:
        raise MissingExtraError("pyserial", "serial") from None
    with _line_errors(port):
        line = serial.Serial(port, baud, timeout=min(0.05, timeout), write_timeout=timeout * _TRIES, exclusive=True)
    try:
        with _line_errors(port):
            line.reset_input_buffer()
        yield Link(line, port, timeout)
    finally:
        line.close()


@contextmanager
def _line_errors(port: str) -> Iterator[None]:
    """What pyserial and the kernel raise, as errors that say what to do."""
    try:
        yield
    except (OSError, TypeError) as problem:  # SerialException is an OSError; a closed line is a TypeError there
        text = str(problem)
        if "exclusively lock" in text or "Resource temporarily unavailable" in text:
            raise SourceError(f"{port} is in use by another program; end it, or wait for it") from None
        if getattr(problem, "errno", None) == 13 or "Permission denied" in text:
            raise SourceError(f"no permission for {port}: join its group (often dialout) and log in again") from None
        if getattr(problem, "errno", None) == 2:
            raise SourceError(f"there is no {port}: is the board plugged in?") from None
        raise SourceError(f"the line {port} broke: {text}; is the board still plugged in?") from None
