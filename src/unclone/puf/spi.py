"""``spi:/dev/spidev0.0``: a serial SRAM chip, such as Microchip's 23LC1024, with its supply on a GPIO pin.

The chip is switched off before every reading, so every reading is a fresh start-up pattern. The instruction is READ
(0x03) followed by the address, most significant byte first, in sequential mode, which is the mode after power-up
(23LC1024 data sheet, DS20005142, sections 2.2 and 2.5).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from importlib.util import find_spec
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from unclone.errors import MissingExtraError, SourceError
from unclone.puf.base import SourceURI
from unclone.puf.power import device_state, power_hook

__all__ = ["Bus", "SerialRAM", "open_spi", "source_state"]

_READ: Final = 0x03
_BLOCK: Final = 2048
"""Less than spidev's default buffer of 4096 bytes."""
_OPTIONS: Final = ("length", "offset", "address_bytes", "speed", "pin", "low", "power", "off", "start")


class Bus(Protocol):
    """A full-duplex bus with the chip selected during each transfer, like ``spidev.SpiDev``."""

    def xfer2(self, data: list[int]) -> Any:
        """Send bytes and give those that came back, as many."""

    def close(self) -> None:
        """Release it."""


class SerialRAM:
    """A serial SRAM.

    Args:
        bus: opens the bus; called for every reading, after the power is on.
        cycle: takes the chip's power away, long enough, and gives it back.
        length: bytes to read.
        offset: address of the first.
        address_bytes: bytes of an address, 2 or 3.
    """

    kind = "spi:sram"

    def __init__(
        self,
        bus: Callable[[], Bus],
        cycle: Callable[[], None],
        *,
        length: int = 8192,
        offset: int = 0,
        address_bytes: int = 3,
    ) -> None:
        self._bus = bus
        self._cycle = cycle
        self._length = length
        self._offset = offset
        self._address_bytes = address_bytes
        self._last: bytes | None = None

    def evaluate(self, challenge: bytes = b"") -> NDArray[np.uint8]:  # noqa: ARG002 - a weak PUF has one response
        """A fresh start-up pattern; bits, most significant first.

        Raises:
            SourceError: the bus fails, nothing answers, or the pattern is the last one bit by bit.
        """
        self._cycle()
        try:
            with closing(self._bus()) as bus:
                data = b"".join(
                    self._read(bus, self._offset + at, min(_BLOCK, self._length - at))
                    for at in range(0, self._length, _BLOCK)
                )
        except OSError as problem:
            raise SourceError(
                f"the SPI bus failed: {problem.strerror or problem}; does the node exist, and may you use it?"
            ) from None
        if data in (bytes(len(data)), b"\xff" * len(data)):
            raise SourceError("the SPI memory answered with one value only: check wiring, chip select and supply")
        if data == self._last:
            raise SourceError(
                "the SPI memory kept its content: its power was not switched, or too briefly (off=SECONDS)"
            )
        self._last = data
        return np.unpackbits(np.frombuffer(data, dtype=np.uint8))

    def _read(self, bus: Bus, at: int, count: int) -> bytes:
        head = [_READ, *at.to_bytes(self._address_bytes, "big")]
        answer = bus.xfer2(head + [0] * count)
        if len(answer) != len(head) + count:
            raise SourceError(f"the SPI bus gave {len(answer)} bytes for {len(head) + count}")
        return bytes(answer[len(head) :])


def open_spi(address: SourceURI) -> SerialRAM:
    """Open ``spi:/dev/spidev0.0?pin=/dev/gpiochip0/17&length=8192&offset=0&address_bytes=3&speed=1000000&off=5``.

    The supply is a GPIO line (``pin``, needs gpiod; ``low=yes`` where low means on), or a hook command (``power``).

    Raises:
        SourceError: no node, no way to switch the power, an unknown option, or a value out of range.
        MissingExtraError: spidev or gpiod is not installed.
    """
    node = address.path.removeprefix("/dev/spidev").split(".")
    if not address.path.startswith("/dev/spidev") or len(node) != 2 or not all(part.isdecimal() for part in node):
        raise SourceError(f"{address.text!r} names no SPI device; write for example spi:/dev/spidev0.0")
    pin = address.text_option("pin", "")
    low = address.text_option("low", "no")
    command = address.text_option("power", "")
    speed = address.int_option("speed", 1_000_000, 1000, 20_000_000)
    off = address.float_option("off", 5.0, 0.0, 600.0)
    start = address.float_option("start", 0.01, 0.0, 60.0)
    address_bytes = address.int_option("address_bytes", 3, 2, 3)
    offset = address.int_option("offset", 0, 0, 1 << 24)
    length = address.int_option("length", 8192, 1, 1 << 24)
    address.finish(_OPTIONS)
    if offset + length > 1 << (8 * address_bytes):
        raise SourceError(f"{length} bytes at {offset} are beyond addresses of {address_bytes} bytes")
    if bool(pin) == bool(command) or low not in ("yes", "no"):
        raise SourceError(
            f"{address.text!r} needs pin=/dev/gpiochip0/17 (low=yes if low means on) or power=COMMAND: only a "
            "power-off gives a new start-up pattern"
        )
    hook = power_hook(command, "the SPI memory", 60.0)
    cycle = hook if hook is not None else _pin_cycle(pin, low == "yes", off, start)
    return SerialRAM(
        lambda: _spidev(int(node[0]), int(node[1]), speed),
        cycle,
        length=length,
        offset=offset,
        address_bytes=address_bytes,
    )


def source_state() -> str:
    """What SPI memories lack on this computer."""
    missing = [name for name in ("spidev", "gpiod") if find_spec(name) is None]
    if missing:
        return f"needs {' and '.join(missing)}: pip install 'unclone[spi]'"
    return device_state("/dev/spidev*", "SPI bus")


def _spidev(bus: int, device: int, speed: int) -> Bus:
    try:
        import spidev
    except ImportError:
        raise MissingExtraError("spidev", "spi") from None
    opened: Any = spidev.SpiDev()
    opened.open(bus, device)
    opened.mode = 0
    opened.max_speed_hz = speed
    result: Bus = opened
    return result


def _pin_cycle(pin: str, low: bool, off: float, start: float) -> Callable[[], None]:
    """Switch a GPIO line off, wait, on. The line stays requested, so it holds its level during the reading."""
    chip, _, line = pin.rpartition("/")
    if not line.isdecimal() or not chip:
        raise SourceError(f"pin={pin!r} is not a chip and a line; write for example pin=/dev/gpiochip0/17")
    held: list[Any] = []

    def cycle() -> None:
        try:
            import gpiod
        except ImportError:
            raise MissingExtraError("gpiod", "spi") from None
        values = gpiod.line.Value
        try:
            if not held:
                output = gpiod.LineSettings(
                    direction=gpiod.line.Direction.OUTPUT, output_value=values.INACTIVE, active_low=low
                )
                held.append(gpiod.request_lines(chip, consumer="unclone", config={int(line): output}))
            held[0].set_value(int(line), values.INACTIVE)
            time.sleep(off)
            held[0].set_value(int(line), values.ACTIVE)
            time.sleep(start)
        except OSError as problem:
            raise SourceError(f"cannot switch {pin}: {problem.strerror or problem}") from None

    return cycle
