"""Files of recorded readings: npz, npy, raw dumps and bits in text, within limits and without pickles.

Every function gives stored rows, one reading a row: packed bytes, or 0 and 1.
"""

from __future__ import annotations

import glob
import io
import re
import zipfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import IO, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from unclone.errors import SourceError
from unclone.files import read_bounded

__all__ = ["BITS_LIMIT", "SIZE_LIMIT", "load_array", "read_dumps", "read_text", "readable_arrays", "unpack"]

_T = TypeVar("_T")
Shape = tuple[int, ...]

SIZE_LIMIT: Final = 1 << 28
"""Bytes of one array, one text or all dumps of a device, unpacked from the archive."""
BITS_LIMIT: Final = 1 << 30
"""Cells of all readings of a device together; one byte each in memory."""
_DUMPS_LIMIT: Final = 100_000
_ARRAYS_LIMIT: Final = 10_000
_KINDS: Final = (np.dtype(np.uint8), np.dtype(np.bool_))


def readable_arrays(path: Path) -> dict[str, tuple[Shape, np.dtype[np.generic]]]:
    """Names, shapes and dtypes of the arrays of an ``.npz`` or ``.npy`` file, from their headers alone.

    Arrays of other dtypes than ``uint8`` and ``bool``, and empty ones, are left out. The array of an ``.npy`` file has
    the name ``""``.

    Raises:
        SourceError: the file cannot be read, or is not of this format.
    """
    if path.suffix == ".npy":
        with _refusing(path, ".npy file"), path.open("rb") as stream:
            headers = {"": _header(stream)}
    else:
        headers = _with_archive(path, _headers)
    return {
        name: (shape, dtype) for name, (shape, dtype) in headers.items() if dtype in _KINDS and shape and all(shape)
    }


def load_array(path: Path, name: str) -> NDArray[np.uint8]:
    """One array of an ``.npz`` file, or that of an ``.npy`` file (name ``""``); ``bool`` becomes ``uint8``.

    The last few arrays are kept, since a file of many devices is opened once for each of them.

    Raises:
        SourceError: no such array, not readings, larger than ``SIZE_LIMIT``, or damaged.
    """
    try:
        state = path.stat()
    except OSError as problem:
        raise SourceError(f"cannot read {path}: {problem.strerror}") from None
    return _load(path, name, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=4)
def _load(path: Path, name: str, _changed: int, _size: int) -> NDArray[np.uint8]:
    if path.suffix == ".npy":
        data = read_bounded(path, SIZE_LIMIT + 4096, SourceError)
        with _refusing(path, ".npy file"):
            return _parse(io.BytesIO(data), str(path))

    def load(archive: zipfile.ZipFile) -> NDArray[np.uint8]:
        try:
            entry = archive.getinfo(f"{name}.npy")
        except KeyError:
            raise SourceError(f"{path} has no array {name!r}") from None
        with archive.open(entry) as stream:
            return _parse(stream, f"{name} of {path}")

    return _with_archive(path, load)


def _parse(stream: IO[bytes], what: str) -> NDArray[np.uint8]:
    """An array, its size known from its header before anything is allocated, and no byte read beyond it."""
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise SourceError(f"{what} has the version {version} of the npy format; 1.0 and 2.0 are known")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(stream)
    if dtype not in _KINDS:
        raise SourceError(f"{what} holds {dtype}; readings are uint8 (packed bits, or 0 and 1) or bool")
    size = 1
    for length in shape:
        size *= length
    if size > SIZE_LIMIT:
        raise SourceError(f"{what} is larger than {SIZE_LIMIT} bytes; split it")
    data = stream.read(size + 1)
    if len(data) != size:
        raise SourceError(f"{what} is truncated or too long: {size} bytes were announced")
    array = np.frombuffer(data, dtype=np.uint8).reshape(shape, order="F" if fortran else "C")
    if dtype == np.bool_ and size and array.max() > 1:
        raise SourceError(f"{what} holds bool values other than 0 and 1: damaged")
    return array


def _headers(archive: zipfile.ZipFile) -> dict[str, tuple[Shape, np.dtype[np.generic]]]:
    entries = [entry for entry in archive.infolist() if entry.filename.endswith(".npy")]
    if len(entries) > _ARRAYS_LIMIT:
        raise SourceError(f"more than {_ARRAYS_LIMIT} arrays in one file")
    found = {}
    for entry in entries:
        with archive.open(entry) as stream:
            try:
                found[entry.filename[:-4]] = _header(stream)
            except ValueError:
                continue  # an array of Python objects: none of ours, and never unpickled
    return found


def _header(stream: IO[bytes]) -> tuple[Shape, np.dtype[np.generic]]:
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(stream)
    return shape, dtype


