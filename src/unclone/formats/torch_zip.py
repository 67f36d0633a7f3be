"""PyTorch checkpoints: the zip archives of ``torch.save`` (spec/carriers.md, section 7).

What is masked are storages, each once, however many tensors view it: every one that the pickle names, in optimizer
states too. Left in clear, each with its reason: booleans, counters by their name, positions of sparse tensors, scales
and zero points of quantised ones.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from unclone.errors import AlreadyBoundError, FormatError, UnsupportedError
from unclone.formats.base import Layout, Output, Piece, Region, Weight
from unclone.formats.safetensors import CLEAR_NAMES
from unclone.formats.torch_pickle import PICKLE_LIMIT, read_pickle
from unclone.formats.torch_tensors import Unit, checkpoint_of
from unclone.formats.zip_carrier import bound_pieces, check_contents, masked_content, mend_checksums, zip_layout
from unclone.formats.zip_directory import STORED, Archive, Member, names_in
from unclone.records import ClearTensor

__all__ = ["TorchZip", "pickle_member"]

_PICKLE: Final = "data.pkl"
_SMALL_LIMIT: Final = 1 << 16
_KNOWN: Final = re.compile(r"data\.pkl|version|byteorder|\.format_version|\.storage_alignment|\.data/[^/]+|data/[^/]+")
_FOREIGN: Final = (
    (
        re.compile(r"[^/]*/?(constants\.pkl|code/.*)"),
        "a TorchScript archive; bind its state dict: torch.save(torch.jit.load(path).state_dict(), ...)",
    ),
    (
        re.compile(r"([^/]*/)?(archive_format|models/.*|data/aotinductor/.*|serialized_exported_program\.json)"),
        "a torch.export archive; bind its state dict: torch.save(torch.export.load(path).state_dict, ...)",
    ),
    (re.compile(r"([^/]*/)?\.data/extern_modules"), "a torch.package archive; bind the state dict alone"),
)
_INDEX: Final = "index or counter, by its name"


class TorchZip:
    """The format of ``torch.save``."""

    name = "torch"
    suffixes: tuple[str, ...] = (".pt", ".pth", ".ckpt")

    def matches(self, path: Path, head: bytes) -> bool:
        """Whether it is a zip archive with a ``data.pkl`` in its root folder, or one with such a suffix."""
        names = names_in(path, head)
        if names is None:
            return head.startswith(b"PK") and path.suffix.lower() in self.suffixes
        return any(name.count("/") == 1 and name.endswith("/" + _PICKLE) for name in names) or any(
            form.fullmatch(name) for form, _ in _FOREIGN for name in names
        )

    def draft(self, path: Path) -> TorchDraft:
        """Take an ordinary checkpoint apart.

        Raises:
            FormatError: malformed, truncated, damaged or hostile.
            UnsupportedError: TorchScript, torch.export, or objects that are not understood, by name.
            AlreadyBoundError: it carries a header of ours.
        """
        with _opened(path) as stream:
            archive = Archive(stream.fileno(), path)
            if archive.header is not None:
                raise AlreadyBoundError(f"{path} is bound already; bind the ordinary model instead")
            parsed = _parse(path, archive)
            check_contents(stream.fileno(), path, archive)
            return TorchDraft(path, archive, parsed)

    def layout(self, path: Path) -> Layout:
        """Find the header and every storage.

        Raises:
            FormatError: malformed, truncated or hostile.
        """
        with _opened(path) as stream:
            archive = Archive(stream.fileno(), path)
            regions = {
                unit.name: Region(unit.name, unit.dtype, unit.shape, 0, member.data, unit.nbytes)
                for unit, member in _parse(path, archive).units
            }
            return zip_layout(path, archive, regions)

    def mend(self, layout: Layout, streams: Sequence[BinaryIO]) -> None:  # noqa: ARG002 (found anew)
        """The CRCs of the storages."""
        mend_checksums(streams[0].fileno())


class TorchDraft:
    """An ordinary checkpoint, taken apart; see ``formats.base.Draft``."""

    def __init__(self, path: Path, archive: Archive, parsed: _Parsed) -> None:
        self._archive = archive
        self.sources: Sequence[Path] = (path,)
        weights: list[Weight] = []
        clear: list[ClearTensor] = list(parsed.clear)
        self._contents: dict[str, Sequence[Piece]] = {}
        for unit, member in sorted(parsed.units, key=lambda item: item[1].data):
            reason = _reason(unit)
            if reason:
                clear.append(ClearTensor(unit.name, unit.dtype, unit.shape, reason))
                continue
            self._contents[member.name] = masked_content(member, [(len(weights), member.data, unit.nbytes)])
            weights.append(Weight(unit.name, unit.dtype, unit.shape, 0, member.data, unit.nbytes))
        self.weights: Sequence[Weight] = weights
        self.clear: Sequence[ClearTensor] = clear

    def outputs(self, output: Path, header: bytes, tag: str) -> Sequence[Output]:  # noqa: ARG002 (no side files)
        """One file: every member where it was, the header's block before the directory."""
        return (Output(output, bound_pieces(self._archive, self._contents, self.weights, header)),)

    def encode_header(self, header: bytes) -> bytes:
        """The header's text as it is."""
        return header

    def finish(self, streams: Sequence[BinaryIO]) -> None:
        """The CRCs of the masked storages."""
        mend_checksums(streams[0].fileno())


