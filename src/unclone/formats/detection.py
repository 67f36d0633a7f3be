"""Which format a file is, by its content; the suffix only words the error."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from unclone.errors import FormatError, UnsupportedError
from unclone.formats.base import Format
from unclone.formats.gguf import Gguf
from unclone.formats.hdf5 import Hdf5
from unclone.formats.keras import Keras
from unclone.formats.npz import Npz
from unclone.formats.onnx import Onnx
from unclone.formats.safetensors import Safetensors
from unclone.formats.safetensors_index import SafetensorsIndex
from unclone.formats.tflite import Tflite
from unclone.formats.torch_zip import TorchZip

__all__ = ["FORMATS", "detect"]

HEAD_BYTES: Final = 4096

FORMATS: Final[tuple[Format, ...]] = (
    Gguf(),
    Hdf5(),
    Keras(),
    Npz(),
    TorchZip(),
    Tflite(),
    SafetensorsIndex(),
    Safetensors(),
    Onnx(),
)
"""Every format of this release, the most distinctive first."""

_PICKLE: Final = (
    "a Python pickle (torch.save before 1.6); where you trust it, load it and torch.save its state dict again"
)
_NAMED: Final = (
    (0, b"PK\x03\x04", "a zip archive, but none of torch.save, numpy.savez or Keras"),
    (0, b"\x93NUMPY", "a single numpy array (.npy); save it with numpy.savez"),
    (0, b"\x80\x02", _PICKLE),
    (0, b"\x80\x03", _PICKLE),
    (0, b"\x80\x04", _PICKLE),
    (0, b"\x80\x05", _PICKLE),
    (4, b"ORTM", "a model in ONNX Runtime's own format (.ort); convert back to ONNX"),
    (0, b"version https://git-lfs", "a Git LFS pointer, not the model itself; fetch it with git lfs pull"),
)

_FOLDERS: Final = {
    "saved_model.pb": "a TensorFlow SavedModel; save the model as .keras, or convert it to TFLite or ONNX",
    "model.weights.h5": "an unpacked Keras model; pack it with `zip -0 -r ../model.keras .`",
    "checkpoint": "a TensorFlow checkpoint; load it and save the model as .keras",
}
"""What a folder is by a file in it."""
_ENDINGS: Final = {
    ".weights.json": "the index of a sharded Keras file; bind each of the .h5 files that it names",
    ".pb": "a TensorFlow graph; save the model as .keras, or convert it to TFLite or ONNX",
    ".mlmodel": "a Core ML model; bind the model that it was made from",
    ".pkl": "a Python pickle; where you trust it, load it and save its arrays with numpy.savez",
    ".joblib": "a Python pickle; where you trust it, load it and save its arrays with numpy.savez",
}
"""What a file is by its name, where its content tells nothing."""


def detect(path: Path) -> Format:
    """The format of the model at ``path``.

    Raises:
        FormatError: missing, unreadable, a folder, empty, or no known format.
        UnsupportedError: a known kind of file that this release does not bind, by name.
    """
    if path.is_dir():
        raise FormatError(f"{path} is a folder, not a model file{_inside(path)}")
    try:
        with path.open("rb") as stream:
            head = stream.read(HEAD_BYTES)
    except OSError as problem:
        raise FormatError(f"cannot read {path}: {problem.strerror}") from None
    if not head:
        raise FormatError(f"{path} is empty")
    for found in FORMATS:
        if found.matches(path, head):
            return found
    for ending, kind in _ENDINGS.items():
        if path.name.lower().endswith(ending):
            raise UnsupportedError(f"{path} is called {kind}; {_supported()}")
    for offset, magic, kind in _NAMED:
        if head[offset : offset + len(magic)] == magic:
            raise UnsupportedError(f"{path} is {kind}; {_supported()}")
    for found in FORMATS:
        if path.suffix.lower() in found.suffixes:
            raise FormatError(f"{path} is called a {found.name} model but is damaged, truncated or something else")
    raise FormatError(f"{path} is no model file known to this release; {_supported()}")


def _inside(folder: Path) -> str:
    """What a folder is, or which models are in it."""
    try:
        names = sorted(item.name for item in folder.iterdir())
    except OSError:
        return ""
    for name, kind in _FOLDERS.items():
        if name in names:
            return f": {kind}"
    suffixes = {suffix for found in FORMATS for suffix in found.suffixes}
    models = [name for name in names if Path(name).suffix.lower() in suffixes]
    return f"; name one in it: {', '.join(models[:3])}{', ...' if models[3:] else ''}" if models else ""


def _supported() -> str:
    return "supported: " + ", ".join(f"{found.name} ({' '.join(found.suffixes)})" for found in FORMATS)
