"""Model file formats: one file each, no cryptography. ``detect`` finds the one that reads a path."""

from unclone.formats.base import (
    METADATA_KEY,
    Copy,
    Draft,
    Format,
    HeaderPiece,
    Layout,
    Literal,
    Masked,
    Output,
    Region,
    Weight,
)
from unclone.formats.detection import detect

__all__ = [
    "METADATA_KEY",
    "Copy",
    "Draft",
    "Format",
    "HeaderPiece",
    "Layout",
    "Literal",
    "Masked",
    "Output",
    "Region",
    "Weight",
    "detect",
]
