"""Keras 3: ``load_model`` and ``load_weights`` on the true weights of a bound model, nothing on disk.

Keras unpacks an archive to disk where it has assets or where memory is short. So it never gets an archive with true
weights in it: the network is built from the same archive with zeros for weights, and the true ones follow from an HDF5
file that is a view of memory. A path to a file in memory would not do: the HDF5 library asks for the real path.
"""

from __future__ import annotations

import importlib.util
import io
import os
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final

from unclone.errors import FormatError, MissingExtraError, ParameterError, UnsupportedError
from unclone.formats.keras import WEIGHTS
from unclone.formats.zip_directory import Archive
from unclone.licence import LicenceSource
from unclone.model import open_bound
from unclone.model.image import fill_image
from unclone.records import DeviceKey
from unclone.runtime.memory_file import memory_file

__all__ = ["load_model", "load_weights"]

_OLDEST: Final = (3, 10)


def load_model(
    path: str | os.PathLike[str], key: DeviceKey, *, licence: LicenceSource | None = None, **kwargs: Any
) -> Any:
    """A Keras model with its true weights, its optimizer's state among them; nothing is written to disk.

    Replaces ``keras.saving.load_model(path)``.

    Args:
        path: the bound model, ``.keras`` or a whole model in ``.h5``.
        key: the device key, from ``reconstruct``.
        licence: of a release, or its path; by default the model's own slots are tried.
        **kwargs: ``custom_objects``, ``compile`` and ``safe_mode`` as Keras takes them; safe mode is on by default.

    Raises:
        MissingExtraError: Keras is not installed.
        UnsupportedError: Keras is older than 3.10.
        ParameterError: Keras finds no backend.
        FormatError: no Keras model, or one of weights alone.
        ResourceError: the system has no files in memory.
        UncloneError: as ``unclone.restore``.
    """
    keras = _keras()
    with _image(path, key, licence) as (kind, image):
        if kind == "hdf5":
            if "model_config" not in _marks(_all_of(image)):
                raise FormatError(f"{os.fspath(path)} holds weights alone; build the network and call load_weights")
            return keras.saving.load_model(_all_of(image, "model.h5"), **kwargs)
        with _without_weights(image) as link:
            model = keras.saving.load_model(link, **kwargs)
        keras.saving.load_weights(model, _weights_of(image))
        return model


def load_weights(
    model: Any, path: str | os.PathLike[str], key: DeviceKey, *, licence: LicenceSource | None = None, **kwargs: Any
) -> None:
    """Load the true weights of a bound model or weights file into ``model``; nothing is written to disk.

    Replaces ``model.load_weights(path)``.

    Args:
        model: a Keras model that is built.
        path: the bound file: ``.weights.h5``, ``.h5`` or ``.keras``.
        key: the device key, from ``reconstruct``.
        licence: of a release, or its path; by default the model's own slots are tried.
        **kwargs: ``skip_mismatch``, ``by_name`` and ``objects_to_skip`` as Keras takes them.

    Raises:
        As ``load_model``.
    """
    keras = _keras()
    with _image(path, key, licence) as (kind, image):
        if kind == "keras":
            weights = _weights_of(image)
        else:
            older = _marks(_all_of(image)) & {"layer_names", "model_weights"}
            weights = _all_of(image, "model.h5" if older else WEIGHTS)
        keras.saving.load_weights(model, weights, **kwargs)


class _Hdf5View(io.BytesIO):
    """A range of a file in memory, as a file of Keras's kind: ``BytesIO`` is what it takes, the name what it asks for.

    Args:
        stream: the file; it must stay open.
        start: first byte.
        size: bytes.
        name: what Keras tells formats apart by.
    """

    def __init__(self, stream: BinaryIO, start: int, size: int, name: str) -> None:
        super().__init__()
        self._name: str = name
        self._descriptor = stream.fileno()
        self._start = start
        self._size = size
        self._position = 0

    def __str__(self) -> str:
        return self._name

    def __fspath__(self) -> str:
        return self._name

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        count = min(len(view), max(0, self._size - self._position))
        done = os.preadv(self._descriptor, [view[:count]], self._start + self._position) if count else 0
        self._position += done
        return done

    def read(self, size: int | None = -1) -> bytes:
        left = max(0, self._size - self._position)
        data = bytearray(left if size is None or size < 0 else min(size, left))
        return bytes(data[: self.readinto(data)])


def _keras() -> Any:
    if importlib.util.find_spec("keras") is None:
        raise MissingExtraError("keras", "keras")
    try:
        import keras
    except ImportError as problem:
        raise ParameterError(
            f"Keras finds no backend ({problem}); set KERAS_BACKEND to one that is installed"
        ) from None
    if tuple(int(part) for part in keras.__version__.split(".")[:2]) < _OLDEST:
        raise UnsupportedError(f"Keras {keras.__version__} reads weights from paths alone; install 3.10 or later")
    return keras


@contextmanager
def _image(
    path: str | os.PathLike[str], key: DeviceKey, licence: LicenceSource | None
) -> Iterator[tuple[str, BinaryIO]]:
    """The format, and the restored file in memory."""
    with memory_file("unclone") as image:
        with open_bound(path, key, licence=licence) as bound:
            if bound.header.format not in ("keras", "hdf5"):
                raise FormatError(f"{os.fspath(path)} is {bound.header.format}, not a model of Keras")
            fill_image(bound, [image])
            kind = bound.header.format
        yield kind, image


def _weights_of(image: BinaryIO) -> _Hdf5View:
    """The HDF5 file in a restored archive."""
    member = Archive(image.fileno(), "the restored archive")[WEIGHTS]
    return _Hdf5View(image, member.data, member.nbytes, WEIGHTS)


def _all_of(image: BinaryIO, name: str = WEIGHTS) -> _Hdf5View:
    return _Hdf5View(image, 0, os.fstat(image.fileno()).st_size, name)


def _marks(view: _Hdf5View) -> set[str]:
    """What the root has, by which Keras tells its older files: attributes and groups."""
    import h5py

    with h5py.File(view, "r") as file:
        return {*file.attrs, *file}


@contextmanager
def _without_weights(image: BinaryIO) -> Iterator[str]:
    """A path to the same archive with zeros for weights, which take no room."""
    import h5py

    zeros = io.BytesIO()
    with h5py.File(_weights_of(image), "r") as source, h5py.File(zeros, "w") as target:
        _copy_without_weights(h5py, source, target)
    image.seek(0)
    with memory_file("unclone") as out, tempfile.TemporaryDirectory(prefix="unclone-") as folder:
        with zipfile.ZipFile(image) as archive, zipfile.ZipFile(out, "w") as written:
            for member in archive.infolist():
                data = zeros.getvalue() if member.filename == WEIGHTS else archive.read(member)
                written.writestr(member.filename, data)
        out.flush()
        link = Path(folder) / "model.keras"
        link.symlink_to(f"/proc/self/fd/{out.fileno()}")
        yield str(link)


def _copy_without_weights(h5py: Any, source: Any, target: Any) -> None:
    for name, value in source.attrs.items():
        target.attrs[name] = value
    for name, item in source.items():
        if isinstance(item, h5py.Group):
            _copy_without_weights(h5py, item, target.create_group(name))
            continue
        if item.dtype.kind not in "fiucV" or item.shape is None:
            made = target.create_dataset(name, data=item[()])
        else:
            made = target.create_dataset(name, item.shape, item.dtype)
        for attribute, value in item.attrs.items():
            made.attrs[attribute] = value
