"""The pickle inside a PyTorch archive, read without running it.

A stack machine over the opcodes that ``torch.load(weights_only=True)`` knows. Nothing is imported or called: a global
is its name, a call is a ``Call``, a storage is a ``StorageRef``, a dict is a ``Map``, which hashes no key. Each opcode
makes at most one value, so memory is bounded by the number of steps, and that is limited.
"""

from __future__ import annotations

import pickletools
import struct
from collections.abc import Callable, Iterator
from typing import Any, Final

from unclone.errors import FormatError, UnsupportedError
from unclone.formats.torch_values import CALLABLE, NAMED, STORAGE_TYPES, Call, Global, Map, StorageRef

__all__ = ["PICKLE_LIMIT", "read_pickle"]

PICKLE_LIMIT: Final = 32 << 20
_STEPS_LIMIT: Final = 2_000_000


class _Mark:
    """On the stack, where a group of values starts."""


_MARK: Final = _Mark()


def read_pickle(data: bytes, label: str) -> tuple[Any, dict[str, StorageRef]]:
    """The object that a pickle describes, and all storages it names, by key.

    Args:
        data: the pickle.
        label: names the file in errors.

    Raises:
        FormatError: malformed, or larger than the limits.
        UnsupportedError: an opcode, class or function that ``torch.load(weights_only=True)`` does not take, by name.
    """
    machine = _Machine(label)
    try:
        for name, argument in _opcodes(data):
            if name == "STOP":
                return machine.pop(), machine.storages
            machine.step(name, argument)
    except (ValueError, LookupError, OverflowError, struct.error) as problem:
        if isinstance(problem, FormatError):
            raise
        raise FormatError(f"{label}: malformed pickle ({type(problem).__name__})") from None
    raise FormatError(f"{label}: the pickle does not end")


_OPERANDS: Final = {
    "PROTO": struct.Struct("<B"),
    "BININT": struct.Struct("<i"),
    "BININT1": struct.Struct("<B"),
    "BININT2": struct.Struct("<H"),
    "BINFLOAT": struct.Struct(">d"),
    "BINGET": struct.Struct("<B"),
    "LONG_BINGET": struct.Struct("<I"),
    "BINPUT": struct.Struct("<B"),
    "LONG_BINPUT": struct.Struct("<I"),
}
_COUNTED: Final = {
    "BINUNICODE": struct.Struct("<I"),
    "SHORT_BINSTRING": struct.Struct("<B"),
    "LONG1": struct.Struct("<B"),
}
_NAMES: Final = {ord(opcode.code): opcode.name for opcode in pickletools.opcodes}


def _opcodes(data: bytes) -> Iterator[tuple[str, Any]]:
    """Opcodes with their operands; those of opcodes that are refused are not read."""
    position = 0
    while position < len(data):
        name = _NAMES.get(data[position], f"{data[position]:#04x}")
        position += 1
        argument: Any = None
        if name in _OPERANDS:
            form = _OPERANDS[name]
            (argument,) = form.unpack_from(data, position)
            position += form.size
        elif name in _COUNTED:
            form = _COUNTED[name]
            start = position + form.size
            position = start + form.unpack_from(data, position)[0]
            argument = _counted(name, data[start:position])
            if position > len(data):
                raise ValueError
        elif name == "GLOBAL":
            middle = data.index(b"\n", position)
            end = data.index(b"\n", middle + 1)
            argument = data[position:middle].decode(), data[middle + 1 : end].decode()
            position = end + 1
        yield name, argument


def _counted(name: str, data: bytes) -> str | int:
    if name == "LONG1":
        return int.from_bytes(data, "little", signed=True)
    return data.decode("utf-8", "surrogatepass") if name == "BINUNICODE" else data.decode("latin-1")


_LITERALS: Final = frozenset(["BININT", "BININT1", "BININT2", "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING", "LONG1"])
_TUPLES: Final = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_FRESH: Final[dict[str, Callable[[], Any]]] = {
    "NONE": lambda: None,
    "NEWFALSE": lambda: False,
    "NEWTRUE": lambda: True,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": Map,
    "EMPTY_SET": lambda: Call("builtins.set", ()),
}