class _refusing:  # noqa: N801 - reads as a statement
    """Turns whatever a damaged file raises into a ``SourceError``: the parsers below raise many kinds."""

    def __init__(self, path: Path, what: str) -> None:
        self._path, self._what = path, what

    def __enter__(self) -> None:
        return None

    def __exit__(self, _: object, problem: BaseException | None, __: object) -> None:
        if isinstance(problem, SourceError) or not isinstance(problem, Exception):
            return
        if isinstance(problem, OSError) and problem.strerror:
            raise SourceError(f"cannot read {self._path}: {problem.strerror}") from None
        raise SourceError(f"{self._path} is not an {self._what}: {type(problem).__name__}") from None


def _with_archive(path: Path, use: Callable[[zipfile.ZipFile], _T]) -> _T:
    with _refusing(path, ".npz archive"), zipfile.ZipFile(path) as archive:
        return use(archive)


def read_text(path: Path) -> NDArray[np.uint8]:
    """Lines of 0 and 1, one reading a line; separators (comma, semicolon, space, tab) and ``#`` comments are ignored.

    Raises:
        SourceError: something else is in a line, or lines differ in length.
    """
    lines = read_bounded(path, SIZE_LIMIT, SourceError).removeprefix(b"\xef\xbb\xbf").split(b"\n")
    rows = [line.split(b"#", 1)[0].translate(None, b", ;\t\r") for line in lines]
    rows = [row for row in rows if row]
    for number, row in enumerate(rows, start=1):
        if row.translate(None, b"01"):
            raise SourceError(f"reading {number} of {path} holds something other than 0 and 1")
        if len(row) != len(rows[0]):
            raise SourceError(f"reading {number} of {path} has {len(row)} bits, and the first has {len(rows[0])}")
    if not rows:
        raise SourceError(f"{path} holds no reading: lines of 0 and 1, one reading a line")
    return np.frombuffer(b"".join(rows), dtype=np.uint8).reshape(len(rows), -1) - 48


def read_dumps(pattern: str, reading_bytes: int = 0) -> NDArray[np.uint8]:
    """Raw memory dumps: a folder or a glob with one reading a file, or one file.

    Files are taken in the natural order of their names (``read2`` before ``read10``); hidden ones are left out.

    Args:
        pattern: path of a file or folder, or a glob.
        reading_bytes: length of a reading, where files hold several one after the other; 0: a file is one reading.

    Raises:
        SourceError: no file, files of different lengths, or a length that is no multiple of a reading.
    """
    path = Path(pattern)
    if path.is_dir():
        files = [item for item in path.iterdir() if item.is_file() and not item.name.startswith(".")]
    else:
        files = [path] if path.exists() else [Path(name) for name in glob.glob(pattern)]
    if not files:
        raise SourceError(f"cannot read {pattern}: no such file, and no dump in such a folder")
    if len(files) > _DUMPS_LIMIT:
        raise SourceError(f"{pattern} names more than {_DUMPS_LIMIT} files")
    dumps: list[bytes] = []
    left = SIZE_LIMIT
    for file in sorted(files, key=_natural):
        dumps.append(read_bounded(file, left, SourceError))
        left -= len(dumps[-1])
        if len(dumps[-1]) != len(dumps[0]) or not dumps[0]:
            raise SourceError(f"{file} has {len(dumps[-1])} bytes, and the first dump {len(dumps[0])}; one is damaged")
    length = reading_bytes or len(dumps[0])
    if len(dumps[0]) % length:
        raise SourceError(f"{pattern}: {len(dumps[0])} bytes are not a multiple of reading_bytes={length}")
    return np.frombuffer(b"".join(dumps), dtype=np.uint8).reshape(-1, length)


def _natural(path: Path) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"([0-9]+)", path.name)]


def unpack(rows: NDArray[np.uint8], packed: str, order: str) -> NDArray[np.uint8]:
    """Cells of stored rows, ``uint8`` of 0/1.

    Args:
        rows: shape ``(readings, bytes or bits)``.
        packed: ``"yes"``, ``"no"``, or ``"auto"``: packed if any value is above 1.
        order: ``"msb"`` or ``"lsb"``: which bit of a byte comes first.
    """
    if packed == "yes" or (packed == "auto" and bool(rows.max() > 1)):
        if rows.size > BITS_LIMIT // 8:
            raise SourceError(f"more than {BITS_LIMIT} cells at once; choose fewer readings (first, last)")
        return np.unpackbits(rows, axis=1, bitorder="big" if order == "msb" else "little")
    if rows.max() > 1:
        raise SourceError("packed=no, but the readings hold values other than 0 and 1")
    return np.ascontiguousarray(rows)
