"""Sharded safetensors: an index, and the shards it names (spec/carriers.md, section 3).

One header, in the index, covers all shards: a shard of another binding does not fit. Bound shards get names of their
own, so that a model that is bound again over an older one is the old or the new one at every moment.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, Final

from unclone.errors import AlreadyBoundError, FormatError, OutputError, ParameterError
from unclone.files import read_bounded
from unclone.formats.base import (
    HEADER_LIMIT,
    METADATA_KEY,
    Copy,
    HeaderPiece,
    Layout,
    Literal,
    Masked,
    Output,
    Piece,
    Region,
    Weight,
)
from unclone.formats.safetensors import Parsed, clear_reason, escape, parse, parse_json
from unclone.records import ClearTensor

__all__ = ["SUFFIX", "SafetensorsIndex"]

SUFFIX: Final = ".safetensors.index.json"
_INDEX_LIMIT: Final = 100_000_000
_SHARDS_LIMIT: Final = 10_000
_METADATA: Final = "metadata"
_MAP: Final = "weight_map"
_PREFIX: Final = f'{{"{_METADATA}":{{"{METADATA_KEY}":"'.encode()


class SafetensorsIndex:
    """An index with its shards."""

    name = "safetensors-index"
    suffixes: tuple[str, ...] = (SUFFIX,)

    def matches(self, path: Path, head: bytes) -> bool:
        """Whether the file is called an index and starts like one."""
        return path.name.lower().endswith(SUFFIX) and head.lstrip()[:1] == b"{"

    def draft(self, path: Path) -> IndexDraft:
        """Take an ordinary model apart.

        Raises:
            FormatError: malformed, or index and shards disagree.
            AlreadyBoundError: the index or a shard carries a header of ours.
        """
        index = _Index(path)
        if METADATA_KEY in index.metadata:
            raise AlreadyBoundError(f"{path} is bound already; bind the ordinary model instead")
        return IndexDraft(index)

    def layout(self, path: Path) -> Layout:
        """Find the header and every tensor.

        Raises:
            FormatError: malformed, or index and shards disagree.
        """
        index = _Index(path)
        regions = {
            name: replace(region, file=number)
            for number, shard in enumerate(index.shards, 1)
            for name, region in shard.regions.items()
        }
        files = (path, *index.paths)
        text = index.metadata.get(METADATA_KEY)
        if text is None:
            return Layout(files, None, 0, 0, 0, regions)
        if not isinstance(text, str) or len(text) > HEADER_LIMIT:
            raise FormatError(f"{path}: the header of a bound model is no text of at most {HEADER_LIMIT} bytes")
        encoded = escape(text.encode())
        if not index.raw.startswith(_PREFIX + encoded + b'"'):
            raise FormatError(
                f"{path}: the header of a bound model is not in its place; another program rewrote the index"
            )
        return Layout(files, text.encode(), 0, len(_PREFIX), len(encoded), regions)

    def mend(self, layout: Layout, streams: Sequence[BinaryIO]) -> None:
        """Nothing depends on the weights."""


class _Index:
    """An index and its shards, parsed and compared."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.raw = read_bounded(path, _INDEX_LIMIT, FormatError)
        self.value = parse_json(path, self.raw.lstrip(b" \t\r\n"))
        metadata, names = self.value.get(_METADATA, {}), self.value.get(_MAP)
        if not isinstance(metadata, dict) or not isinstance(names, dict) or not names:
            raise FormatError(
                f"{path}: an index needs {_MAP!r}, an object that is not empty, and {_METADATA!r}, if any"
            )
        if not all(isinstance(shard, str) for shard in names.values()):
            raise FormatError(f"{path}: {_MAP} names a shard that is no text")
        self.metadata: dict[str, Any] = metadata
        self.names: dict[str, str] = names
        self.shard_names = sorted(set(names.values()))
        if len(self.shard_names) > _SHARDS_LIMIT:
            raise FormatError(f"{path}: more than {_SHARDS_LIMIT} shards")
        self.paths = [_shard_path(path, name) for name in self.shard_names]
        self.shards = [self._shard(*pair) for pair in zip(self.shard_names, self.paths, strict=True)]

    def _shard(self, name: str, path: Path) -> Parsed:
        shard = parse(path)
        if METADATA_KEY in (shard.metadata or {}):
            raise AlreadyBoundError(f"{path} is bound by itself; bind the ordinary model instead")
        wanted = {tensor for tensor, home in self.names.items() if home == name}
        odd = wanted ^ set(shard.regions)
        if odd:
            where = "which the shard has not" if min(odd) in wanted else "which the index does not place there"
            raise FormatError(f"{self.path}: {name} and the index disagree on tensor {min(odd)[:80]!r}, {where}")
        return shard


