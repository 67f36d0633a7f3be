"""The header of a bound model as canonical JSON, and back (spec/bound-model.md, section 4)."""

from __future__ import annotations

import math
from typing import Any, Final

from unclone import canonical
from unclone.canonical import CanonicalError
from unclone.errors import FormatError, UnsupportedError
from unclone.keys import HINT_BYTES, check_suite
from unclone.mask import CIPHERS, TAG_BYTES, chunk_length
from unclone.records import ClearTensor, Header, MaskedTensor, Selection, Slot

__all__ = [
    "BITS",
    "BLOCK_UNIT",
    "FILE_ID_BYTES",
    "FULL_PPM",
    "MAC_BYTES",
    "SELECTS",
    "VERSION",
    "blocks_of",
    "chunk_tag_bytes",
    "encode_header",
    "mac_input",
    "parse_header",
    "sealed_positions_length",
]

VERSION: Final = 1
BITS: Final = ("finite", "all")
SELECTS: Final = ("all", "blocks", "random", "magnitude", "first-layers", "saliency")
FULL_PPM: Final = 1_000_000
BLOCK_UNIT: Final = 4096
FILE_ID_BYTES: Final = 16
MAC_BYTES: Final = 32
_CHUNK_UNIT: Final = 1 << 16
_CHUNK_LIMIT: Final = 1 << 24
_PATTERN_LIMIT: Final = 256


def encode_header(header: Header) -> bytes:
    """Canonical text of a header."""
    return canonical.encode(_to_json(header))


def mac_input(header: Header) -> bytes:
    """Canonical text of a header without its MAC: what the MAC covers, beside the carrier's digest."""
    value = _to_json(header)
    del value["mac"]
    return canonical.encode(value)


def _to_json(header: Header) -> dict[str, Any]:
    return {
        "version": header.version,
        "file_id": header.file_id.hex(),
        "format": header.format,
        "cipher": header.cipher,
        "bits": header.bits,
        "chunk": header.chunk,
        "selection": {
            "select": header.selection.select,
            "share_ppm": header.selection.share_ppm,
            "block": header.selection.block,
            "positions": canonical.b64encode(header.selection.positions),
        },
        "tensors": [
            {
                "name": tensor.name,
                "dtype": tensor.dtype,
                "shape": list(tensor.shape),
                "nbytes": tensor.nbytes,
                "pattern": tensor.pattern.hex(),
                "tags": canonical.b64encode(tensor.tags),
            }
            for tensor in header.tensors
        ],
        "clear": [
            {"name": tensor.name, "dtype": tensor.dtype, "shape": list(tensor.shape), "reason": tensor.reason}
            for tensor in header.clear
        ],
        "slots": [
            {"suite": slot.suite, "hint": slot.hint.hex(), "sealed": canonical.b64encode(slot.sealed)}
            for slot in header.slots
        ],
        "mac": header.mac.hex(),
    }


def parse_header(text: bytes) -> Header:
    """The header in ``text``.

    Raises:
        UnsupportedError: another version, cipher or suite.
        FormatError: not canonical, or a member is missing, unknown or out of range.
    """
    try:
        value = canonical.decode(text)
        _refuse_other_version(value)
        return _header(_Members(value, "header"))
    except CanonicalError as problem:
        raise FormatError(f"the header of the bound model is malformed: {problem}") from None


def _refuse_other_version(value: Any) -> None:
    version = value.get("version") if isinstance(value, dict) else None
    if isinstance(version, int) and not isinstance(version, bool) and version != VERSION:
        raise UnsupportedError(f"bound model of version {version}; this release reads version {VERSION}")


class _Members:
    """Typed access to the members of a JSON object; every member is taken exactly once."""

    def __init__(self, value: Any, where: str) -> None:
        if not isinstance(value, dict):
            raise CanonicalError(f"{where} is not an object")
        self._value = dict(value)
        self._where = where

    def take(self, name: str, kind: type) -> Any:
        value = self._value.pop(name, None)
        if type(value) is not kind:
            raise CanonicalError(f"{self._where} needs a {kind.__name__} {name!r}")
        return value

    def integer(self, name: str, low: int, high: int) -> int:
        value: int = self.take(name, int)
        if not low <= value <= high:
            raise CanonicalError(f"{name} of {self._where} is outside {low}..{high}")
        return value

    def choice(self, name: str, known: tuple[str, ...]) -> str:
        value: str = self.take(name, str)
        if value not in known:
            raise UnsupportedError(f"{name} {value[:40]!r} is not known to this release; known: {', '.join(known)}")
        return value

    def hexadecimal(self, name: str, low: int, high: int) -> bytes:
        text: str = self.take(name, str)
        try:
            data = bytes.fromhex(text)
        except ValueError:
            raise CanonicalError(f"{name} of {self._where} is not hexadecimal") from None
        if data.hex() != text or not low <= len(data) <= high:
            raise CanonicalError(f"{name} of {self._where} is not {low} to {high} bytes of lower-case hexadecimal")
        return data

    def shape(self) -> tuple[int, ...]:
        shape = self.take("shape", list)
        if len(shape) > 64 or any(type(size) is not int or size < 0 for size in shape):
            raise CanonicalError(f"shape of {self._where} is not a list of sizes")
        return tuple(shape)

    def finish(self) -> None:
        if self._value:
            raise CanonicalError(f"{self._where} has an unknown member {min(self._value)[:40]!r}")


