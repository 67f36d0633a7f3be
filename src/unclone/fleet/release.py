"""Releases: a model bound once to its vendor, who opens it to license it; and files of their own for each device."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from unclone.errors import FormatError, OutputError, ParameterError, RegistryError
from unclone.files import output_folder
from unclone.fleet.bulk import in_parallel
from unclone.fleet.licensing import Target
from unclone.fleet.registry import Registry
from unclone.fleet.rows import ModelRow, ReleaseRow
from unclone.fleet.tracing import STRENGTH, fingerprinted
from unclone.keys import slot_hint
from unclone.model import bind
from unclone.model.opening import read_bound
from unclone.records import DeviceKey, Header, Recipient

__all__ = ["BoundEach", "Tracing", "bind_each", "make_release", "register_release", "rekey"]

_TAG_DIGITS: Final = 32
_MEMORY: Final = Path("/dev/shm")  # noqa: S108 (a private folder is made in it)


def make_release(
    model: str | os.PathLike[str],
    vendor: Recipient,
    output: str | os.PathLike[str],
    *,
    force: bool = False,
    **options: Any,
) -> Header:
    """Bind a model to its vendor alone: the one slot keeps the content key for the vendor, licences give it to devices.

    Args:
        model: an ordinary model.
        vendor: the vendor's record; its root is a key provider (``passphrase:``, ``pkcs11:``, ``tpm:``) or a machine of
            several people's devices, of which k must agree.
        output: where the release goes.
        force: replace ``output``.
        **options: as of ``unclone.bind``.

    Raises:
        UncloneError: as ``unclone.bind``.
    """
    return bind(model, vendor, output, force=force, **options)


def register_release(
    registry: Registry, header: Header, name: str, *, rekeys: bytes = b"", device: bytes = b"", notes: str = ""
) -> ReleaseRow:
    """Note a release in a registry, and its model, if that is new. A release that it takes the place of is revoked.

    Args:
        registry: where.
        header: the release's.
        name: of the model.
        rekeys: file id of the release that it takes the place of.
        device: key digest of the one device that it is for.
        notes: free text.

    Raises:
        RegistryError: ``rekeys`` is unknown, or the file id stands for something else.
    """
    if rekeys and registry.release(rekeys) is None:
        raise RegistryError(f"release {rekeys.hex()}, which this one takes the place of, is not in this registry")
    hint = header.slots[0].hint if header.slots else b""
    row = ReleaseRow(header.file_id, name, header.format, int(time.time()), hint, rekeys, device, notes)
    known = registry.model(name) is not None
    with registry.writing() as writer:
        if not known:
            writer.add_model(ModelRow(name, header.format))
        writer.add_releases([row])
        if rekeys:
            writer.revoke("release", rekeys, f"rekeyed: {header.file_id.hex()}")
    return row


def rekey(
    model: str | os.PathLike[str],
    vendor: Recipient,
    output: str | os.PathLike[str],
    *,
    of: str | os.PathLike[str],
    force: bool = False,
    **options: Any,
) -> tuple[Header, bytes]:
    """A new release of a model under a new content key: licences of the old one do not open it.

    Who is left out when it is licensed has no use of it. He keeps the old release, and what he made of it.

    Args:
        model: the ordinary model.
        vendor: the vendor's record.
        output: where the new release goes.
        of: the old release.
        force: replace ``output``.
        **options: as of ``unclone.bind``.

    Returns:
        The new header, and the old release's file id.

    Raises:
        ParameterError: the old release is of another model: other tensors.
        UncloneError: as ``unclone.bind``.
    """
    old = read_bound(Path(of))[1]
    if Path(output).exists() and Path(output).samefile(of):
        raise OutputError(f"{output} is the old release itself; the devices need it until they have the new one")
    header = make_release(model, vendor, output, force=force, **options)
    if _shapes(header) != _shapes(old):
        Path(output).unlink()
        raise ParameterError(f"{of} is a release of another model than {model}: its tensors differ")
    return header, old.file_id


def _shapes(header: Header) -> set[tuple[str, str, tuple[int, ...]]]:
    masked = {(tensor.name, tensor.dtype, tensor.shape) for tensor in header.tensors}
    return masked | {(tensor.name, tensor.dtype, tensor.shape) for tensor in header.clear}


@dataclass(frozen=True, slots=True)
class BoundEach:
    """A device's own file.

    Attributes:
        key: key digest of the device.
        path: its file.
        file_id: of its file.
        made: whether it was made now; otherwise it was there.
    """

    key: bytes
    path: Path
    file_id: bytes
    made: bool


@dataclass(frozen=True, slots=True)
class Tracing:
    """Fingerprint each device's copy (``unclone.fleet.tracing``). Secret, and handed to the workers.

    Attributes:
        secret: the vendor's trace key, 32 bytes.
        strength: as of ``fingerprinted``.
    """

    secret: bytes = field(repr=False)
    strength: float = STRENGTH


@dataclass(frozen=True, slots=True)
class _Work:
    model: Path
    target: Target
    vendor: Target
    path: Path
    tracing: Tracing | None
    options: dict[str, Any]


def bind_each(
    model: str | os.PathLike[str],
    vendor: Recipient,
    targets: Iterable[Target],
    folder: Path,
    *,
    tracing: Tracing | None = None,
    workers: int = 1,
    backend: str = "loky",
    scheduler: str = "",
    **options: Any,
) -> Iterator[BoundEach]:
    """A file of its own for each target, under its own content key, bound to the target and the vendor.

    One broken device then opens nothing but its own file. A file that is there, whole and for the same target, is kept:
    a run that was broken off goes on.

    Args:
        model: the ordinary model, which every worker must see under this path.
        vendor: the vendor's record.
        targets: whom to bind to.
        folder: where the files go, which every worker must see.
        tracing: give each copy its device's fingerprint first, and ``traced.`` in its name; not by default.
        workers, backend, scheduler: as of ``in_parallel``; each worker binds on one thread.
        **options: as of ``unclone.bind``.

    Raises:
        OutputError: the folder cannot be made, or holds another file under a name that is needed.
        UncloneError: as ``unclone.bind``.
    """
    source, own = Path(model), Target.of(vendor)
    output_folder(folder)
    # A copy without a fingerprint must never be taken for one that has it.
    name = f"traced.{source.name}" if tracing else source.name
    work = (
        _Work(source, target, own, folder / f"{target.key.hex()[:_TAG_DIGITS]}.{name}", tracing, options)
        for target in dict.fromkeys(targets)
    )
    yield from in_parallel(_bind_one, work, workers=workers, backend=backend, scheduler=scheduler)


def _bind_one(work: _Work) -> BoundEach:
    file_id = _bound_for(work.path, work.target)
    if file_id is not None:
        return BoundEach(work.target.key, work.path, file_id, made=False)
    with _copy_for(work) as model:
        header = bind(model, [work.target, work.vendor], work.path, threads=1, **work.options)
    return BoundEach(work.target.key, work.path, header.file_id, made=True)


@contextmanager
def _copy_for(work: _Work) -> Iterator[Path]:
    """The model to bind: the vendor's, or a fingerprinted copy, in memory where the system has a place for that."""
    if work.tracing is None:
        yield work.model
        return
    memory = str(_MEMORY) if _MEMORY.is_dir() else None
    with tempfile.TemporaryDirectory(prefix="unclone-", dir=memory) as folder, DeviceKey(work.tracing.secret) as key:
        copy = Path(folder) / work.model.name
        fingerprinted(work.model, key, work.target.key.hex(), copy, strength=work.tracing.strength)
        yield copy


def _bound_for(path: Path, target: Target) -> bytes | None:
    """The file id, if the file is bound to the target. ``bind`` writes whole files, so one that is there is whole."""
    if not path.exists():
        return None
    try:
        header = read_bound(path)[1]
    except FormatError:
        raise OutputError(f"{path} is in the way: it is not a bound model") from None
    if not any(slot.hint == slot_hint(target.public_key, header.file_id) for slot in header.slots):
        raise OutputError(f"{path} is in the way: it is bound to another device")
    return header.file_id