class _Machine:
    """The stack machine; one method for each group of opcodes."""

    def __init__(self, label: str) -> None:
        self.label = label
        self.storages: dict[str, StorageRef] = {}
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        self._spent = 0
        self._others: dict[str, Callable[[Any], None]] = {
            "MARK": self._mark,
            "BINPERSID": self._storage,
            "GLOBAL": self._global,
            "REDUCE": self._reduce,
            "BUILD": self._build,
            "SETITEM": self._set_item,
            "SETITEMS": self._set_items,
            "APPEND": self._append,
            "APPENDS": self._extend,
            "TUPLE": self._tuple,
            "BINGET": self._get,
            "LONG_BINGET": self._get,
            "BINPUT": self._put,
            "LONG_BINPUT": self._put,
        }

    def step(self, name: str, argument: Any) -> None:
        """One opcode."""
        self._spend(1)
        if name in _LITERALS:
            self._stack.append(argument)
        elif name in _FRESH:
            self._stack.append(_FRESH[name]())
        elif name in _TUPLES:
            self._stack.append(tuple(self._take(_TUPLES[name])))
        elif name in self._others:
            self._others[name](argument)
        elif name != "PROTO":
            raise UnsupportedError(
                f"{self.label}: pickle opcode {name}, which torch.load(weights_only=True) does not take; "
                "save it again with torch.save"
            )

    def _spend(self, count: int) -> None:
        self._spent += count
        if self._spent > _STEPS_LIMIT:
            raise FormatError(f"{self.label}: more than {_STEPS_LIMIT} steps in a pickle")

    def pop(self) -> Any:
        """The result: what is left on the stack."""
        if len(self._stack) != 1 or self._marks:
            raise FormatError(f"{self.label}: malformed pickle (it does not leave one object)")
        return self._stack.pop()

    def _floor(self) -> int:
        return self._marks[-1] + 1 if self._marks else 0

    def _take(self, count: int) -> list[Any]:
        start = len(self._stack) - count
        if start < self._floor():
            raise IndexError
        taken = self._stack[start:]
        del self._stack[start:]
        return taken

    def _top(self) -> Any:
        if len(self._stack) <= self._floor():
            raise IndexError
        return self._stack[-1]

    def _mark(self, _: Any) -> None:
        self._marks.append(len(self._stack))
        self._stack.append(_MARK)

    def _group(self) -> list[Any]:
        start = self._marks.pop()
        taken = self._stack[start + 1 :]
        del self._stack[start:]
        return taken

    def _put(self, number: int) -> None:
        self._memo[number] = self._top()

    def _get(self, number: int) -> None:
        self._stack.append(self._memo[number])

    def _tuple(self, _: Any) -> None:
        self._stack.append(tuple(self._group()))

    def _append(self, _: Any) -> None:
        self._extend_by(self._take(1))

    def _extend(self, _: Any) -> None:
        self._extend_by(self._group())

    def _extend_by(self, values: list[Any]) -> None:
        if not isinstance(self._top(), list):
            raise ValueError
        self._top().extend(values)

    def _set_item(self, _: Any) -> None:
        self._set(self._take(2))

    def _set_items(self, _: Any) -> None:
        self._set(self._group())

    def _set(self, values: list[Any]) -> None:
        if not isinstance(self._top(), Map) or len(values) % 2:
            raise ValueError
        self._top().items.extend(zip(values[::2], values[1::2], strict=True))

    def _build(self, _: Any) -> None:
        (state,) = self._take(1)
        target = self._top()
        if not isinstance(target, Map | Call) or target.state is not None:
            raise ValueError
        target.state = state

    def _global(self, argument: tuple[str, str]) -> None:
        module, name = argument
        full = f"{'builtins' if module == '__builtin__' else module}.{name}"
        if full not in CALLABLE and full not in NAMED and full not in STORAGE_TYPES:
            raise UnsupportedError(
                f"{self.label} needs {full[:100]!r}, which is not understood; save the state dict alone, as tensors "
                "and plain containers that torch.load(weights_only=True) takes"
            )
        self._stack.append(Global(full))

    def _reduce(self, _: Any) -> None:
        function, args = self._take(2)
        if not isinstance(function, Global) or function.name not in CALLABLE or not isinstance(args, tuple):
            raise UnsupportedError(f"{self.label}: a call of something that is no function for tensors")
        if function.name.startswith("collections."):
            made = _map_of(args)
            self._spend(len(made.items))  # a copy costs as many steps as it has items
            self._stack.append(made)
        else:
            self._stack.append(Call(function.name, args))

    def _storage(self, _: Any) -> None:
        (found,) = self._take(1)
        if not isinstance(found, tuple) or len(found) != 5 or found[0] != "storage" or not isinstance(found[1], Global):
            raise ValueError
        _, kind, key, location, numel = found
        if kind.name not in STORAGE_TYPES or not isinstance(key, str) or not isinstance(location, str):
            raise ValueError
        if type(numel) is not int or not 0 <= numel < 1 << 60:
            raise ValueError
        storage = StorageRef(kind.name, key, location, numel)
        if self.storages.setdefault(key, storage) != storage:
            raise FormatError(f"{self.label}: storage {key[:40]!r} is named with two types or sizes")
        self._stack.append(storage)


def _map_of(args: tuple[Any, ...]) -> Map:
    """An OrderedDict or Counter: empty, of another map, or of pairs."""
    if not args:
        return Map()
    if len(args) == 1 and isinstance(args[0], Map):
        return Map(list(args[0].items))
    if len(args) == 1 and isinstance(args[0], list):
        pairs = [(pair[0], pair[1]) for pair in args[0] if isinstance(pair, list | tuple) and len(pair) == 2]
        if len(pairs) == len(args[0]):
            return Map(pairs)
    raise ValueError
