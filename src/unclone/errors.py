"""Every error that ``unclone`` raises on purpose.

::

    UncloneError
    ├── InputError                 exit 2: what was given cannot be used; fix it and call again
    │   ├── ParameterError         an argument is out of range
    │   ├── SourceError            a PUF source cannot be opened or read
    │   ├── EnrollmentError        this memory cannot carry the key (says which figure is at fault)
    │   ├── RecordError            a device record is malformed
    │   ├── FormatError            a model file or a licence is malformed, truncated or hostile
    │   │   └── UnsupportedError   a version, operator, dtype or layout this release does not understand
    │   ├── NoWeightsError         a model in which nothing would be masked
    │   ├── AlreadyBoundError      a bound model where an ordinary one is needed
    │   ├── NotBoundError          an ordinary model where a bound one is needed
    │   ├── OutputError            the output exists, or its folder cannot be written
    │   ├── RegistryError          a registry cannot be opened, or lacks or refuses what was asked of it
    │   ├── ResourceError          the operating system refuses locked memory, in-memory files or the like
    │   └── MissingExtraError      an optional dependency is not installed
    ├── KeyMaterialError           exit 3: not this device, or altered key material
    │   ├── ReconstructionError    the PUF and the record do not give the enrolled key
    │   │   ├── PartsError         too few parts of a machine gave their share; ``parts`` says which
    │   │   └── RecordAlteredError the record's own digest does not match: altered or damaged
    │   ├── SlotError              the key opens no slot of this model
    │   └── LicenceError           a licence is another device's or model's, was altered, or has ended
    └── TamperedError              exit 4: the model was altered after binding
        ├── HeaderTamperedError    the header, or what it authenticates beside the weights
        ├── RegistryTamperedError  a row or an event of a registry is not what its log says
        └── TensorTamperedError    the masked bytes of one tensor, named in ``tensor``

``exit_code`` is what the command line returns for a class. Messages never hold secrets.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

__all__ = [
    "AlreadyBoundError",
    "EnrollmentError",
    "FormatError",
    "HeaderTamperedError",
    "InputError",
    "KeyMaterialError",
    "LicenceError",
    "MissingExtraError",
    "NoWeightsError",
    "NotBoundError",
    "OutputError",
    "ParameterError",
    "PartsError",
    "ReconstructionError",
    "RecordAlteredError",
    "RecordError",
    "RegistryError",
    "RegistryTamperedError",
    "ResourceError",
    "SlotError",
    "SourceError",
    "TamperedError",
    "TensorTamperedError",
    "UncloneError",
    "UnsupportedError",
]


class UncloneError(Exception):
    """Base of every error raised on purpose."""

    exit_code: ClassVar[int] = 1


class InputError(UncloneError, ValueError):
    """What was given cannot be used; nothing was written."""

    exit_code = 2


class ParameterError(InputError):
    """An argument is out of range or contradicts another."""


class SourceError(InputError):
    """A PUF source cannot be opened or read."""


class EnrollmentError(InputError):
    """The memory cannot carry the key; the message holds the figure at fault."""


class RecordError(InputError):
    """A device record is malformed."""


class FormatError(InputError):
    """A model file or a licence is malformed, truncated or hostile."""


class UnsupportedError(FormatError):
    """A version, operator, dtype or layout that this release does not understand."""


class NoWeightsError(InputError):
    """A model in which nothing would be masked."""


class AlreadyBoundError(InputError):
    """A bound model was given where an ordinary one is needed."""


class NotBoundError(InputError):
    """An ordinary model was given where a bound one is needed."""


class OutputError(InputError):
    """The output exists already, or its folder cannot be written."""


class RegistryError(InputError):
    """A fleet's registry cannot be opened, or lacks or refuses what was asked of it; nothing was written."""


class ResourceError(InputError):
    """The operating system refuses locked memory, in-memory files or the like."""


class MissingExtraError(InputError, ImportError):
    """An optional dependency is missing.

    Attributes:
        extra: name of the ``unclone`` extra that installs it.
    """

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"this needs {package!r}, which is not installed: pip install 'unclone[{extra}]'")
        self.extra = extra


class KeyMaterialError(UncloneError):
    """Not this device, or altered key material. Deliberately says no more (no oracle)."""

    exit_code = 3


class ReconstructionError(KeyMaterialError):
    """The PUF and the record do not give the enrolled key.

    A foreign chip, altered helper data and too much noise are the same error on purpose.
    """


class RecordAlteredError(ReconstructionError):
    """The record does not match its own digest: it was altered or damaged on the way.

    The digest has no key, so it tells accidents from clean files and no more; what protects against a deliberate
    change is that the whole record is hashed into the key.
    """


class PartsError(ReconstructionError):
    """Too few parts of a machine gave their share of its key.

    Attributes:
        parts: what became of each part, by name: ``"present"``, ``"missing"``, or what is wrong with it.
    """

    def __init__(self, message: str, parts: Mapping[str, str]) -> None:
        super().__init__(message)
        self.parts = dict(parts)


class SlotError(KeyMaterialError):
    """The key opens no slot of this model."""


class LicenceError(KeyMaterialError):
    """A licence is another device's or another model's, was altered, or has ended."""


class TamperedError(UncloneError):
    """The model was altered after it was bound."""

    exit_code = 4


class HeaderTamperedError(TamperedError):
    """The header was altered, or the part of the file that it authenticates beside the weights."""


class RegistryTamperedError(TamperedError):
    """A row or an event of a fleet's registry is not what its log says, or the log lacks events it once had."""


class TensorTamperedError(TamperedError):
    """The masked bytes of one tensor were altered.

    Attributes:
        tensor: name of the tensor.
    """

    def __init__(self, tensor: str) -> None:
        super().__init__(f"tensor {tensor!r} was altered after binding")
        self.tensor = tensor
