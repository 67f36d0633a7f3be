"""Give an unmodified program the restored files: sealed files in memory, under their own names."""

from __future__ import annotations

import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

from unclone.errors import InputError, ParameterError, UnsupportedError
from unclone.hardening import disable_core_dumps
from unclone.licence import LicenceSource
from unclone.model import inspect, open_bound
from unclone.model.image import fill_image
from unclone.records import DeviceKey
from unclone.runtime.memory_file import memory_file, seal

__all__ = ["bound_arguments", "run_program"]

_NO_PATHS: Final = frozenset(["hdf5", "keras"])


def bound_arguments(arguments: Sequence[str]) -> list[int]:
    """Which of a program's arguments are bound models."""
    found = []
    for number, argument in enumerate(arguments):
        path = Path(argument)
        if path.is_file():
            with suppress(InputError):
                inspect(path)
                found.append(number)
    return found


def run_program(
    arguments: Sequence[str], key: DeviceKey, *, core_dumps: bool = False, licence: LicenceSource | None = None
) -> int:
    """Run a program with every argument that names a bound model replaced by the restored model; its exit code.

    The restored files are sealed files in memory. The program finds them by links of the models' own names in a folder
    that only this user can enter; the links name open files, and hold no secret. A program that insists on a real
    file, by ``realpath`` say, does not find one.

    Args:
        arguments: the program and its arguments.
        key: the device key; wipe it after.
        licence: of a release, or its path; by default the model's own slots are tried.
        core_dumps: allow core dumps of this process and the program, which would hold the weights.

    Raises:
        ParameterError: no program, a program that is not there, or no argument is a bound model.
        UncloneError: as ``unclone.restore``.
    """
    if not arguments:
        raise ParameterError("name the program to run after --")
    bound = bound_arguments(arguments)
    if not bound:
        raise ParameterError(f"none of the arguments of {arguments[0]} is a bound model")
    if shutil.which(arguments[0]) is None:
        raise ParameterError(f"there is no program {arguments[0]}")
    if not core_dumps:
        disable_core_dumps()
    with ExitStack() as stack:
        replaced = list(arguments)
        descriptors: list[int] = []
        for number in bound:
            link, inherited = stack.enter_context(_restored(Path(arguments[number]), key, licence))
            replaced[number] = str(link)
            descriptors += inherited
        return _wait(subprocess.Popen(replaced, pass_fds=descriptors))  # noqa: S603 (the user's own command)


@contextmanager
def _restored(path: Path, key: DeviceKey, licence: LicenceSource | None) -> Iterator[tuple[Path, list[int]]]:
    with open_bound(path, key, licence=licence) as bound:
        if bound.header.format in _NO_PATHS:
            raise UnsupportedError(
                f"{path}: programs cannot read {bound.header.format} from memory by path (HDF5 asks for the real one, "
                "and Keras may unpack to disk); use unclone.runtime.keras"
            )
        files = bound.layout.files
        with ExitStack() as stack:
            streams = [stack.enter_context(memory_file(file.name)) for file in files]
            fill_image(bound, streams)
            for stream in streams:
                seal(stream)
            with tempfile.TemporaryDirectory(prefix="unclone-") as folder:
                descriptors = [stream.fileno() for stream in streams]
                for file, descriptor in zip(files, descriptors, strict=True):
                    link = Path(folder) / file.relative_to(files[0].parent)
                    link.parent.mkdir(parents=True, exist_ok=True)
                    link.symlink_to(f"/proc/self/fd/{descriptor}")  # of whoever follows it: the program
                yield Path(folder) / files[0].name, descriptors


def _wait(process: subprocess.Popen[bytes]) -> int:
    """The exit code; Ctrl-C is the program's to handle, a request to end is handed on."""
    if threading.current_thread() is not threading.main_thread():
        return _code(process.wait())
    previous = {
        signal.SIGINT: signal.signal(signal.SIGINT, signal.SIG_IGN),
        signal.SIGTERM: signal.signal(signal.SIGTERM, lambda number, _: process.send_signal(number)),
    }
    try:
        return _code(process.wait())
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _code(status: int) -> int:
    """As a shell gives it."""
    return status if status >= 0 else 128 - status
