"""``file:`` recorded readings: each ``evaluate`` gives the next one.

``.npz`` and ``.npy`` hold ``uint8`` arrays whose last axis is a reading: bytes (packed bits) or bits (0/1). A folder
or a glob of raw dumps is one reading a file. ``.csv`` and ``.txt`` hold one reading a line, as 0 and 1.
"""

from __future__ import annotations

import glob
import io
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from unclone.errors import SourceError
from unclone.files import read_bounded
from unclone.puf.base import SourceURI

__all__ = ["RecordedSource", "Recording", "describe_recordings", "load_recording", "open_file"]

_T = TypeVar("_T")

SIZE_LIMIT: Final = 1 << 30
_OPTIONS: Final = ("array", "index", "valid", "first", "last", "offset", "length", "order", "packed", "mode")


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

    Raises:
        SourceError: the file cannot be read, is not a recording, or holds several devices and none is chosen.
    """
    mode = address.text_option("mode", "cycle")
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
    address.finish(_OPTIONS)
    rows = rows[first : None if last < 0 else last + 1]
    if not rows.size:
        raise SourceError(f"{address.text!r} names no reading")
    bits = _unpack(rows, packed, order)
    bits = bits[:, offset : offset + length if length else None]
    if not bits.size or (length and bits.shape[1] != length):
        raise SourceError(f"offset and length in {address.text!r} leave the reading; they count bits")
    return bits


def describe_recordings(path: str | Path) -> list[Recording]:
    """Every device that a recording may hold, with the address that opens it.

    An array of three or more dimensions holds a device for each index of its leading axes.

    Raises:
        SourceError: the file cannot be read or is no recording.
    """
    file = Path(path)
    if file.suffix != ".npz":
        data = load_recording(SourceURI.parse(f"file:{file}"))
        return [Recording(f"file:{file}", file.stem, *data.shape)]
    found = []
    arrays = _npz_arrays(file)
    for name, shape in arrays.items():
        for index in np.ndindex(*shape[:-2]):
            where = ",".join(map(str, index))
            uri = f"file:{file}?array={name}" + (f"&index={where}" if where else "")
            mask = _mask_for(shape, arrays, file)
            uri += f"&valid={mask}" if mask else ""
            data = load_recording(SourceURI.parse(uri))
            found.append(Recording(uri, name + (f"[{where}]" if where else ""), *data.shape))
    if not found:
        raise SourceError(f"{file} holds no uint8 array of readings")
    return found


def _rows(address: SourceURI) -> NDArray[np.uint8]:
    """Readings as stored: shape ``(readings, bytes or bits)``."""
    path = Path(address.path)
    name, index = address.text_option("array", ""), address.text_option("index", "")
    valid = address.text_option("valid", "")
    if path.suffix == ".npz":
        return _from_npz(path, name, index, valid, address)
    if name or index or valid:
        raise SourceError(f"array, index and valid go with .npz files, not with {address.text!r}")
    if path.suffix == ".npy":
        return _two_dimensional(_load_npy(path), "", path)
    if path.suffix in (".csv", ".txt"):
        return _from_text(path)
    return _from_dumps(address.path)


def _from_npz(path: Path, name: str, index: str, valid: str, address: SourceURI) -> NDArray[np.uint8]:
    arrays = _npz_arrays(path)
    if not name:
        if len(arrays) != 1:
            choice = ", ".join(f"array={key} {list(shape)}" for key, shape in arrays.items()) or "none of uint8"
            raise SourceError(f"{path} holds several arrays; add one of: {choice}")
        name = next(iter(arrays))
    if name not in arrays:
        raise SourceError(f"{path} has no uint8 array {name!r}; it has: {', '.join(arrays) or 'none'}")
    data, mask = _load_member(path, name), _load_member(path, valid) if valid else None
    for part in index.split(",") if index else []:
        if not part.isdigit() or data.ndim < 3 or int(part) >= data.shape[0]:
            raise SourceError(f"index={index} in {address.text!r} does not fit the array's shape {list(arrays[name])}")
        data = data[int(part)]
        mask = mask[int(part)] if mask is not None and mask.ndim > 1 else mask
    rows = _two_dimensional(data, f"{name} of ", path)
    if mask is not None:
        if mask.shape != rows.shape[:1] or mask.dtype != bool:
            raise SourceError(f"valid={valid} of {path} is not one true or false for each reading")
        rows = rows[mask]
    return rows


def _two_dimensional(data: NDArray[np.uint8], what: str, path: Path) -> NDArray[np.uint8]:
    if data.ndim > 2:
        raise SourceError(
            f"{what}{path} has the shape {list(data.shape)}: several devices; add index=0 (to {data.shape[0] - 1})"
        )
    return np.atleast_2d(data)


def _mask_for(shape: tuple[int, ...], arrays: dict[str, tuple[int, ...]], path: Path) -> str:
    """The boolean array ``valid``, where it fits."""
    if "valid" in arrays:
        return ""
    with zipfile.ZipFile(path) as archive:
        if "valid.npy" not in archive.namelist():
            return ""
    mask = _load_member(path, "valid")
    return "valid" if mask.dtype == bool and mask.shape == shape[:-1] else ""


def _npz_arrays(path: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the ``uint8`` arrays with at least one reading, from their headers alone."""
    found = {}

    def look(archive: zipfile.ZipFile) -> None:
        for entry in archive.infolist():
            if entry.filename.endswith(".npy"):
                with archive.open(entry) as stream:
                    shape, _, dtype = _npy_header(stream)
                if dtype == np.uint8 and shape and all(shape):
                    found[entry.filename[:-4]] = shape

    _with_archive(path, look)
    return found