def _header(members: _Members) -> Header:
    version = members.integer("version", VERSION, VERSION)
    chunk = members.integer("chunk", _CHUNK_UNIT, _CHUNK_LIMIT)
    if chunk % _CHUNK_UNIT:
        raise CanonicalError(f"chunk is not a multiple of {_CHUNK_UNIT}")
    selection = _selection(members.take("selection", dict), chunk)
    header = Header(
        version=version,
        file_id=members.hexadecimal("file_id", FILE_ID_BYTES, FILE_ID_BYTES),
        format=members.take("format", str),
        cipher=members.choice("cipher", CIPHERS),
        bits=members.choice("bits", BITS),
        chunk=chunk,
        selection=selection,
        tensors=tuple(_tensor(item, chunk, chunk_tag_bytes(selection)) for item in members.take("tensors", list)),
        clear=tuple(_clear(item) for item in members.take("clear", list)),
        slots=tuple(_slot(item) for item in members.take("slots", list)),
        mac=members.hexadecimal("mac", MAC_BYTES, MAC_BYTES),
    )
    members.finish()
    if not header.tensors:
        raise CanonicalError("no tensor is masked")
    if len(header.selection.positions) != sealed_positions_length(header):
        raise CanonicalError("positions of selection do not fit the tensors")
    names = [tensor.name for tensor in header.tensors] + [tensor.name for tensor in header.clear]
    if len(set(names)) != len(names):
        raise CanonicalError("a tensor stands in it twice")
    return header


def sealed_positions_length(header: Header) -> int:
    """Bytes that ``selection.positions`` must have."""
    if not header.selection.block:
        return 0
    return math.ceil(sum(blocks_of(tensor, header) for tensor in header.tensors) / 8) + TAG_BYTES


def chunk_tag_bytes(selection: Selection) -> int:
    """Bytes of tags for a chunk: where blocks are masked, a second one for those that are not."""
    return 2 * TAG_BYTES if selection.block else TAG_BYTES


def blocks_of(tensor: MaskedTensor, header: Header) -> int:
    """Number of blocks of a tensor: chunk by chunk, the last of a chunk may be shorter."""
    step = chunk_length(header.chunk, tensor.pattern)
    whole, rest = divmod(tensor.nbytes, step)
    return whole * math.ceil(step / header.selection.block) + math.ceil(rest / header.selection.block)


def _selection(value: Any, chunk: int) -> Selection:
    members = _Members(value, "selection")
    selection = Selection(
        select=members.choice("select", SELECTS),
        share_ppm=members.integer("share_ppm", 1, FULL_PPM),
        block=members.integer("block", 0, chunk),
        positions=canonical.b64decode(members.take("positions", str)),
    )
    members.finish()
    if (selection.select == "all") != (selection.share_ppm == FULL_PPM):
        raise CanonicalError("select is all, and only then the share is the whole")
    if (selection.select in ("all", "random")) != (selection.block == 0) or selection.block % BLOCK_UNIT:
        raise CanonicalError(f"block of selection is not a multiple of {BLOCK_UNIT}, or does not go with its select")
    return selection


def _tensor(value: Any, chunk: int, tag_bytes: int) -> MaskedTensor:
    members = _Members(value, "tensor")
    tensor = MaskedTensor(
        name=members.take("name", str),
        dtype=members.take("dtype", str),
        shape=members.shape(),
        nbytes=members.integer("nbytes", 0, 2**53 - 1),
        pattern=members.hexadecimal("pattern", 1, _PATTERN_LIMIT),
        tags=canonical.b64decode(members.take("tags", str)),
    )
    members.finish()
    if len(tensor.tags) != tag_bytes * math.ceil(tensor.nbytes / chunk_length(chunk, tensor.pattern)):
        raise CanonicalError(f"tensor {tensor.name[:60]!r} has the wrong number of tags")
    return tensor


def _clear(value: Any) -> ClearTensor:
    members = _Members(value, "clear tensor")
    tensor = ClearTensor(
        name=members.take("name", str),
        dtype=members.take("dtype", str),
        shape=members.shape(),
        reason=members.take("reason", str),
    )
    members.finish()
    return tensor


def _slot(value: Any) -> Slot:
    members = _Members(value, "slot")
    slot = Slot(
        suite=members.take("suite", str),
        hint=members.hexadecimal("hint", HINT_BYTES, HINT_BYTES),
        sealed=canonical.b64decode(members.take("sealed", str)),
    )
    members.finish()
    suite = check_suite(slot.suite)
    if len(slot.sealed) != suite.sealed_bytes:
        raise CanonicalError(f"a slot of {suite.name} is not {suite.sealed_bytes} bytes long")
    return slot
