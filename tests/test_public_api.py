"""Public names, the error tree and the import's weight are part of the interface."""

from __future__ import annotations

import subprocess
import sys

import unclone
from unclone import errors

NAMES = [
    "Device",
    "DeviceKey",
    "UncloneError",
    "__version__",
    "bind",
    "enroll",
    "health",
    "inspect",
    "load_device",
    "open_source",
    "reconstruct",
    "refresh",
    "restore",
    "save_device",
]


def test_public_names_are_pinned_and_sorted() -> None:
    assert unclone.__all__ == NAMES
    assert sorted(NAMES) == NAMES
    assert all(hasattr(unclone, name) for name in NAMES)


def drawn(cls: type[errors.UncloneError], indent: int = 0) -> list[tuple[int, str]]:
    return [(indent, cls.__name__)] + [row for sub in cls.__subclasses__() for row in drawn(sub, indent + 1)]


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    assert errors.__doc__
    lines = errors.__doc__.split("::")[1].split("``exit_code``")[0].splitlines()
    parsed = []
    for line in lines:
        name = line.strip("│├└─ ").split(" ")[0]
        if name:
            parsed.append(((len(line) - len(line.lstrip("│├└─ ")) - 4) // 4, name))
    actual = [row for row in drawn(errors.UncloneError) if hasattr(errors, row[1])]
    assert sorted(parsed) == sorted(actual)
    assert sorted(errors.__all__) == sorted(name for _, name in actual)


def test_exit_codes() -> None:
    assert errors.InputError.exit_code == 2
    assert errors.KeyMaterialError.exit_code == 3
    assert errors.TamperedError.exit_code == 4
    for _, name in drawn(errors.UncloneError)[1:]:
        if hasattr(errors, name):
            assert getattr(errors, name).exit_code in (2, 3, 4)


def test_import_pulls_in_numpy_and_cryptography_at_most() -> None:
    code = "import sys, unclone; print(' '.join(sorted({name.split('.')[0] for name in sys.modules})))"
    loaded = set(
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    )
    heavy = {
        "torch",
        "onnx",
        "onnxruntime",
        "sqlalchemy",
        "matplotlib",
        "serial",
        "typer",
        "rich",
        "safetensors",
        "sklearn",
        "scipy",
    }
    assert not loaded & heavy
