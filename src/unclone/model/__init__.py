"""Bind a model file, inspect it, restore it in memory.

Needs no PUF: the device half meets this one in a public key (``bind``) and a ``DeviceKey`` (``restore``).
"""

from unclone.model.binding import bind
from unclone.model.image import write_image
from unclone.model.inspection import inspect
from unclone.model.opening import BoundModel, open_bound, restore
from unclone.model.restored import RestoredModel, RestoredTensor

__all__ = ["BoundModel", "RestoredModel", "RestoredTensor", "bind", "inspect", "open_bound", "restore", "write_image"]
