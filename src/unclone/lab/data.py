"""Labelled data of the built-in tasks: found locally, checked, never shipped and never downloaded silently."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

from unclone.errors import InputError

__all__ = ["FILES", "DataFile", "MissingDataError", "cache_folder", "data_file", "data_folder"]


class MissingDataError(InputError):
    """A data set is not on this machine; the message names its public home and where it belongs."""


@dataclass(frozen=True)
class DataFile:
    """A file of a data set.

    Attributes:
        path: below the data folder.
        home: where the public gets it.
        sha256: of the file that the committed weights were trained with, or ``""`` where any of that format will do.
    """

    path: str
    home: str
    sha256: str = ""


FILES: Final = {
    "mnist": DataFile(
        "tasks/mnist.npz",
        "http://yann.lecun.com/exdb/mnist/ as x_train, y_train, x_test, y_test (first 10,000 training images)",
        "c9719c6d34e6df6246c1234814cd19796cbfd0c71ff8e1f2db36214b7b72ef87",
    ),
    "fashion-mnist": DataFile(
        "tasks/fashion_mnist.npz",
        "https://github.com/zalandoresearch/fashion-mnist as x_train, y_train, x_test, y_test",
    ),
    "cifar10": DataFile(
        "tasks/cifar10_jpeg_subset.npz",
        "https://www.cs.toronto.edu/~kriz/cifar.html (10,000 training and 2,000 test images)",
        "93ede276f2c108392ba19b0a39a718c192ec4eeb9b3721cd8c4d7f301e70173a",
    ),
    "fsdd": DataFile(
        "tasks/fsdd.npz",
        "https://github.com/Jakobovski/free-spoken-digit-dataset",
        "4a630576fea57199a68b5f55d0a197fc8f6e098a48f43cd79828296b657444cd",
    ),
    "reviews-positive": DataFile(
        "tasks/rt-polarity.pos",
        "https://www.cs.cornell.edu/people/pabo/movie-review-data/",
        "2da124ec187a9d5a29c9f04e91c540e02baed5af8868f550a26bd6fd4dbf8bf0",
    ),
    "reviews-negative": DataFile(
        "tasks/rt-polarity.neg",
        "https://www.cs.cornell.edu/people/pabo/movie-review-data/",
        "4ace77d558c3714723843f1d65b60c01e3417b208180f0728808d76ad0eeeaca",
    ),
    "banking77-train": DataFile(
        "tasks/banking77_train.csv",
        "https://github.com/PolyAI-LDN/task-specific-datasets (banking_data)",
        "b06e26ac675513959a63135f11b94ea7786ed02da65db93a5650d8838cbc664b",
    ),
    "banking77-test": DataFile(
        "tasks/banking77_test.csv",
        "https://github.com/PolyAI-LDN/task-specific-datasets (banking_data)",
        "d12d6e3bc4c3103966ae786dc435913c0c563dfa328f5a3646d0e62cfeeb474d",
    ),
    "turbofan-train": DataFile(
        "tasks/cmapss/train_FD001.txt",
        "https://data.nasa.gov (C-MAPSS Jet Engine Simulated Data)",
        "963b5e22825b34d8b21c69e1aeb4af3e647050eb672ee8834ba4b5d91d2de0f8",
    ),
    "turbofan-test": DataFile(
        "tasks/cmapss/test_FD001.txt",
        "https://data.nasa.gov (C-MAPSS Jet Engine Simulated Data)",
        "3cda7109ce17bafb5443f2ac926cfcf88154b941b8c4cf95eb55d1ddd6f52851",
    ),
    "turbofan-rest": DataFile(
        "tasks/cmapss/RUL_FD001.txt",
        "https://data.nasa.gov (C-MAPSS Jet Engine Simulated Data)",
        "a19c8ec94931949d0485bdc35118206e9c81c4547b422efb9cf86f4ceddbceca",
    ),
}


def data_folder() -> Path:
    """``UNCLONE_DATA``, else ``shared/data`` beside a checkout of the project."""
    beside = Path(__file__).parents[4] / "shared" / "data"
    return Path(os.environ.get("UNCLONE_DATA", beside))


def data_file(name: str) -> Path:
    """The file of a data set, checked against its digest.

    Raises:
        MissingDataError: it is not here, or not the one expected.
    """
    wanted = FILES[name]
    path = data_folder() / wanted.path
    if not path.is_file():
        raise MissingDataError(
            f"the data set {name} is not at {path}; its public home is {wanted.home}; "
            "put it there, or set UNCLONE_DATA to the folder that holds tasks/"
        )
    if wanted.sha256 and _digest(path, path.stat().st_mtime_ns) != wanted.sha256:
        raise MissingDataError(f"{path} is not the {name} expected (SHA-256 differs); its public home is {wanted.home}")
    return path


@lru_cache(maxsize=16)
def _digest(path: Path, _modified: int) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def cache_folder() -> Path:
    """Where the lab keeps what took long: ``UNCLONE_CACHE``, else ``unclone`` in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("UNCLONE_CACHE") or Path(base, "unclone"))
