"""Licences in bulk: open a release once with the vendor's key, then seal its content key for each device.

Any run may be broken off and started again: what is there and right is kept, the rest is made. The workers get the
release's content key with their work, and public keys; nothing else.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from unclone.errors import FormatError, OutputError, RegistryError
from unclone.files import output_folder
from unclone.fleet.bulk import batches, in_parallel
from unclone.fleet.registry import BATCH, Registry
from unclone.fleet.rows import REVOKED, DeviceRow, LicenceRow, MachineRow, key_digest
from unclone.keys import check_suite, open_slot, slot_hint
from unclone.licence import LICENCE_LIMIT, Issuer, check_terms, end_of, parse_licence
from unclone.model.opening import open_bound, read_bound
from unclone.records import DeviceKey, Recipient

__all__ = [
    "CHUNK",
    "WINDOW",
    "Issued",
    "Plan",
    "ReleaseKey",
    "Target",
    "licence_name",
    "license_files",
    "license_registry",
]

CHUNK: Final = 500
"""Devices in one piece of work: some 40 ms, so that handing it over costs little and a killed worker loses little."""

WINDOW: Final = 40
"""Pieces for each worker between two waits: licences are small, so many are in memory."""


@dataclass(frozen=True, slots=True)
class ReleaseKey:
    """What it takes to license a release; secret. Workers get it, so it is pickled, unlike a ``DeviceKey``."""

    file_id: bytes
    content_key: bytes = field(repr=False)

    @classmethod
    def open(cls, release: str | os.PathLike[str], vendor: DeviceKey) -> ReleaseKey:
        """Open a release with the vendor's key, and verify it, its weights apart.

        Raises:
            SlotError: it is not bound to this vendor.
            HeaderTamperedError: it was altered.
            NotBoundError: an ordinary model.
            FormatError: not a model file, or malformed.
        """
        open_bound(release, vendor).close()
        header = read_bound(Path(release))[1]
        return cls(header.file_id, open_slot(header.slots, vendor, header.file_id))


@dataclass(frozen=True, slots=True)
class Target:
    """Whom a licence is for: the public part of a record."""

    suite: str
    public_key: bytes

    @classmethod
    def of(cls, record: Recipient | DeviceRow | MachineRow) -> Target:
        """The target of a record, or of a registry's row."""
        return cls(record.suite, record.public_key)

    @property
    def key(self) -> bytes:
        """The digest by which a registry knows it, 32 bytes."""
        return key_digest(self.public_key)


@dataclass(frozen=True, slots=True)
class Plan:
    """The terms of the licences, and who does the work; see ``unclone.fleet.bulk.in_parallel``."""

    not_after: str = ""
    note: str = ""
    workers: int = 1
    backend: str = "loky"
    scheduler: str = ""

    def __post_init__(self) -> None:
        check_terms(self.not_after, self.note)


@dataclass(frozen=True, slots=True)
class Issued:
    """What a run did.

    Attributes:
        issued: licences made.
        kept: licences that were there, for the same device and terms.
        revoked: key digests of devices that were left out because they are revoked.
    """

    issued: int = 0
    kept: int = 0
    revoked: tuple[bytes, ...] = ()


def licence_name(key: bytes, file_id: bytes) -> str:
    """Name of a licence's file: of the digests alone, so that no device's name can lead out of the folder."""
    return f"{key.hex()[:32]}.{file_id.hex()[:8]}.licence.json"


def license_files(release: ReleaseKey, targets: Iterable[Target], folder: Path, plan: Plan) -> Issued:
    """A licence file for each target, in ``folder``.

    Files are renamed into place, not synced one by one: after a power failure some may be empty, which the next run
    sees and makes anew.

    Raises:
        OutputError: the folder cannot be made or written.
        RecordError: a public key is none.
    """
    output_folder(folder)
    issued = kept = 0

    def missing() -> Iterator[Target]:
        nonlocal kept
        for target in dict.fromkeys(targets):
            if _holds(folder / licence_name(target.key, release.file_id), release, target, plan):
                kept += 1
            else:
                yield target

    for target, text in _issue(release, missing(), plan):
        _place(folder / licence_name(target.key, release.file_id), text)
        issued += 1
    return Issued(issued, kept)


