"""What the pickle of a PyTorch checkpoint may hold: dtypes, storages, functions, and values that stand for objects."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

__all__ = ["CALLABLE", "NAMED", "STORAGE_TYPES", "TORCH_DTYPES", "Call", "Global", "Map", "StorageRef"]

TORCH_DTYPES: Final = {
    "bool": ("bool", 1),
    "uint8": ("uint8", 1),
    "int8": ("int8", 1),
    "int16": ("int16", 2),
    "int32": ("int32", 4),
    "int64": ("int64", 8),
    "uint16": ("uint16", 2),
    "uint32": ("uint32", 4),
    "uint64": ("uint64", 8),
    "float16": ("float16", 2),
    "bfloat16": ("bfloat16", 2),
    "float32": ("float32", 4),
    "float64": ("float64", 8),
    "complex64": ("complex64", 8),
    "complex128": ("complex128", 16),
    "float8_e4m3fn": ("float8_e4m3fn", 1),
    "float8_e4m3fnuz": ("float8_e4m3fnuz", 1),
    "float8_e5m2": ("float8_e5m2", 1),
    "float8_e5m2fnuz": ("float8_e5m2fnuz", 1),
    "float8_e8m0fnu": ("float8_e8m0", 1),
    "qint8": ("int8", 1),
    "quint8": ("uint8", 1),
    "qint32": ("int32", 4),
}
"""torch's name of a dtype -> ours, bytes of one element."""

STORAGE_TYPES: Final = {
    "torch.BoolStorage": "bool",
    "torch.ByteStorage": "uint8",
    "torch.CharStorage": "int8",
    "torch.ShortStorage": "int16",
    "torch.IntStorage": "int32",
    "torch.LongStorage": "int64",
    "torch.HalfStorage": "float16",
    "torch.BFloat16Storage": "bfloat16",
    "torch.FloatStorage": "float32",
    "torch.DoubleStorage": "float64",
    "torch.ComplexFloatStorage": "complex64",
    "torch.ComplexDoubleStorage": "complex128",
    "torch.QInt8Storage": "qint8",
    "torch.QUInt8Storage": "quint8",
    "torch.QInt32Storage": "qint32",
    "torch.storage.UntypedStorage": "",
}
"""Storage class -> torch's name of its dtype; empty for bytes whose tensors name it."""

CALLABLE: Final = frozenset(
    ["torch._utils._rebuild_" + name for name in (
        "tensor", "tensor_v2", "tensor_v3", "parameter", "parameter_with_state", "qtensor", "sparse_tensor",
        "nested_tensor", "meta_tensor_no_storage", "device_tensor_from_cpu_tensor",
    )]
    + ["torch._tensor._rebuild_from_type_v2", "torch.serialization._get_layout", "torch.Size", "torch.device"]
    + ["_codecs.encode", "builtins.bytearray", "builtins.set", "builtins.complex"]
    + ["collections.OrderedDict", "collections.Counter"]
)  # fmt: skip
NAMED: Final = frozenset(
    [f"torch.{dtype}" for dtype in TORCH_DTYPES]
    + ["torch.nn.parameter.Parameter", "torch.Tensor", "torch._tensor.Tensor"]
    + [f"torch.per_{kind}" for kind in (
        "tensor_affine", "tensor_symmetric", "channel_affine", "channel_symmetric", "channel_affine_float_qparams",
    )]
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Global:
    """A function, class or constant, by its dotted name."""

    name: str


@dataclass(frozen=True, slots=True)
class StorageRef:
    """A storage that lies in the archive as ``data/<key>``.

    Attributes:
        kind: one of ``STORAGE_TYPES``.
        key: its record.
        location: device it was saved from, for example ``"cuda:0"``.
        numel: elements; of ``UntypedStorage``, bytes.
    """

    kind: str
    key: str
    location: str
    numel: int


@dataclass(slots=True, eq=False)
class Map:
    """A dict as its items, in order; ``state`` holds its attributes."""

    items: list[tuple[Any, Any]] = field(default_factory=list)
    state: Any = None


@dataclass(slots=True, eq=False)
class Call:
    """What a call would give; ``state`` is what would be set on it."""

    function: str
    args: tuple[Any, ...]
    state: Any = None
