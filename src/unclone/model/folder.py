"""Hugging Face folders: one model with its configuration, bound and found as a whole."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final

from unclone.errors import FormatError, InputError, OutputError, UnsupportedError
from unclone.formats import detect
from unclone.formats.safetensors_index import SUFFIX
from unclone.records import Header

__all__ = ["bind_folder", "model_in"]

_SINGLE: Final = "model.safetensors"
_COPIED: Final = frozenset([
    ".bpe", ".cfg", ".csv", ".gif", ".html", ".ini", ".jinja", ".jpeg", ".jpg", ".json", ".jsonl", ".md", ".merges",
    ".model", ".png", ".py", ".rst", ".spm", ".svg", ".tiktoken", ".toml", ".tsv", ".txt", ".vocab", ".webp", ".yaml",
    ".yml",
])  # fmt: skip
"""Endings of what stands beside weights: configurations, vocabularies, code, pages. Others may be weights."""
_COPIED_NAMES: Final = frozenset(["license", "licence", "notice", "readme", "copying", ".gitattributes", ".gitignore"])


def model_in(folder: Path) -> Path:
    """The safetensors model of a folder: its index if there is one, else ``model.safetensors``.

    Raises:
        FormatError: there is none, or there are several.
    """
    indices = sorted(item for item in folder.iterdir() if item.name.lower().endswith(SUFFIX))
    single = folder / _SINGLE
    if len(indices) + single.is_file() > 1:
        names = ", ".join(item.name for item in (*indices, single) if item.exists())
        raise FormatError(f"{folder} holds several models: {names}; name one of them")
    if indices:
        return indices[0]
    if not single.is_file():
        detect(folder)  # says what the folder is
    return single


def bind_folder(folder: Path, output: Path, *, force: bool, bind: Callable[[Path, Path], Header]) -> Header:
    """Bind the model of a folder into a new folder, with copies of everything that is no weights.

    The new folder appears whole or not at all.

    Args:
        folder: holds one safetensors model; never altered.
        output: the new folder.
        force: replace ``output`` if it exists.
        bind: binds a model file.

    Raises:
        FormatError: no model, or several.
        UnsupportedError: the folder holds other files that may be weights; they would stay in clear.
        OutputError: ``output`` exists, lies in the folder, or is, with ``force``, no folder of a bound model.
    """
    model = model_in(folder)
    others = _others(folder, model)
    _check_target(folder, output, force=force)
    building = output.parent / f".~unclone-{secrets.token_hex(8)}"
    building.mkdir()
    try:
        header = bind(model, building / model.name)
        for item in others:
            target = building / item.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(item, target)
        _publish(building, output)
    except OSError as problem:
        raise OutputError(f"cannot write {output}: {problem.strerror}") from None
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return header


def _others(folder: Path, model: Path) -> list[Path]:
    """What is copied as it is. What is hidden is not: Git and the hub's client keep weights there."""
    bound = {path.resolve() for path in detect(model).layout(model).files}
    others = []
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        links = [name for name in folders if (Path(place) / name).is_symlink()]
        for name in (*links, *sorted(names)):
            item = Path(place) / name
            if item.resolve() in bound or (name.startswith(".") and name not in _COPIED_NAMES):
                continue
            if not item.is_file() or not item.resolve().is_relative_to(folder.resolve()):
                raise FormatError(f"{item} is no file of this folder (a link?); copy the folder with cp -rL")
            if not _is_no_weights(name):
                raise UnsupportedError(
                    f"{folder} also holds {item.relative_to(folder)}, which may be weights and would stay in clear; "
                    "remove it"
                )
            others.append(item)
    return others


def _is_no_weights(name: str) -> bool:
    name = name.lower()
    return not name.endswith(SUFFIX) and (Path(name).suffix in _COPIED or name in _COPIED_NAMES)


def _check_target(folder: Path, output: Path, *, force: bool) -> None:
    if output.exists() and not output.is_dir():
        raise OutputError(f"{output} is a file; a folder is bound into a folder")
    if output.resolve().is_relative_to(folder.resolve()) or folder.resolve().is_relative_to(output.resolve()):
        raise OutputError(f"{output} and {folder} lie in each other; bind into another folder")
    if output.is_dir() and not force:
        raise OutputError(f"{output} exists; give --force (force=True) to replace it")
    if output.is_dir() and not _is_bound(output):
        raise OutputError(f"{output} is no folder of a bound model, so --force does not replace it; name another one")
    if not output.parent.is_dir():
        raise OutputError(f"the folder {output.parent} does not exist")


def _is_bound(folder: Path) -> bool:
    """Whether a folder is empty or a bound model's: nothing else is ever replaced."""
    if not any(folder.iterdir()):
        return True
    try:
        model = model_in(folder)
        return detect(model).layout(model).header is not None
    except InputError:
        return False


def _publish(building: Path, output: Path) -> None:
    # A folder cannot be replaced in one step: the old one steps aside first, and is deleted last.
    old = output.parent / f"{building.name}.old"
    if output.is_dir():
        output.rename(old)
    try:
        building.rename(output)
    except OSError:
        if old.exists():
            old.rename(output)
        raise
    shutil.rmtree(old, ignore_errors=True)
