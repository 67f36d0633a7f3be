"""``serial:PORT``: the start-up pattern of a microcontroller's SRAM, over a serial line (spec/serial-protocol.md).

Only a real power-off gives a new start-up pattern. The device counts the readings of a power-up, and finds at
start-up whether its memory had kept a marker. So a pattern that was read already, or that is left over from before,
is never taken for a fresh one: the board is power-cycled by a hook command or by the person, or the reading fails.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Final

import numpy as np
from numpy.typing import NDArray

from unclone.errors import SourceError
from unclone.puf.base import SourceURI
from unclone.puf.power import device_state, power_hook
from unclone.puf.serial_link import Description, open_link

__all__ = ["SerialSRAM", "open_serial", "source_state"]

_OPTIONS: Final = ("baud", "power", "offset", "length", "timeout", "start", "power_timeout", "wipe")
_REMANENT: Final = 192
"""Matching bits of 256: eight standard deviations above chance."""
_CYCLES: Final = 3


class SerialSRAM:
    """The SRAM window of a microcontroller with the firmware of ``firmware/``.

    Args:
        port: device file, ``/dev/ttyACM0``.
        power: switches the board off and on again before it returns; ``None`` when nothing and nobody can.
        baud: of the line.
        offset: first byte of the window to use.
        length: bytes to use, 0 for all from ``offset``.
        timeout: for one answer, seconds.
        start: how long the port may take to come back after a power cycle, seconds.
        wipe: let the device wipe the window after the reading, so that no later program of this power-up reads it.
    """

    kind = "serial:sram"

    def __init__(
        self,
        port: str,
        power: Callable[[], None] | None = None,
        *,
        baud: int = 115200,
        offset: int = 0,
        length: int = 0,
        timeout: float = 1.0,
        start: float = 10.0,
        wipe: bool = True,
    ) -> None:
        self.port = port
        self._power = power
        self._baud = baud
        self._offset = offset
        self._length = length
        self._timeout = timeout
        self._start = start
        self._wipe = wipe
        self._last: bytes | None = None

    def evaluate(self, challenge: bytes = b"") -> NDArray[np.uint8]:  # noqa: ARG002 - a weak PUF has one response
        """The pattern of this power-up if nobody read it yet, else of a new one; bits, most significant first.

        Raises:
            SourceError: no board, no answer, another protocol, a window that is too short; or the pattern is not
                fresh and the power cannot be, or was not, switched.
        """
        reason = ""
        for cycle in range(_CYCLES):
            if cycle:
                self._cycle(reason)
            data, reason = self._read(wait=self._start if cycle else 0.0)
            if data is not None:
                self._last = data
                return np.unpackbits(np.frombuffer(data, dtype=np.uint8))
        raise SourceError(
            f"{reason}, even after {_CYCLES - 1} power cycles: the board must be without power for seconds, from every "
            "cable"
        )

    def _read(self, wait: float) -> tuple[bytes | None, str]:
        """A fresh pattern, or why there is none."""
        self._await_port(wait)
        with open_link(self.port, self._baud, self._timeout) as link:
            link.identify()
            about = link.describe()
            reason = self._stale(about)
            if reason:
                return None, reason
            length = self._length or about.length - self._offset
            if length <= 0 or self._offset + length > about.length:
                raise SourceError(
                    f"the window of the board on {self.port} has {about.length} bytes; offset={self._offset} and "
                    f"length={length} leave it"
                )
            data = link.read(self._offset, length, about.block)
            link.finish(wipe=self._wipe)
        if data == self._last:
            return None, f"the pattern from {self.port} is the same bit by bit as the one before it, so it is not fresh"
        return data, ""

    def _stale(self, about: Description) -> str:
        if about.wiped or about.readings:
            return f"the board on {self.port} was not switched off since its pattern was last read"
        if about.remanence >= _REMANENT:
            return (
                f"the memory of the board on {self.port} kept {about.remanence} of 256 marked bits: it was reset, or "
                "switched off too briefly"
            )
        return ""

    def _cycle(self, reason: str) -> None:
        if self._power is None:
            raise SourceError(
                f"{reason}; switch it off and on, or let power=COMMAND in the address do it (docs/hardware.md)"
            )
        self._power()

    def _await_port(self, wait: float) -> None:
        """A board on USB takes its port away and brings it back."""
        deadline = time.monotonic() + wait
        while not os.path.exists(self.port) and time.monotonic() < deadline:
            time.sleep(0.05)


def source_state() -> str:
    """What microcontrollers on a serial line lack on this computer."""
    if find_spec("serial") is None:
        return "needs pyserial: pip install 'unclone[serial]'"
    return device_state("/dev/tty[AU][CS][MB]*", "serial port")


def open_serial(address: SourceURI) -> SerialSRAM:
    """Open ``serial:/dev/ttyACM0?baud=115200&power=COMMAND&offset=0&length=0&timeout=1&start=10&wipe=yes``.

    ``offset`` and ``length`` are bytes. ``power=ask`` asks the person; without ``power`` that is done where standard
    input is a terminal.

    Raises:
        SourceError: no port, an unknown option, or a value out of range.
    """
    if not address.path:
        raise SourceError(f"{address.text!r} names no port; write for example serial:/dev/ttyACM0")
    wipe = address.text_option("wipe", "yes")
    if wipe not in ("yes", "no"):
        raise SourceError(f"wipe in {address.text!r} is yes or no, not {wipe!r}")
    limit = address.float_option("power_timeout", 60.0, 1.0, 3600.0)
    power = address.text_option("power", "ask" if sys.stdin is not None and sys.stdin.isatty() else "")
    source = SerialSRAM(
        address.path,
        power_hook(power, f"the board on {address.path}", limit),
        baud=address.int_option("baud", 115200, 300, 12_000_000),
        offset=address.int_option("offset", 0, 0, 1 << 24),
        length=address.int_option("length", 0, 0, 1 << 24),
        timeout=address.float_option("timeout", 1.0, 0.01, 60.0),
        start=address.float_option("start", 10.0, 0.0, 600.0),
        wipe=wipe == "yes",
    )
    address.finish(_OPTIONS)
    return source
