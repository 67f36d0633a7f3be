"""The datasets of an HDF5 file, by the HDF5 library: where each lies, and what it holds. No dataset is read.

The library sees the file through a ``View``: a range of one open file with a limit on what is read, so that parsing
takes memory and time by the metadata alone, and no other file is opened.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from unclone.errors import FormatError, MissingExtraError, UncloneError, UnsupportedError
from unclone.formats.hdf5_types import dtype_of, is_vlen_text

__all__ = ["Dataset", "Tree", "View", "tree_of"]

_READ_LIMIT: Final = 256 * 2**20
_OBJECT_LIMIT: Final = 300_000
_DEPTH_LIMIT: Final = 256
_NUMBERS_IN_ATTRIBUTE: Final = 64
_NATURAL_LIMIT: Final = 1 << 62

_REPACK: Final = "rewrite it with `h5repack -l CONTI -f NONE` and bind the result"


@dataclass(frozen=True, slots=True)
class Dataset:
    """One dataset.

    Attributes:
        name: its path from the root, without the leading ``/``; the first one where hard links give it several.
        dtype: our dtype name; ``"string"`` for text.
        shape: dimensions; those of an array type or of opaque bytes come last.
        offset: first byte, counted from the start of the view; -1 where no byte of it stands in one piece.
        nbytes: its length, 0 if ``offset`` is -1.
        clear: why it cannot be masked, else empty.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int
    clear: str = ""


@dataclass(frozen=True, slots=True)
class Tree:
    """What a file holds.

    Attributes:
        datasets: in the order of their bytes in the file.
        config: the description of the network in an older whole model of Keras (JSON), else empty.
    """

    datasets: list[Dataset]
    config: str


class View(io.RawIOBase):
    """A read-only range of an open file, for the library's driver of Python files.

    Args:
        descriptor: an open file.
        start: first byte of the range.
        size: its length.
    """

    def __init__(self, descriptor: int, start: int, size: int) -> None:
        self._descriptor = descriptor
        self._start = start
        self._size = size
        self._position = 0
        self._left = _READ_LIMIT
        self.exhausted = False

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def tell(self) -> int:
        """Position in the range."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move within the range."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Read up to the end of the range; ``OSError`` beyond what metadata may take."""
        view = memoryview(buffer).cast("B")
        count = min(len(view), max(0, self._size - self._position))
        self._left -= count
        if self._left < 0:
            self.exhausted = True
            raise OSError("more metadata than any model has")
        done = os.preadv(self._descriptor, [view[:count]], self._start + self._position) if count else 0
        self._position += done
        return done


def tree_of(path: Path, view: View) -> Tree:
    """Every dataset that a hard link reaches, each once.

    Call it on a file that is not verified only in a process that may die or hang (``hdf5_child``).

    Args:
        path: the file's name, for errors.
        view: its bytes.

    Raises:
        FormatError: malformed, truncated or hostile.
        UnsupportedError: something that may hold weights and cannot be masked, by name.
        MissingExtraError: h5py is not installed.
    """
    h5py = _h5py()
    try:
        with h5py.File(view, "r") as file:
            if file.userblock_size:
                raise UnsupportedError(
                    f"{path} has a user block of {file.userblock_size} bytes; take it off with `h5unjam` first"
                )
            found = list(_Walk(h5py, path).run(file.id))
            config = file.attrs.get("model_config", "")
    except UncloneError:
        raise
    except Exception as problem:  # the library's errors have no class in common
        if view.exhausted:
            raise FormatError(f"{path} has more than {_READ_LIMIT} bytes of HDF5 metadata") from None
        said = " ".join(str(problem).split())[:200]
        raise FormatError(f"{path} is damaged or truncated; the HDF5 library says: {said}") from None
    found.sort(key=lambda item: (item.offset, item.name))
    text = config.decode("utf-8", "replace") if isinstance(config, bytes) else config
    return Tree(found, text if isinstance(text, str) else "")


def _h5py() -> Any:
    try:
        import h5py
    except ImportError:
        raise MissingExtraError("h5py", "keras") from None
    return h5py