def license_registry(
    release: ReleaseKey,
    registry: Registry,
    targets: Sequence[Target] | None,
    plan: Plan,
    *,
    machines: bool = False,
    folder: Path | None = None,
    replace: bool = False,
) -> Issued:
    """Licences into a registry, and from there, on request, into files.

    Args:
        release: the opened release, which the registry must know.
        registry: where they go.
        targets: whom they are for; ``None``: every device of the registry, or every machine.
        plan: terms and workers.
        machines: without ``targets``, whether machines are meant; their parts, devices too, then get none.
        folder: also write the licences of these targets as files there.
        replace: also make anew what is there, for other terms; otherwise those devices are left as they are.

    Raises:
        RegistryError: release or device is unknown, or the release is revoked.
        OutputError: the folder cannot be made or written.
        RecordError: a public key is none.
    """
    row = registry.release(release.file_id)
    if row is None or row.state == REVOKED:
        state = "is revoked" if row else "is not in this registry"
        raise RegistryError(f"release {release.file_id.hex()} {state}")
    if folder is not None:
        output_folder(folder)
    revoked = [] if targets is None else [target.key for target in targets if registry.revoked(target.key)]
    held = 0

    def wanted() -> Iterator[Target]:
        nonlocal held
        if targets is None:
            everybody = registry.machine_keys if machines else registry.device_keys
            for rows in everybody(unlicensed_for=b"" if replace else release.file_id):
                yield from (Target.of(row) for row in rows)
            return
        for target in dict.fromkeys(targets):
            if target.key in revoked:
                continue
            if not replace and registry.licence(release.file_id, target.key):
                held += 1
            else:
                yield target

    issued, created, end = 0, int(time.time()), end_of(plan.not_after)
    for batch in batches(_issue(release, wanted(), plan), BATCH):
        rows = [LicenceRow(release.file_id, target.key, text.decode("ascii"), created, end) for target, text in batch]
        registry.add_licences(rows, replace=replace)
        issued += len(rows)
    if folder is not None:
        _export(release, registry, targets, folder)
    return Issued(issued, held, tuple(revoked))


def _export(release: ReleaseKey, registry: Registry, targets: Sequence[Target] | None, folder: Path) -> None:
    chosen = None if targets is None else {target.key for target in targets}
    for rows in registry.licences_of(release.file_id):
        for row in rows:
            path = folder / licence_name(row.device, release.file_id)
            text = row.text.encode("ascii")
            if row.state != REVOKED and (chosen is None or row.device in chosen) and _present(path) != text:
                _place(path, text)


@dataclass(frozen=True, slots=True)
class _Work:
    release: ReleaseKey
    not_after: str
    note: str
    targets: tuple[tuple[str, bytes], ...]
    """Suites and public keys; plain, since pickling objects would take a twentieth of the time of the work itself."""

    def __call__(self) -> list[bytes]:
        issuers = {
            suite: Issuer(self.release.content_key, self.release.file_id, suite, self.not_after, self.note)
            for suite in {suite for suite, _ in self.targets}
        }
        return [issuers[suite].issue(public_key) for suite, public_key in self.targets]


def _run(work: _Work) -> list[bytes]:
    return work()


def _issue(release: ReleaseKey, targets: Iterable[Target], plan: Plan) -> Iterator[tuple[Target, bytes]]:
    """Each target with the text of its licence."""
    waiting: deque[list[Target]] = deque()  # only texts come back from the workers, in order

    def work() -> Iterator[_Work]:
        for chunk in batches(targets, CHUNK):
            waiting.append(chunk)
            yield _Work(release, plan.not_after, plan.note, tuple((one.suite, one.public_key) for one in chunk))

    made = in_parallel(
        _run, work(), workers=plan.workers, backend=plan.backend, scheduler=plan.scheduler, window=WINDOW
    )
    for texts in made:
        yield from zip(waiting.popleft(), texts, strict=True)


def _holds(path: Path, release: ReleaseKey, target: Target, plan: Plan) -> bool:
    """Whether the file is the target's licence for this release and these terms."""
    data = _present(path)
    if data is None:
        return False
    try:
        found = parse_licence(data)
    except FormatError:
        return False
    wanted = release.file_id, check_suite(target.suite).name, slot_hint(target.public_key, release.file_id)
    return (found.file_id, found.suite, found.hint, found.not_after, found.note) == (*wanted, plan.not_after, plan.note)


def _present(path: Path) -> bytes | None:
    try:
        with path.open("rb") as stream:
            return stream.read(LICENCE_LIMIT + 1)
    except OSError:
        return None


def _place(path: Path, text: bytes) -> None:
    """Whole or not at all. The temporary name is the licence's own, so that a killed run leaves nothing for good."""
    temporary = path.with_name(f".~{path.name}")
    try:
        temporary.write_bytes(text)
        temporary.replace(path)
    except OSError as problem:
        raise OutputError(f"cannot write {path}: {problem.strerror}") from None
