"""Open a bound model: find the header, open the slot, verify the header and every byte beside the weights."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from unclone.errors import FormatError, HeaderTamperedError, NotBoundError
from unclone.formats import Layout, detect
from unclone.header import mac_input, parse_header
from unclone.keys import ContentKeys, check_header_mac, content_keys, open_slot
from unclone.licence import LicenceSource, unseal
from unclone.model.carrier import Carrier, layout_holes, masked_regions, read_carrier
from unclone.model.folder import model_in
from unclone.model.parallel import Progress
from unclone.model.reading import Files
from unclone.model.restored import RestoredModel
from unclone.model.restoring import Options, Restorer
from unclone.records import DeviceKey, Header

__all__ = ["BoundModel", "open_bound", "read_bound", "restore"]


class BoundModel:
    """A bound model on its device: all but the weights is verified, and those are restored as they are asked for.

    A context manager; closing it forgets the content key and leaves what was restored.

    Attributes:
        header: the verified header.
        layout: where everything lies in the files.
        carrier: the verified bytes beside the weights.
        files: the open files.
    """

    def __init__(self, header: Header, layout: Layout, carrier: Carrier, keys: ContentKeys, files: Files) -> None:
        self.header = header
        self.layout = layout
        self.carrier = carrier
        self.files = files
        self._restorer: Restorer | None = Restorer(header, layout, carrier, keys, files)

    def __repr__(self) -> str:
        return f"BoundModel({str(self.layout.files[0])!r}, {self.header.format}, {len(self.layout.regions)} tensors)"

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all tensors, masked or not."""
        return tuple(self.layout.regions)

    @property
    def restorer(self) -> Restorer:
        """What unmasks.

        Raises:
            FormatError: the model was closed.
        """
        if self._restorer is None:
            raise FormatError(f"{self.layout.files[0]} was closed; open it again")
        return self._restorer

    def restore(
        self,
        tensors: Iterable[str] | None = None,
        *,
        copy: bool | None = None,
        lock: bool = False,
        verify: str = "all",
        threads: int | None = None,
        progress: Progress | None = None,
    ) -> RestoredModel:
        """Restore tensors; arguments and errors as of ``unclone.restore``."""
        return self.restorer.run(tensors, Options(copy, lock, verify, threads, progress))

    def close(self) -> None:
        """Close the files and forget the content key."""
        self._restorer = None
        self.files.close()

    def __enter__(self) -> BoundModel:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_bound(path: str | os.PathLike[str], key: DeviceKey, *, licence: LicenceSource | None = None) -> BoundModel:
    """Open a bound model on its device, to restore tensors one at a time.

    Args:
        path: the bound model, or the folder that holds it.
        key: the device key, from ``reconstruct``.
        licence: of a release, or its path; by default the model's own slots are tried.

    Raises:
        NotBoundError: an ordinary model.
        FormatError: not a model file or licence, truncated, or of an unknown version.
        SlotError: no slot for this device.
        LicenceError: another device's or model's licence, altered, or ended.
        HeaderTamperedError: the header or the file beside the weights was altered.
    """
    layout, header = read_bound(Path(path))
    file_id = header.file_id
    content_key = open_slot(header.slots, key, file_id) if licence is None else unseal(licence, key, file_id)
    keys = content_keys(content_key, file_id)
    with ExitStack() as stack:
        files = stack.enter_context(Files(layout.files))
        holes = layout_holes(layout, (region for _, region in masked_regions(layout, header)))
        carrier = read_carrier(files.descriptors, holes)
        if not check_header_mac(keys, mac_input(header), carrier.digest, header):
            raise HeaderTamperedError(
                f"{layout.files[0]} was altered after binding: its header, or its bytes beside the weights"
            )
        bound = BoundModel(header, layout, carrier, keys, files)
        stack.pop_all()
    return bound


def restore(
    path: str | os.PathLike[str],
    key: DeviceKey,
    *,
    tensors: Iterable[str] | None = None,
    copy: bool | None = None,
    lock: bool = False,
    verify: str = "all",
    threads: int | None = None,
    progress: Progress | None = None,
    licence: LicenceSource | None = None,
) -> RestoredModel:
    """Verify a bound model and restore its true weights in memory.

    The slot, the header, every byte beside the weights, and each wanted tensor are verified before any of them is
    handed out.

    Args:
        path: the bound model.
        key: the device key, from ``reconstruct``.
        tensors: names to restore; all by default. Those left out are neither read nor verified.
        copy: ``True``: the tensors in a private buffer. ``False``: on a private mapping of the file, where only pages
            with masked blocks are copied; the file must then stay as it is while the tensors live. By default, a
            mapping for a model of which at most 5 % are masked in blocks, a buffer for others.
        lock: keep the restored weights out of swap.
        verify: ``"all"``, or for such a mapping ``"masked"``: the weights in clear are not read, hence not verified:
            whoever can write to the file can change them unnoticed, as in any ordinary model file.
        threads: one for each processor by default.
        progress: called with (bytes done, bytes in all).
        licence: of a release, or its path; by default the model's own slots are tried.

    Raises:
        NotBoundError: an ordinary model.
        FormatError: not a model file or licence, truncated, or of an unknown version.
        SlotError: no slot for this device.
        LicenceError: another device's or model's licence, altered, or ended.
        HeaderTamperedError: the header or the file beside the weights was altered.
        TensorTamperedError: a tensor was altered; it is named.
        ParameterError: ``tensors`` names one that is not there, or the options contradict each other.
        ResourceError: ``lock``, and the system's limit on locked memory is too low.
    """
    with open_bound(path, key, licence=licence) as bound:
        return bound.restore(tensors, copy=copy, lock=lock, verify=verify, threads=threads, progress=progress)


def read_bound(path: Path) -> tuple[Layout, Header]:
    """Layout and parsed header of a bound model; nothing is verified yet.

    Raises:
        NotBoundError: the model is not bound.
        FormatError: it cannot be read.
    """
    path = model_in(path) if path.is_dir() else path
    found = detect(path)
    layout = found.layout(path)
    if layout.header is None:
        raise NotBoundError(f"{path} is an ordinary model, not a bound one")
    header = parse_header(layout.header)
    if header.format != found.name:
        raise HeaderTamperedError(f"{path} is {found.name}, but its header says {header.format[:40]!r}")
    return layout, header
