"""Which tensors a PyTorch checkpoint holds, what they are called, and on which storages they lie."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from unclone.errors import FormatError, UnsupportedError
from unclone.formats.torch_values import STORAGE_TYPES, TORCH_DTYPES, Call, Global, Map, StorageRef

__all__ = ["Checkpoint", "StoredTensor", "Unit", "checkpoint_of"]

_DEPTH_LIMIT: Final = 64
_NAME_LIMIT: Final = 1024
_FEW_NUMBERS: Final = 64
_FEW_BYTES: Final = 1024


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor: a strided view of a storage.

    Attributes:
        name: path through the checkpoint, parts joined by ``/``.
        storage: what it views.
        dtype: torch's name.
        offset: elements before the first.
        size: dimensions.
        stride: elements from one index to the next, by dimension.
        role: why it is no weight; empty for one.
    """

    name: str
    storage: StorageRef
    dtype: str
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]
    role: str

    @property
    def whole(self) -> bool:
        """Whether it is its storage, in order, from end to end (of elements of its dtype)."""
        expected = 1
        for size, stride in zip(reversed(self.size), reversed(self.stride), strict=True):
            if size != 1 and stride != expected:
                return False
            expected *= size
        return self.offset == 0


@dataclass(frozen=True, slots=True)
class Unit:
    """A storage as it is masked.

    Attributes:
        name: path of the first tensor on it; unique.
        storage: the storage.
        dtype: our name.
        shape: of that tensor if it is the whole storage, else (elements,).
        nbytes: length.
        roles: why each of its tensors is no weight; empty strings for weights.
    """

    name: str
    storage: StorageRef
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    roles: tuple[str, ...]


@dataclass(slots=True)
class Checkpoint:
    """What a pickle holds.

    Attributes:
        tensors: in the order of the pickle's objects, tied ones included.
        numbers: long lists of Python numbers, (name, count), which stay in the pickle.
        texts: long byte strings, (name, bytes), which stay there too.
        loose: storages that stand for themselves, by path.
    """

    tensors: list[StoredTensor] = field(default_factory=list)
    numbers: list[tuple[str, int]] = field(default_factory=list)
    texts: list[tuple[str, int]] = field(default_factory=list)
    loose: list[tuple[str, StorageRef]] = field(default_factory=list)

    def units(self, storages: Mapping[str, StorageRef], label: str) -> list[Unit]:
        """Every storage, by the first tensor on it, in the order in which the pickle names them.

        Raises:
            FormatError: a tensor leaves its storage, or two storages would have one name.
        """
        users: dict[str, list[StoredTensor]] = {}
        for tensor in self.tensors:
            users.setdefault(tensor.storage.key, []).append(tensor)
        loose: dict[str, str] = {}
        for name, storage in self.loose:
            loose.setdefault(storage.key, name)
        units = []
        names = {name for name, _ in self.numbers + self.texts}
        for storage in storages.values():
            unit = _unit(storage, users.get(storage.key, []), loose.get(storage.key, ""), names, label)
            names.add(unit.name)
            units.append(unit)
        return units


def _unit(storage: StorageRef, users: list[StoredTensor], loose: str, names: set[str], label: str) -> Unit:
    torch_dtype = STORAGE_TYPES[storage.kind] or (users[0].dtype if users else "uint8")
    dtype, item = TORCH_DTYPES[torch_dtype]
    nbytes = storage.numel * (item if STORAGE_TYPES[storage.kind] else 1)
    for tensor in users:
        _check_bounds(tensor, nbytes, label)
    if nbytes % item:
        raise FormatError(f"{label}: storage {storage.key[:40]!r} has {nbytes} bytes, no whole elements of {dtype}")
    numel = nbytes // item
    first = users[0] if users else None
    name = first.name if first else loose or f"storage/{storage.key}"
    if name in names:
        name = f"{name}#{storage.key}"
    if name in names:
        raise FormatError(f"{label}: two storages would be called {name[:80]!r}")
    whole = first is not None and first.whole and math.prod(first.size) == numel
    shape = first.size if first is not None and whole else (numel,)
    return Unit(name, storage, dtype, shape, nbytes, tuple(tensor.role for tensor in users))