def _shard_path(index: Path, name: str) -> Path:
    """The path of a shard: an ordinary file in the index's folder."""
    if not name or name in (".", "..") or any(c in name for c in "/\\:\0"):
        raise FormatError(f"{index}: shard {name[:80]!r} is no plain file name")
    path = index.parent / name
    try:
        inside = path.resolve(strict=True).parent == index.parent.resolve(strict=True)
    except (OSError, RuntimeError):
        raise FormatError(f"{index}: shard {name[:80]!r} is missing; the whole folder is needed") from None
    if not inside:
        raise FormatError(f"{index}: shard {name[:80]!r} is a link that leads elsewhere; copy the folder with cp -rL")
    if not path.is_file():
        raise FormatError(f"{index}: shard {name[:80]!r} is no ordinary file")
    return path


class IndexDraft:
    """An ordinary sharded model, taken apart; see ``formats.base.Draft``."""

    def __init__(self, index: _Index) -> None:
        self._index = index
        self.sources: Sequence[Path] = (index.path, *index.paths)
        weights: list[Weight] = []
        clear: list[ClearTensor] = []
        self._pieces: list[list[Piece]] = []
        for number, shard in enumerate(index.shards, 1):
            pieces: list[Piece] = [Copy(number, 0, shard.data_start)]
            for region in sorted(shard.regions.values(), key=lambda item: (item.offset, item.nbytes)):
                reason = clear_reason(region)
                if reason:
                    clear.append(ClearTensor(region.name, region.dtype, region.shape, reason))
                    pieces.append(Copy(number, region.offset, region.nbytes))
                else:
                    pieces.append(Masked(len(weights)))
                    weights.append(_weight(region, number))
            self._pieces.append(pieces)
        self.weights: Sequence[Weight] = weights
        self.clear: Sequence[ClearTensor] = clear

    def outputs(self, output: Path, header: bytes, tag: str) -> Sequence[Output]:
        """The index, with our header first in its metadata, and the shards under names with the tag.

        Raises:
            ParameterError: the output is not called an index.
            OutputError: the output lies in the model's own folder.
        """
        if not output.name.lower().endswith(SUFFIX):
            raise ParameterError(f"{output}: the index of a sharded model must be called ...{SUFFIX}")
        if output.parent.resolve() == self._index.path.parent.resolve():
            raise OutputError(f"{output.parent} holds the ordinary model; bind a sharded model into another folder")
        names = {name: _tagged(name, tag) for name in self._index.shard_names}
        placed = {tensor: names[shard] for tensor, shard in self._index.names.items()}
        rest = json.dumps({_METADATA: self._index.metadata, **self._others(), _MAP: placed}, indent=2).encode()
        opening = f'{{\n  "{_METADATA}": {{'.encode()
        if not rest.startswith(opening):
            raise AssertionError("the index does not start with its metadata")
        tail = b'"' + (b"," if self._index.metadata else b"") + rest[len(opening) :]
        encoded = escape(header)
        index = Output(output, [Literal(_PREFIX), HeaderPiece(encoded), Literal(tail + b"\n")])
        shards = zip(self._index.shard_names, self._pieces, strict=True)
        return (index, *(Output(output.parent / names[name], pieces) for name, pieces in shards))

    def _others(self) -> dict[str, Any]:
        return {name: value for name, value in self._index.value.items() if name not in (_METADATA, _MAP)}

    def encode_header(self, header: bytes) -> bytes:
        """The header's text inside a JSON string."""
        return escape(header)

    def finish(self, streams: Sequence[BinaryIO]) -> None:
        """Nothing depends on the masked bytes."""


def _weight(region: Region, source: int) -> Weight:
    return Weight(region.name, region.dtype, region.shape, source, region.offset, region.nbytes)


def _tagged(name: str, tag: str) -> str:
    stem, dot, suffix = name.rpartition(".")
    return f"{stem}.{tag}.{suffix}" if dot and stem else f"{name}.{tag}"
