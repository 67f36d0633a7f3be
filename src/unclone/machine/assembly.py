"""Put a machine together from enrolled parts, reconstruct its key from any ``need`` of them, replace one.

The machine's key is a device key of its own: random, 32 bytes, never stored, shared among the parts. Its public key
takes slots and licences like a device's.
"""

from __future__ import annotations

import hmac
import os
import secrets
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from unclone import keys
from unclone.device_file import load_device
from unclone.enrollment import Source, reconstruct
from unclone.errors import (
    MissingExtraError,
    ParameterError,
    PartsError,
    ReconstructionError,
    RecordError,
    SourceError,
    UnsupportedError,
)
from unclone.machine.file import PART_NAME, load_machine, share_context
from unclone.machine.record import MAX_PARTS, Machine, Part
from unclone.machine.sharing import combine, split
from unclone.records import Device, DeviceKey

__all__ = ["enroll_machine", "reconstruct_machine", "replace_part"]

Record = Device | str | os.PathLike[str]
_FAULTS: Final = (ReconstructionError, SourceError, RecordError, UnsupportedError, MissingExtraError)
"""Of one part, which the others may make up for."""


def enroll_machine(parts: Mapping[str, Record], *, need: int, name: str = "", suite: str = "x25519") -> Machine:
    """A machine of enrolled parts. No part need be present: their records, which are public, are enough.

    Args:
        parts: device records, or their paths, by the part's name; 2 to 32.
        need: how many parts give the machine's key, 2 to all.
        name: the vendor's name for the machine.
        suite: of the machine's own public key, ``"x25519"`` or ``"hybrid"``; quantum-safe where the parts' are too.

    Returns:
        The record, with a fresh machine key shared among the parts. All of it is public.

    Raises:
        ParameterError: too few or too many parts, a bad name, or one device twice.
        RecordError: a record is malformed.
    """
    if not 2 <= need <= len(parts) <= MAX_PARTS:
        raise ParameterError(
            f"a machine has 2 to {MAX_PARTS} parts and needs 2 to all of them, not {need} of {len(parts)}; "
            "to let any single device do, bind the model to each (bind --to, repeated)"
        )
    loaded = [
        Part(_checked_name(part), index, _loaded(record)) for index, (part, record) in enumerate(parts.items(), 1)
    ]
    full_name = keys.suite_named(suite)
    with keys.new_device_key() as key:
        machine = Machine(
            name=name,
            id=secrets.token_bytes(16),
            revision=1,
            need=need,
            suite=full_name,
            public_key=keys.public_key(key, full_name),
            parts=tuple(loaded),
        )
        return _share(machine, key)


def reconstruct_machine(
    machine: Machine | str | os.PathLike[str], sources: Mapping[str, Source], *, readings: int = 1
) -> DeviceKey:
    """The machine's key, from any ``need`` of its parts.

    Args:
        machine: the record, or its path.
        sources: where parts are, by name; parts are tried in this order until ``need`` gave their share.
        readings: readings to combine, for each part.

    Raises:
        PartsError: too few parts gave their share; it says what became of each.
        ReconstructionError: the shares do not fit the machine: its record was altered on purpose.
        ParameterError: the machine has no part of a given name.
        RecordError: the record is malformed.
    """
    record = machine if isinstance(machine, Machine) else load_machine(machine)
    shares: dict[int, bytearray] = {}
    try:
        states = _collect(record, sources, readings, shares)
        if len(shares) < record.need:
            raise PartsError(_too_few(record, states), states)
        secret = combine(shares)
    finally:
        _wipe(*shares.values())
    key = DeviceKey(secret)
    _wipe(secret)
    if not hmac.compare_digest(keys.public_key(key, record.suite), record.public_key):
        key.wipe()
        raise ReconstructionError("the parts' shares do not give the machine's key: the machine record was altered")
    return key


