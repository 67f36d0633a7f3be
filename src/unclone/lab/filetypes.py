"""Task: magika's file-type network, scored on files found on this machine; a file's label is its extension."""

from __future__ import annotations

import json
import os
import site
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unclone.errors import InputError, MissingExtraError

__all__ = ["FileTypeTask", "load_file_types"]

_FILES_PER_CLASS = 3  # the demo scores them eleven times for each network, within a minute
_LEAST_PER_CLASS = 4
_MOST_LOOKED_AT = 150_000


@dataclass(frozen=True)
class FileTypeTask:
    """The network and files to score it on.

    Attributes:
        model: the network's ONNX file, inside the installed package.
        inputs: ``int32``, shape ``(files, 2048)``: bytes of the beginning and the end, 256 where there are none.
        labels: class numbers, shape ``(files,)``.
        classes: number of classes present.
    """

    model: Path
    inputs: NDArray[np.int32]
    labels: NDArray[np.int64]
    classes: int


def load_file_types(seed: int = 0) -> FileTypeTask:
    """Find the network and files for it.

    Raises:
        MissingExtraError: magika is not installed.
        InputError: too few files with a known extension on this machine.
    """
    try:
        import magika
    except ImportError:
        raise MissingExtraError("magika", "lab") from None
    package = Path(magika.__file__).parent
    model = package / "models" / "standard_v3_3" / "model.onnx"
    config = json.loads((model.parent / "config.min.json").read_text())
    known = json.loads((package / "config" / "content_types_kb.min.json").read_text())
    found = _find(_labels_by_extension(known, config["target_labels_space"]), np.random.default_rng(seed))
    if len(found) < 5:
        raise InputError("fewer than 5 kinds of files with a known extension were found on this machine")
    samples = [(row, label) for label, paths in sorted(found.items()) for row in _read_all(paths, config)]
    inputs = np.array([row for row, _ in samples], dtype=np.int32)
    labels = np.array([label for _, label in samples], dtype=np.int64)
    return FileTypeTask(model, inputs, labels, len(np.unique(labels)))


def _labels_by_extension(known: dict[str, Any], space: list[str]) -> dict[str, int]:
    """Extensions that belong to one class of the network only."""
    owners = defaultdict(set)
    for name, entry in known.items():
        for extension in entry["extensions"]:
            owners[extension].add(name)
    numbers = {name: number for number, name in enumerate(space)}
    return {
        extension: numbers[next(iter(names))]
        for extension, names in owners.items()
        if len(names) == 1 and next(iter(names)) in numbers
    }


def _find(labels: dict[str, int], rng: np.random.Generator) -> dict[int, list[Path]]:
    found: dict[int, list[Path]] = defaultdict(list)
    for path in _walk():
        label = labels.get(path.suffix[1:].lower())
        if label is not None:
            found[label].append(path)
    chosen = {}
    for label, paths in sorted(found.items()):
        if len(paths) >= _LEAST_PER_CLASS:
            picks = rng.permutation(len(paths))[:_FILES_PER_CLASS]
            chosen[label] = [paths[pick] for pick in picks]
    return chosen


def _walk() -> Iterator[Path]:
    roots = dict.fromkeys([sys.base_prefix, *site.getsitepackages(), "/usr/share", "/usr/lib", "/usr/include", "/etc"])
    looked_at = 0
    for root in roots:
        for folder, folders, files in os.walk(root):
            folders.sort()
            for name in sorted(files):
                looked_at += 1
                if looked_at > _MOST_LOOKED_AT:
                    return
                yield Path(folder, name)


def _read_all(paths: list[Path], config: dict[str, Any]) -> Iterator[list[int]]:
    for path in paths:
        try:
            if path.is_file() and path.stat().st_size >= config["min_file_size_for_dl"]:
                row = _features(path, config)
                if row[config["min_file_size_for_dl"] - 1] != config["padding_token"]:
                    yield row
        except OSError:
            continue


def _features(path: Path, config: dict[str, Any]) -> list[int]:
    """The network's input: the first block stripped on its left, the last stripped on its right, padded outwards."""
    size, block = path.stat().st_size, config["block_size"]
    with path.open("rb") as stream:
        head = stream.read(block).lstrip()[: config["beg_size"]]
        stream.seek(max(0, size - block))
        tail = stream.read(block).rstrip()[-config["end_size"] :]
    padding = [config["padding_token"]]
    return [*head, *padding * (config["beg_size"] - len(head)), *padding * (config["end_size"] - len(tail)), *tail]
