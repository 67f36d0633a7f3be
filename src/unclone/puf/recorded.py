"""``file:`` recorded readings: each ``evaluate`` gives the next one.

``.npz`` and ``.npy`` hold ``uint8`` (or ``bool``) arrays whose last axis is a reading: bytes (packed bits) or bits
(0/1). A folder or a glob of raw dumps is one reading a file. ``.csv`` and ``.txt`` hold one reading a line, as 0 and 1.
docs/sources.md tells a laboratory how to bring its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from unclone.errors import SourceError
from unclone.puf.base import SourceURI
from unclone.puf.readings import Shape, load_array, read_dumps, read_text, readable_arrays, unpack

__all__ = ["RecordedSource", "Recording", "describe_recordings", "load_recording", "open_file"]

_ARRAYS: Final = (".npz", ".npy")
_TEXTS: Final = (".csv", ".txt")
_LEAST_BITS: Final = 64
_SHOWN: Final = 6
_OPTIONS: Final = ("array", "index", "valid", "first", "last", "offset", "length", "order", "packed", "reading_bytes")
_MODE: Final = "mode"


@dataclass(frozen=True, slots=True)
class Recording:
    """One device's readings inside a file.

    Attributes:
        uri: address that opens it.
        name: short name for people.
        readings: number of readings.
        bits: bits of a reading.
    """

    uri: str
    name: str
    readings: int
    bits: int


class RecordedSource:
    """Recorded readings as a source.

    Args:
        readings: ``uint8`` of 0/1, shape ``(readings, bits)``.
        cycle: begin again after the last reading; otherwise running out is a ``SourceError``.
    """

    kind = "file"

    def __init__(self, readings: NDArray[np.uint8], *, cycle: bool = True) -> None:
        self.readings = readings
        self._cycle = cycle
        self._next = 0

    def evaluate(self, challenge: bytes = b"") -> NDArray[np.uint8]:  # noqa: ARG002 - a recording has one response
        """The next recorded reading, ``uint8``, shape ``(bits,)``."""
        if self._next == len(self.readings):
            if not self._cycle:
                raise SourceError(f"the recording holds {len(self.readings)} readings, and all are used (mode=once)")
            self._next = 0
        self._next += 1
        response: NDArray[np.uint8] = self.readings[self._next - 1]
        return response


def open_file(address: SourceURI) -> RecordedSource:
    """Open ``file:PATH?array=NAME&index=I&valid=NAME&first=0&last=8&offset=&length=&order=msb&packed=auto&mode=once``.

    Options, all of them optional: ``array`` of an ``.npz`` file; ``index`` into its leading axes (``3`` or ``3,0``);
    ``valid``, a ``bool`` array that marks good readings; ``first`` and ``last`` reading; ``offset`` and ``length`` in
    bits; ``order`` of the bits in a byte (``msb``, ``lsb``); ``packed`` (``auto``, ``yes``, ``no``); ``reading_bytes``
    of raw dumps; ``mode`` after the last reading: ``cycle`` (default) or ``once``.

    Raises:
        SourceError: the file cannot be read, is not a recording, or holds several devices and none is chosen.
    """
    mode = address.text_option(_MODE, "cycle")
    if mode not in ("cycle", "once"):
        raise SourceError(f"mode is cycle or once, not {mode!r}, in {address.text!r}")
    return RecordedSource(load_recording(address), cycle=mode == "cycle")


def load_recording(address: SourceURI) -> NDArray[np.uint8]:
    """All readings an address names, ``uint8`` of 0/1, shape ``(readings, bits)``; options as in ``open_file``."""
    first = address.int_option("first", 0, 0, 1 << 30)
    last = address.int_option("last", -1, 0, 1 << 30)
    offset, length = address.int_option("offset", 0, 0, 1 << 40), address.int_option("length", 0, 1, 1 << 40)
    order, packed = address.text_option("order", "msb"), address.text_option("packed", "auto")
    if order not in ("msb", "lsb") or packed not in ("auto", "yes", "no"):
        raise SourceError(f"order is msb or lsb, packed is auto, yes or no, in {address.text!r}")
    rows = _rows(address)
    address.finish((*_OPTIONS, _MODE))
    chosen = rows[first : None if last < 0 else last + 1]
    if not chosen.size:
        raise SourceError(f"first and last in {address.text!r} leave no reading; there are {len(rows)}")
    bits = unpack(chosen, packed, order)
    part = bits[:, offset : offset + length if length else None]
    if not part.size or (length and part.shape[1] != length):
        raise SourceError(f"offset and length in {address.text!r} leave the reading of {bits.shape[1]} bits")
    return np.ascontiguousarray(part)


def describe_recordings(path: str | Path) -> list[Recording]:
    """Every device that a recording may hold, with the address that opens it.

    An array of three or more dimensions holds a device for each index of its leading axes, and a folder of folders one
    for each of these. Arrays of readings have two or more dimensions; only where there are none do those of one
    dimension, single readings, count. A ``bool`` array ``valid`` of fitting shape is heeded.

    Raises:
        SourceError: the file cannot be read or is no recording.
    """
    file = Path(path)
    if file.suffix in _ARRAYS:
        uris = {name: uri for array, shape in _candidates(file).items() for name, uri in _devices(file, array, shape)}
    elif file.is_dir() and not any(item.is_file() and not item.name.startswith(".") for item in file.iterdir()):
        uris = {item.name: _address(item) for item in sorted(file.iterdir()) if not item.name.startswith(".")}
    else:
        uris = {file.stem: _address(file)}
    if not uris:
        raise SourceError(f"{file} holds no readings: no uint8 array (or bool, of {_LEAST_BITS} bits at least)")
    return [Recording(uri, name, *load_recording(SourceURI.parse(uri)).shape) for name, uri in uris.items()]


def _address(path: Path, **options: str) -> str:
    """The address of a file; characters that mean something in an address are escaped."""
    pairs = "&".join(f"{name}={quote(value, safe=',[]')}" for name, value in options.items() if value)
    return f"file:{quote(str(path), safe='/:~ ()[],@+=')}" + (f"?{pairs}" if pairs else "")


def _candidates(path: Path) -> dict[str, Shape]:
    """Arrays that may be readings: ``uint8``, or ``bool`` with enough cells not to be a mask."""
    arrays = {
        name: shape
        for name, (shape, dtype) in readable_arrays(path).items()
        if dtype == np.uint8 or (shape[-1] >= _LEAST_BITS and name != "valid")
    }
    return {name: shape for name, shape in arrays.items() if len(shape) > 1} or arrays


def _devices(path: Path, array: str, shape: Shape) -> list[tuple[str, str]]:
    """Name and address of each device of an array."""
    valid = "valid" if path.suffix == ".npz" and _is_mask(path, shape) else ""
    found = []
    for index in np.ndindex(*shape[:-2]):
        where = ",".join(map(str, index))
        name = (array or path.stem) + (f"[{where}]" if where else "")
        found.append((name, _address(path, array=array, index=where, valid=valid)))
    return found


def _is_mask(path: Path, shape: Shape) -> bool:
    found = readable_arrays(path).get("valid")
    return found is not None and found[1] == np.bool_ and found[0] == shape[:-1]


def _rows(address: SourceURI) -> NDArray[np.uint8]:
    """Readings as stored: shape ``(readings, bytes or bits)``."""
    path = Path(address.path)
    if path.suffix in _ARRAYS:
        return _from_arrays(path, address)
    for name in ("array", "index", "valid"):
        if name in address.options:
            raise SourceError(f"{name} goes with .npz and .npy files, not with {address.text!r}")
    if path.suffix in _TEXTS:
        return read_text(path)
    return read_dumps(address.path, address.int_option("reading_bytes", 0, 1, 1 << 28))


def _from_arrays(path: Path, address: SourceURI) -> NDArray[np.uint8]:
    name, index = address.text_option("array", ""), address.text_option("index", "")
    valid = address.text_option("valid", "")
    known = readable_arrays(path)
    if not name and path.suffix == ".npz":
        arrays = _candidates(path)
        if len(arrays) != 1:
            raise SourceError(f"{path} holds {len(arrays)} arrays of readings; {_choices(path, arrays)}")
        name = next(iter(arrays))
    if name not in known:
        raise SourceError(f"{path} has no uint8 or bool array {name!r}; {_choices(path, _candidates(path))}")
    shape = known[name][0]
    wanted = tuple(int(part) if part.isdecimal() and part.isascii() else -1 for part in index.split(",") if index)
    axes = len(shape) - 2
    if len(wanted) > max(axes, 0) or any(not 0 <= i < length for i, length in zip(wanted, shape, strict=False)):
        raise SourceError(f"index={index} in {address.text!r} does not fit the array's shape {list(shape)}")
    if len(wanted) < axes:
        raise SourceError(f"{address.text!r} holds several devices; {_choices(path, {name: shape})}")
    rows = np.atleast_2d(load_array(path, name)[wanted])
    if valid:
        mask = load_array(path, valid) if valid in known and known[valid][1] == np.bool_ else None
        mask = mask[wanted] if mask is not None and mask.shape == shape[:-1] else mask
        if mask is None or mask.shape != rows.shape[:1]:
            raise SourceError(f"valid={valid} of {path} is not a bool array with one value for each reading")
        rows = rows[mask == 1]
    return rows


def _choices(path: Path, arrays: dict[str, Shape]) -> str:
    """The addresses to try, for a message."""
    lines = [
        f"{uri} (array of shape {list(shape)})"
        for name, shape in arrays.items()
        for _, uri in _devices(path, name, shape)[:_SHOWN]
    ]
    if not lines:
        return f"it has no uint8 array, and no bool array of {_LEAST_BITS} bits or more"
    more = f", ... ({len(lines) - _SHOWN} more arrays)" if len(lines) > _SHOWN else ""
    return "try one of: " + ", ".join(lines[:_SHOWN]) + more