def _load_member(path: Path, name: str) -> NDArray[np.uint8]:
    def load(archive: zipfile.ZipFile) -> NDArray[np.uint8]:
        try:
            entry = archive.getinfo(f"{name}.npy")
        except KeyError:
            raise SourceError(f"{path} has no array {name!r}") from None
        if entry.file_size > SIZE_LIMIT:
            raise SourceError(f"{name} of {path} is larger than {SIZE_LIMIT} bytes")
        with archive.open(entry) as stream:
            return _parse_npy(stream.read(SIZE_LIMIT + 1))

    return _with_archive(path, load)


def _with_archive(path: Path, use: Callable[[zipfile.ZipFile], _T]) -> _T:
    try:
        with zipfile.ZipFile(path) as archive:
            return use(archive)
    except SourceError:
        raise
    except OSError as problem:
        raise SourceError(f"cannot read {path}: {problem.strerror or problem}") from None
    except Exception as problem:  # zipfile raises many kinds on a damaged archive
        raise SourceError(f"{path} is not an .npz archive: {type(problem).__name__}") from None


def _npy_header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[np.generic]]:
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return read(stream)


def _parse_npy(data: bytes) -> NDArray[np.uint8]:
    if len(data) > SIZE_LIMIT:
        raise SourceError(f"an array is larger than {SIZE_LIMIT} bytes")
    array: NDArray[np.uint8] = np.load(io.BytesIO(data), allow_pickle=False)
    return array


def _load_npy(path: Path) -> NDArray[np.uint8]:
    data = read_bounded(path, SIZE_LIMIT, SourceError)
    try:
        array = _parse_npy(data)
    except (ValueError, EOFError):
        raise SourceError(f"{path} is not an .npy file") from None
    if array.dtype != np.uint8 or not array.ndim:
        raise SourceError(f"{path} holds {array.dtype}; readings are uint8, packed bits or 0/1")
    return array


def _from_text(path: Path) -> NDArray[np.uint8]:
    text = read_bounded(path, SIZE_LIMIT, SourceError)
    rows = [bytes(line).translate(None, b", ;\t\r") for line in text.split(b"\n")]
    rows = [row for row in rows if row]
    if not rows or any(set(row) - {48, 49} for row in rows) or len({len(row) for row in rows}) != 1:
        raise SourceError(f"{path} is not lines of 0 and 1 of equal length, one reading a line")
    return np.frombuffer(b"".join(rows), dtype=np.uint8).reshape(len(rows), -1) - 48


def _from_dumps(pattern: str) -> NDArray[np.uint8]:
    path = Path(pattern)
    files = sorted(item for item in path.iterdir() if item.is_file()) if path.is_dir() else []
    files = files or [Path(name) for name in sorted(glob.glob(pattern))] or [path]
    dumps = [read_bounded(file, SIZE_LIMIT, SourceError) for file in files]
    if len({len(dump) for dump in dumps}) != 1 or not dumps[0]:
        raise SourceError(f"the dumps of {pattern} are empty or differ in length; one file is one reading")
    return np.frombuffer(b"".join(dumps), dtype=np.uint8).reshape(len(dumps), -1)


def _unpack(rows: NDArray[np.uint8], packed: str, order: str) -> NDArray[np.uint8]:
    is_packed = packed == "yes" or (packed == "auto" and bool(rows.max() > 1))
    if is_packed:
        return np.unpackbits(rows, axis=1, bitorder="big" if order == "msb" else "little")
    if rows.max() > 1:
        raise SourceError("packed=no, but the readings hold values other than 0 and 1")
    return np.ascontiguousarray(rows)