def _check_bounds(tensor: StoredTensor, nbytes: int, label: str) -> None:
    if 0 in tensor.size:
        return
    last = tensor.offset + sum((size - 1) * stride for size, stride in zip(tensor.size, tensor.stride, strict=True))
    if (last + 1) * TORCH_DTYPES[tensor.dtype][1] > nbytes:
        raise FormatError(f"{label}: tensor {tensor.name[:80]!r} leaves its storage of {nbytes} bytes")


def checkpoint_of(root: Any, label: str) -> Checkpoint:
    """Find every tensor in what ``read_pickle`` returned; each object is visited once, so cycles end.

    Raises:
        FormatError: malformed tensors, or nested too deep.
        UnsupportedError: a tensor that is not understood, by name.
    """
    found = Checkpoint()
    seen: set[int] = set()
    pending: list[Iterator[_Child]] = [iter([(root, _ROOT, "")])]  # lazy, so that wide objects cost nothing more
    while pending:
        value, path, role = next(pending[-1], (None, None, ""))
        if path is None:
            pending.pop()
            continue
        if isinstance(value, StorageRef):
            found.loose.append((path.name(label), value))
        if not isinstance(value, Map | Call | list | tuple) or id(value) in seen:
            continue
        seen.add(id(value))
        if path.depth > _DEPTH_LIMIT:
            raise FormatError(f"{label}: objects nested deeper than {_DEPTH_LIMIT} levels")
        if isinstance(value, Call):
            pending.append(_of_call(value, path, role, found, label))
        else:
            pending.append(_of_container(value, path, role, found, label))
    return found


@dataclass(frozen=True, slots=True)
class _Path:
    """A key and the path before it: rendered for tensors alone, since keys may be long and many."""

    before: _Path | None
    key: Any
    depth: int

    def __truediv__(self, key: Any) -> _Path:
        return _Path(self, key, self.depth + 1)

    def name(self, label: str) -> str:
        """Keys joined by ``/``."""
        parts: list[str] = []
        here: _Path = self
        while here.before is not None:
            parts.append(_part(here.key))
            if sum(map(len, parts)) > _NAME_LIMIT:
                raise FormatError(f"{label}: the path of a tensor is longer than {_NAME_LIMIT} characters")
            here = here.before
        return "/".join(reversed(parts))


_ROOT: Final = _Path(None, "", 0)
_Child = tuple[Any, _Path, str]
_CONTAINERS: Final = Map | Call | list | tuple | StorageRef


def _of_container(
    value: Map | list[Any] | tuple[Any, ...], path: _Path, role: str, found: Checkpoint, label: str
) -> Iterator[_Child]:
    if isinstance(value, Map):
        for key, item in value.items:
            if isinstance(item, _CONTAINERS):
                yield item, path / key, role
        yield value.state, path / "__dict__", role
        return
    if len(value) > _FEW_NUMBERS and all(type(item) in (int, float) for item in value):
        found.numbers.append((path.name(label), len(value)))
        return
    for number, item in enumerate(value):
        if isinstance(item, _CONTAINERS):
            yield item, path / str(number), role


def _of_call(call: Call, path: _Path, role: str, found: Checkpoint, label: str) -> Iterator[_Child]:
    function, args, state = call.function.rpartition(".")[2].removeprefix("_rebuild_"), call.args, None
    if function == "from_type_v2":
        function, args, state = _plain_type(args, call, label)
    if function in ("tensor", "tensor_v2", "tensor_v3", "qtensor"):
        found.tensors.append(_tensor(function, args, path, role, label))
    if function == "qtensor":
        yield from _quantizer(args[4], path)
    elif function == "sparse_tensor":
        yield from _sparse(args, path, role, label)
    elif function == "nested_tensor" and len(args) == 4:
        yield args[0], path, role
        for part, item in zip(("sizes", "strides", "offsets"), args[1:], strict=True):
            yield item, path / part, "shape of a nested tensor"
    elif function in ("parameter", "parameter_with_state", "device_tensor_from_cpu_tensor", "set") and args:
        yield args[0], path, role
        if function == "parameter_with_state" and len(args) == 4:
            yield args[3], path / "__dict__", role
    elif function == "encode" and args and isinstance(args[0], str) and len(args[0]) > _FEW_BYTES:
        found.texts.append((path.name(label), len(args[0])))
    elif function in ("bytearray", "complex", "Size", "device", "_get_layout"):
        yield args, path, role
    yield state, path / "__dict__", role
    yield call.state, path / "__dict__", role