def replace_part(
    machine: Machine | str | os.PathLike[str],
    sources: Mapping[str, Source],
    *,
    part: str,
    device: Record,
    readings: int = 1,
) -> Machine:
    """The machine with another device as one of its parts; models bound to the machine go on.

    The key is shared anew, by fresh polynomials: shares of different revisions do not combine. What stays: the removed
    device together with ``need - 1`` others and the *old* record still gives the key, as does every copy of the key
    that was made. Destroy the removed device, or bind the models to a new machine, where that matters.

    Args:
        machine: the record in use, or its path.
        sources: where ``need`` parts are, by name.
        part: name of the part to replace.
        device: record of the new device, or its path.
        readings: readings to combine, for each part.

    Returns:
        The record of the next revision, with the same id and public key.

    Raises:
        PartsError: too few parts gave their share.
        ParameterError: no such part, or the device is part of the machine already.
    """
    record = machine if isinstance(machine, Machine) else load_machine(machine)
    old, new = record.part(part), _loaded(device)
    if old is None:
        raise ParameterError(f"the machine has no part {part!r}; it has {_names(record)}")
    parts = tuple(Part(item.name, item.index, new if item is old else item.device) for item in record.parts)
    draft = replace(record, revision=record.revision + 1, parts=parts)
    _check_distinct(draft)
    with reconstruct_machine(record, sources, readings=readings) as key:
        return _share(draft, key)


def _share(machine: Machine, key: DeviceKey) -> Machine:
    """The machine with a share of the key sealed for each part."""
    _check_distinct(machine)
    context = share_context(machine)
    shares = split(key.secret, machine.need, [part.index for part in machine.parts])
    try:
        sealed = [_seal(part, share, context) for part, share in zip(machine.parts, shares, strict=True)]
    finally:
        _wipe(*shares)
    return replace(machine, parts=tuple(sealed))


def _seal(part: Part, share: bytearray, context: bytes) -> Part:
    sealed = keys.seal_share(share, part.device.public_key, context, part.index, part.device.suite)
    return replace(part, share=sealed, check=keys.share_check(share, context, part.index))


def _collect(
    machine: Machine, sources: Mapping[str, Source], readings: int, shares: dict[int, bytearray]
) -> dict[str, str]:
    """Fill ``shares`` by index, up to ``need``; what became of each part that was tried or is missing."""
    for name in sources:
        if machine.part(name) is None:
            raise ParameterError(f"the machine has no part {name!r}; it has {_names(machine)}")
    context = share_context(machine)
    states = {part.name: "missing" for part in machine.parts if part.name not in sources}
    for name, source in sources.items():
        part = machine.part(name)
        if part is None or len(shares) == machine.need:
            continue
        try:
            shares[part.index] = _open_share(part, source, context, readings)
            states[name] = "present"
        except _FAULTS as problem:
            states[name] = str(problem)
    return states


def _open_share(part: Part, source: Source, context: bytes, readings: int) -> bytearray:
    with reconstruct(part.device, source, readings=readings) as key:
        share = keys.open_share(part.share, key, context, part.index, part.device.suite)
    if share is None:
        raise ReconstructionError("the device is right, but its share was altered")
    if not hmac.compare_digest(keys.share_check(share, context, part.index), part.check):
        _wipe(share)
        raise ReconstructionError("the device is right, but its share is forged")
    return share


def _wipe(*buffers: bytearray) -> None:
    for buffer in buffers:
        buffer[:] = bytes(len(buffer))


def _too_few(machine: Machine, states: Mapping[str, str]) -> str:
    present = sum(state == "present" for state in states.values())
    each = "; ".join(f"{name}: {state}" for name, state in sorted(states.items()))
    return f"{present} of the {machine.need} parts needed gave their share ({each})"


def _checked_name(name: str) -> str:
    if not PART_NAME.fullmatch(name):
        raise ParameterError(f"a part's name is 1 to 64 of A-Z a-z 0-9 . _ -, not {name!r}")
    return name


def _check_distinct(machine: Machine) -> None:
    if len({part.device.public_key for part in machine.parts}) != len(machine.parts):
        raise ParameterError("one device is named as two parts of the machine; a thief of it would have both shares")


def _loaded(record: Record) -> Device:
    return record if isinstance(record, Device) else load_device(record)


def _names(machine: Machine) -> str:
    return ", ".join(part.name for part in machine.parts)
