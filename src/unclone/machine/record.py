"""A machine's record: which parts it has, how many of them it needs, and each part's sealed share of its key."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from unclone.records import Device

__all__ = ["MAX_PARTS", "Machine", "Part"]

MAX_PARTS: Final = 32


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a machine.

    Attributes:
        name: the part's place in the machine, for example ``"camera"``.
        index: x-coordinate of its share, 1 to 255.
        device: the record of the device that is this part now.
        share: the share, sealed for the device, of the length of its suite.
        check: 32 bytes that tell the share from a forged one.
    """

    name: str
    index: int
    device: Device
    share: bytes = field(default=b"", repr=False)
    check: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine record: all of it is public, and models are bound to it as to a device.

    Attributes:
        name: the vendor's name for the machine, may be empty.
        id: 16 random bytes, the same in every revision.
        revision: 1, and one more after each change of its parts.
        need: how many parts give the key.
        suite: name of the HPKE suite of ``public_key``.
        public_key: HPKE public key of the machine, the same in every revision.
        parts: its parts, 2 to 32.
    """

    name: str
    id: bytes
    revision: int
    need: int
    suite: str
    public_key: bytes
    parts: tuple[Part, ...]

    def part(self, name: str) -> Part | None:
        """The part of that name."""
        return next((part for part in self.parts if part.name == name), None)