def _plain_type(args: tuple[Any, ...], call: Call, label: str) -> tuple[str, tuple[Any, ...], Any]:
    """Function, arguments and state of a tensor with attributes of its own."""
    if len(args) == 4 and isinstance(args[0], Global) and isinstance(args[1], Global) and isinstance(args[2], tuple):
        if args[1].name not in ("torch.Tensor", "torch._tensor.Tensor", "torch.nn.parameter.Parameter"):
            raise UnsupportedError(f"{label}: a tensor of the class {args[1].name[:80]!r} is not understood")
        function = args[0].name.rpartition(".")[2].removeprefix("_rebuild_")
        if args[0].name.startswith("torch._utils._rebuild_"):
            return function, args[2], args[3]
    raise FormatError(f"{label}: malformed call of {call.function}")


def _tensor(function: str, args: tuple[Any, ...], path: _Path, role: str, label: str) -> StoredTensor:
    name = path.name(label)
    least = {"tensor": 4, "tensor_v2": 6, "tensor_v3": 7, "qtensor": 7}[function]
    if len(args) < least or not isinstance(args[0], StorageRef):
        raise FormatError(f"{label}: tensor {name[:80]!r} is malformed")
    storage, offset, size, stride = args[:4]
    size, stride = (_sizes(item, name, label) for item in (size, stride))
    if len(size) != len(stride) or type(offset) is not int or not 0 <= offset < 1 << 60:
        raise FormatError(f"{label}: tensor {name[:80]!r} is malformed")
    dtype = STORAGE_TYPES[storage.kind]
    if function == "tensor_v3":
        given = args[6].name.removeprefix("torch.") if isinstance(args[6], Global) else ""
        if given not in TORCH_DTYPES:
            raise FormatError(f"{label}: tensor {name[:80]!r} has no dtype")
        dtype = given
    return StoredTensor(name, storage, dtype or "uint8", offset, size, stride, role)


def _sizes(value: Any, name: str, label: str) -> tuple[int, ...]:
    if isinstance(value, Call) and value.function == "torch.Size" and len(value.args) == 1:
        value = value.args[0]
    if not isinstance(value, tuple | list) or len(value) > 64:
        raise FormatError(f"{label}: tensor {name[:80]!r} has a malformed size")
    if not all(type(item) is int and 0 <= item < 1 << 60 for item in value):
        raise FormatError(f"{label}: tensor {name[:80]!r} has a malformed size")
    return tuple(value)


def _quantizer(parameters: Any, path: _Path) -> Iterator[_Child]:
    """Scales and zero points of a quantisation by channel stay true, as in ONNX: a clone gets no infinities."""
    if isinstance(parameters, tuple) and len(parameters) == 4:
        yield parameters[1], path / "scales", "scale of a quantised tensor"
        yield parameters[2], path / "zero_points", "zero point of a quantised tensor"


def _sparse(args: tuple[Any, ...], path: _Path, role: str, label: str) -> Iterator[_Child]:
    parts = args[1] if len(args) == 2 and isinstance(args[1], tuple) else ()
    layout = args[0].args[:1] if parts and isinstance(args[0], Call) else ()
    positions = {3: 1, 4: 1 if layout == ("torch.sparse_coo",) else 2}.get(len(parts))
    if positions is None:
        raise FormatError(f"{label}: a sparse tensor at {path.name(label)[:80]!r} is malformed")
    for number in range(positions):
        yield parts[number], path / f"indices{number}", "positions of a sparse tensor"
    yield parts[positions], path, role


def _part(key: Any) -> str:
    if isinstance(key, str):
        return key[: _NAME_LIMIT + 1].encode("utf-8", "backslashreplace").decode()
    if isinstance(key, bool | int):
        return str(key)
    return f"<{type(key).__name__}>"