class _Walk:
    """One walk over the groups, over hard links only, each object once."""

    def __init__(self, h5py: Any, path: Path) -> None:
        self._h5py = h5py
        self._path = path
        self._seen: set[int] = set()

    def run(self, file: Any) -> Iterator[Dataset]:
        h5 = self._h5py
        # The identifier of the file stands for its root group, but is no group to H5O.
        stack = [("", h5.h5g.open(file, b"/"), 0)]
        names: set[str] = set()
        while stack:
            prefix, group, depth = stack.pop()
            self._check_attributes(prefix or "/", group)
            inner = []
            for name, linked in self._hard_links(prefix, group):
                if isinstance(linked, h5.h5g.GroupID):
                    if depth >= _DEPTH_LIMIT:
                        raise FormatError(f"{self._path}: groups nest deeper than {_DEPTH_LIMIT}")
                    inner.append((f"{name}/", linked, depth + 1))
                elif isinstance(linked, h5.h5d.DatasetID):
                    if name in names:
                        raise FormatError(f"{self._path}: two datasets are called {name[:80]!r}")
                    names.add(name)
                    self._check_attributes(name, linked)
                    yield self._dataset(name, linked)
                elif not isinstance(linked, h5.h5t.TypeID):
                    raise UnsupportedError(f"{self._path}: {name[:80]!r} is neither group, dataset nor datatype")
            stack += reversed(inner)

    def _hard_links(self, prefix: str, group: Any) -> Iterator[tuple[str, Any]]:
        h5 = self._h5py
        links: list[tuple[bytes, int, int]] = []

        # Of a hard link, `u` is the object's address: its identity.
        def visit(name: bytes, info: Any) -> bool | None:
            links.append((name, info.type, info.u))
            return True if len(links) > _OBJECT_LIMIT else None

        group.links.iterate(visit, info=True)
        for raw, kind, address in links:
            name = prefix + raw.decode("utf-8")
            if kind == h5.h5l.TYPE_SOFT:  # a second name for what a hard link reaches, or for nothing
                continue
            if kind != h5.h5l.TYPE_HARD:
                what = "an external link" if kind == h5.h5l.TYPE_EXTERNAL else "a link of unknown kind"
                raise UnsupportedError(f"{self._path}: {name[:80]!r} is {what}; copy what it names into the file")
            if address in self._seen:
                continue
            self._seen.add(address)
            if len(self._seen) > _OBJECT_LIMIT:
                raise FormatError(f"{self._path} holds more than {_OBJECT_LIMIT} objects")
            yield name, h5.h5o.open(group, raw)

    def _check_attributes(self, name: str, owner: Any) -> None:
        """Attributes stay in clear: text, and numbers too few to be weights."""
        h5 = self._h5py
        for index in range(h5.h5a.get_num_attrs(owner)):
            attribute = h5.h5a.open(owner, index=index)
            called = attribute.name.decode("utf-8", "replace")[:80]
            if called == "pandas_type":
                raise UnsupportedError(f"{self._path} is a table written by pandas, not a model")
            where = f"{self._path}: the attribute {called!r} of {name[:80]!r}"
            kind = attribute.get_type()
            if kind.detect_class(h5.h5t.REFERENCE):
                raise UnsupportedError(f"{where} holds object references, behind which weights may stand")
            space = attribute.get_space()
            count = space.get_simple_extent_npoints() * max(1, kind.get_size() // 8)
            numeric = not isinstance(kind, h5.h5t.TypeStringID | h5.h5t.TypeEnumID) and not is_vlen_text(h5, kind)
            if numeric and (count > _NUMBERS_IN_ATTRIBUTE or kind.detect_class(h5.h5t.VLEN)):
                raise UnsupportedError(f"{where} holds an array; weights belong into datasets")

    def _dataset(self, name: str, dataset: Any) -> Dataset:
        h5 = self._h5py
        where = f"{self._path}: dataset {name[:80]!r}"
        # Of a virtual dataset even the shape would make the library open other files: the layout comes first.
        creation = dataset.get_create_plist()
        layout = creation.get_layout()
        if layout == h5.h5d.VIRTUAL or creation.get_external_count():
            raise UnsupportedError(f"{where} keeps its values in other files; copy them into this one")
        kind = dataset.get_type()
        shape = self._shape(where, dataset)
        if kind.detect_class(h5.h5t.REFERENCE):
            raise UnsupportedError(f"{where} holds object references, behind which weights may stand")
        if isinstance(kind, h5.h5t.TypeStringID) or is_vlen_text(h5, kind):
            return Dataset(name, "string", shape or (), -1, 0, "text")
        dtype, inner = dtype_of(h5, where, dataset, kind)
        if shape is None:
            return Dataset(name, dtype, (0,), -1, 0, "empty")
        nbytes = math.prod(shape) * kind.get_size()
        shape += inner
        if nbytes == 0:
            return Dataset(name, dtype, shape, -1, 0, "empty")
        if layout != h5.h5d.CONTIGUOUS:
            what = "in chunks" if layout == h5.h5d.CHUNKED else "within its object header"
            raise UnsupportedError(f"{where} is stored {what}, not in one piece; {_REPACK}")
        offset = dataset.get_offset()
        if offset is None:
            return Dataset(name, dtype, shape, -1, 0, "never written: it reads as its fill value")
        if dataset.get_storage_size() != nbytes:
            raise FormatError(f"{where} is {list(shape)} of {dtype}, and has {dataset.get_storage_size()} bytes")
        return Dataset(name, dtype, shape, offset, nbytes, "boolean" if dtype == "bool" else "")

    def _shape(self, where: str, dataset: Any) -> tuple[int, ...] | None:
        """Dimensions, ``None`` for a null dataspace."""
        space = dataset.get_space()
        if space.get_simple_extent_type() == self._h5py.h5s.NULL:
            return None
        shape = tuple(int(n) for n in space.get_simple_extent_dims())
        if any(n < 0 for n in shape) or math.prod(max(1, n) for n in shape) >= _NATURAL_LIMIT:
            raise FormatError(f"{where} is larger than any memory")
        return shape
