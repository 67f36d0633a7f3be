"""Bind a model file, inspect it, restore it in memory.

Needs no PUF: the device half meets this one in a public key (``bind``) and a ``DeviceKey`` (``restore``).
"""

from unclone.model.binding import bind
from unclone.model.inspection import inspect
from unclone.model.restoring import RestoredModel, RestoredTensor, restore

__all__ = ["RestoredModel", "RestoredTensor", "bind", "inspect", "restore"]