@dataclass(frozen=True, slots=True)
class _Parsed:
    """Storages with their members, and what stays inside the pickle."""

    units: list[tuple[Unit, Member]]
    clear: list[ClearTensor]


def pickle_member(archive: Archive, path: Path) -> Member:
    """The member that holds the pickle, in the one folder in which all members lie.

    Raises:
        FormatError: there is none.
    """
    for name in archive.names:
        for form, what in _FOREIGN:
            if form.fullmatch(name):
                raise UnsupportedError(f"{path} is {what}")
    root = archive.members[0].name.partition("/")[0] if archive.members else ""
    if f"{root}/{_PICKLE}" not in archive:
        raise FormatError(f"{path} holds no {_PICKLE} in its root folder: it was not written by torch.save")
    for member in archive.members:
        if member.method != STORED:
            raise UnsupportedError(f"{path}: member {member.name[:80]!r} is compressed; save it again with torch.save")
        if not member.name.startswith(root + "/") or not _KNOWN.fullmatch(member.name[len(root) + 1 :]):
            raise UnsupportedError(f"{path}: member {member.name[:80]!r} is nothing that torch.save writes")
    return archive[f"{root}/{_PICKLE}"]


def _parse(path: Path, archive: Archive) -> _Parsed:
    pickle = pickle_member(archive, path)
    root = pickle.name.partition("/")[0]
    order = f"{root}/byteorder"
    if order in archive and archive.content(order, _SMALL_LIMIT) != b"little":
        raise UnsupportedError(f"{path} is big-endian; save it again on a little-endian machine")
    data = archive.content(pickle.name, PICKLE_LIMIT)
    label = f"{path}, {_PICKLE}"
    value, storages = read_pickle(data, label)
    checkpoint = checkpoint_of(value, label)
    units = []
    for unit in checkpoint.units(storages, label):
        name = f"{root}/data/{unit.storage.key}"
        if name not in archive:
            raise FormatError(f"{path}: the storage of {unit.name[:80]!r} is not in the archive")
        if archive[name].nbytes != unit.nbytes:
            raise FormatError(
                f"{path}: the storage of {unit.name[:80]!r} has {archive[name].nbytes} bytes instead of {unit.nbytes}"
            )
        units.append((unit, archive[name]))
    used = {member.name for _, member in units}
    for member in archive.members:
        if member.name.startswith(f"{root}/data/") and member.name not in used:
            raise UnsupportedError(f"{path}: {member.name[:80]!r} belongs to no tensor of the pickle")
    kept = [(name, "float64", count, "numbers in the pickle") for name, count in checkpoint.numbers]
    kept += [(name, "uint8", count, "bytes in the pickle") for name, count in checkpoint.texts]
    return _Parsed(units, [ClearTensor(name, dtype, (count,), why) for name, dtype, count, why in kept])


def _reason(unit: Unit) -> str:
    """Why a storage stays in clear; empty for one with weights."""
    if unit.dtype == "bool":
        return "boolean"
    if "int" in unit.dtype and re.split(r"[./]", unit.name)[-1] in CLEAR_NAMES:
        return _INDEX
    return unit.roles[0] if unit.roles and all(unit.roles) else ""


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as problem:
        raise FormatError(f"cannot read {path}: {problem.strerror}") from None
