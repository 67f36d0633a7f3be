"""Which format a file is, and what is said of those that are none."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
import safetensors.numpy
from onnx_models import MODELS

from unclone.errors import FormatError, UnsupportedError
from unclone.formats import detect


def test_content_decides_not_the_suffix(tmp_path: Path) -> None:
    onnx.save(MODELS["initializers_in_raw_data"](tmp_path), tmp_path / "a.bin")
    safetensors.numpy.save_file({"w": np.ones(3)}, tmp_path / "b.onnx")
    assert detect(tmp_path / "a.bin").name == "onnx"
    assert detect(tmp_path / "b.onnx").name == "safetensors"


def archive() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as made:
        made.writestr("readme", "nothing")
    return stream.getvalue()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (archive(), "zip archive"),
        (b"\x93NUMPY\x01\x00", "numpy"),
        (b"\x80\x02}q\x00.", "pickle"),
        (b"\x1c\x00\x00\x00ORTM" + bytes(20), "ONNX Runtime's own format"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "git lfs pull"),
    ],
)
def test_a_known_file_that_is_not_bound_is_named(content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "m.bin").write_bytes(content)
    with pytest.raises(UnsupportedError, match=said):
        detect(tmp_path / "m.bin")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("m.bin", b"", "empty"),
        ("m.bin", b"hello, world\n" * 9, "supported: gguf"),
        ("m.safetensors", b"\x00" * 64, "damaged, truncated or something else"),
        ("m.bin", bytes(64), "no model file"),
    ],
)
def test_what_is_no_model_is_told_what_is_supported(name: str, content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(FormatError, match=said):
        detect(tmp_path / name)


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="No such file"):
        detect(tmp_path / "absent.onnx")
    with pytest.raises(FormatError, match="folder"):
        detect(tmp_path)


def test_garbage_called_onnx_is_refused_by_its_parser(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(bytes(range(1, 200)))
    with pytest.raises(FormatError):
        detect(tmp_path / "m.onnx").draft(tmp_path / "m.onnx")


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["saved_model.pb", "variables"], "a TensorFlow SavedModel; save the model as .keras"),
        (["config.json", "model.weights.h5"], "an unpacked Keras model; pack it with `zip -0"),
        (["config.json", "model.safetensors"], "name one in it: model.safetensors$"),
        (["a.onnx", "b.gguf", "c.h5", "d.npz"], "name one in it: a.onnx, b.gguf, c.h5, ...$"),
        (["notes.txt"], "is a folder, not a model file$"),
    ],
)
def test_a_folder_is_told_what_it_is_or_what_is_in_it(names: list[str], said: str, tmp_path: Path) -> None:
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(FormatError, match=said):
        detect(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("m.weights.json", b'{"metadata": {}, "weight_map": {}}', "bind each of the .h5 files"),
        ("saved_model.pb", b"\xfe" * 50, "a TensorFlow graph"),
        ("m.joblib", b"\xfe" * 50, "a Python pickle"),
    ],
)
def test_a_name_tells_where_the_content_does_not(name: str, content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UnsupportedError, match=said):
        detect(tmp_path / name)
