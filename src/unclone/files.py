"""Files in and out: bounded reads, and outputs that appear whole or not at all."""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final

from unclone.errors import InputError, OutputError

__all__ = ["atomic_output", "check_output", "flushing", "output_folder", "read_bounded"]

_PAUSE: Final = 0.02


def read_bounded(path: Path, limit: int, error: type[InputError]) -> bytes:
    """All bytes of ``path``, refused with ``error`` when missing, unreadable or longer than ``limit`` bytes."""
    try:
        with path.open("rb") as stream:
            data = stream.read(limit + 1)
    except OSError as problem:
        raise error(f"cannot read {path}: {problem.strerror}") from None
    if len(data) > limit:
        raise error(f"{path} is longer than {limit} bytes")
    return data


def output_folder(path: Path) -> Path:
    """``path`` as a folder for outputs; made if its parent is there.

    Raises:
        OutputError: it is a file, or there is no parent.
    """
    try:
        path.mkdir(exist_ok=True)
    except OSError as problem:
        raise OutputError(f"{path} cannot be the folder of the outputs: {problem.strerror}") from None
    return path


def check_output(path: Path, *, force: bool) -> None:
    """Raise ``OutputError`` early if ``path`` exists and ``force`` is not given, or cannot be written."""
    if path.is_dir():
        raise OutputError(f"{path} is a folder")
    if path.exists() and not force:
        raise OutputError(f"{path} exists; give --force (force=True) to replace it")
    if not path.parent.is_dir():
        raise OutputError(f"the folder {path.parent} does not exist")


@contextmanager
def atomic_output(path: Path, *, force: bool = False) -> Iterator[BinaryIO]:
    """A binary stream (read and write) that becomes ``path`` when the block ends well, and nothing otherwise.

    The temporary file lies in the same folder, is synced and then renamed, so a crash at any moment leaves the old
    file or the new one. Without ``force`` an existing file is never replaced, also when it appears meanwhile.

    Raises:
        OutputError: the output exists, or the folder is missing, read-only or full.
    """
    check_output(path, force=force)
    temporary = path.parent / f".~unclone-{secrets.token_hex(8)}"
    try:
        with temporary.open("xb+") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        _publish(temporary, path, force=force)
    except FileExistsError:
        raise OutputError(f"{path} exists; give --force (force=True) to replace it") from None
    except OSError as problem:
        raise OutputError(f"cannot write {path}: {problem.strerror}") from None
    finally:
        with suppress(OSError):
            temporary.unlink()


@contextmanager
def flushing(descriptors: Sequence[int]) -> Iterator[None]:
    """Bring what is written to disk while the block runs, so that the sync at its end has little left to do.

    Raises:
        OSError: the disk's, which the kernel tells of once: the sync at the end would not see it.
    """
    done = threading.Event()
    problems: list[OSError] = []
    sync = getattr(os, "fdatasync", os.fsync)

    def flush() -> None:
        while not done.wait(_PAUSE):
            for descriptor in descriptors:
                try:
                    sync(descriptor)
                except OSError as problem:
                    problems.append(problem)
                    return

    thread = threading.Thread(target=flush, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
    if problems:
        raise problems[0]


def _publish(temporary: Path, path: Path, *, force: bool) -> None:
    if force:
        temporary.replace(path)
        return
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:
        # File systems without hard links (FAT on a memory card): check and rename, with a short race.
        check_output(path, force=False)
        temporary.replace(path)
