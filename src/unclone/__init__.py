"""Bind a neural network to the chip it runs on.

Enrol a device once, at the factory; only public data comes out::

    import unclone

    device = unclone.enroll("sim:sram?seed=7", name="press-17")
    device_path = "press-17.device.json"
    unclone.save_device(device, device_path)

Bind a model file to it, anywhere, without the device::

    unclone.bind("model.onnx", device, "model.bound.onnx")

On the device, reconstruct the key from the chip, and load the true weights::

    key = unclone.reconstruct(device_path, "sim:sram?seed=7")

    from unclone.runtime.onnx import inference_session

    session = inference_session("model.bound.onnx", key)

Every error is an ``UncloneError``; ``unclone.errors`` draws the tree.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from unclone._version import __version__

if TYPE_CHECKING:
    from unclone.device_file import load_device, save_device
    from unclone.enrollment import enroll, health, reconstruct, refresh
    from unclone.errors import UncloneError
    from unclone.model import bind, inspect, restore
    from unclone.puf import open_source
    from unclone.records import Device, DeviceKey

__all__ = [
    "Device",
    "DeviceKey",
    "UncloneError",
    "__version__",
    "bind",
    "enroll",
    "health",
    "inspect",
    "load_device",
    "open_source",
    "reconstruct",
    "refresh",
    "restore",
    "save_device",
]

_HOME: Final = {
    "Device": "records",
    "DeviceKey": "records",
    "UncloneError": "errors",
    "bind": "model",
    "enroll": "enrollment",
    "health": "enrollment",
    "inspect": "model",
    "load_device": "device_file",
    "open_source": "puf",
    "reconstruct": "enrollment",
    "refresh": "enrollment",
    "restore": "model",
    "save_device": "device_file",
}


def __getattr__(name: str) -> Any:
    # PEP 562: `unclone --help` and a device that only restores should not pay for what they do not use.
    if name not in _HOME:
        raise AttributeError(f"module 'unclone' has no attribute {name!r}")
    value = getattr(import_module(f"unclone.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
