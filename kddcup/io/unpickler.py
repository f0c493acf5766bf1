"""Pickles of data, read by a machine of our own: no code runs, and no memory is filled.

It knows the few opcodes that data needs, and calls nothing but the functions that it is given. Python's own
unpickler can be kept from importing, but not from hashing a tuple that holds itself twice, sixty times over.
"""

import math
import mmap
import os
import pickle
import pickletools
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, NoReturn

import numpy as np

MAX_TUPLE_DEPTH = 3
"""The depth to which tuples nest; those of NumPy's arrays and PyTorch's tensors do to 2."""
MAX_DEPTH = 50
"""The depth to which dicts and lists nest."""
MAX_CONTAINERS = 200_000
"""The number of dicts, lists and tuples in a file; each takes a byte there, and hundreds in memory."""
_NUMBER_TYPES = ("b1", "i4", "i8", "u1", "u8", "f2", "f4", "f8")
_MARK = object()
_CONTAINERS = (dict, list, tuple)


def refuse(message: str) -> NoReturn:
    """Raise the error of a pickle that is not read."""
    raise pickle.UnpicklingError(message)


class Machine:
    """Reads pickles of dicts, lists, strings, numbers, and of what the given functions make of these.

    Args:
        stream: the pickles, one after the other.
        names: what stands for "MODULE NAME" in them. A function among it is called with the tuple of its
            arguments; what it returns may have a method ``build``, which is called with a state.
        types: further types of the values in dicts and lists.
        load_storage: called with a persistent id; by default there is none.
    """

    def __init__(
        self,
        stream: BinaryIO | mmap.mmap,
        names: Mapping[str, Any],
        types: tuple[type, ...],
        load_storage: Callable[[Any], Any] | None = None,
    ) -> None:
        self._stream, self._names, self._load_storage = stream, names, load_storage
        self._types = (str, int, float, type(None), dict, list, *types)
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        # Depth by id, and the container itself, whose id would else be given to another one.
        self._containers: dict[int, tuple[int, Any]] = {}
        self._placed: set[int] = set()

    def load(self) -> Any:
        """Read the next pickle.

        Raises:
            pickle.UnpicklingError: it is torn, or is not data.
        """
        try:
            for opcode, argument, _ in pickletools.genops(self._stream):
                self._execute(opcode.name, argument)
        except ValueError as error:  # of what is not a pickle
            raise pickle.UnpicklingError(str(error)) from None
        value = self._check(self._pop())
        if self._stack:
            refuse("it holds more than one value")
        return value

    def _execute(self, opcode: str, argument: Any) -> None:
        match opcode:
            case "PROTO" | "FRAME" | "STOP":
                pass
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                self._stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[opcode])
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT":
                self._stack.append(argument)
            case "SHORT_BINUNICODE" | "BINUNICODE" | "BINUNICODE8":
                self._stack.append(argument)
            case "SHORT_BINBYTES" | "BINBYTES" | "BINBYTES8":
                self._stack.append(argument)
            case "MEMOIZE":
                self._memo[len(self._memo)] = self._peek()
            case "BINPUT" | "LONG_BINPUT":
                self._memo[argument] = self._peek()
            case "BINGET" | "LONG_BINGET":
                if argument not in self._memo:
                    refuse("it refers to what it does not hold")
                self._stack.append(self._memo[argument])
            case "MARK":
                self._stack.append(_MARK)
            case "EMPTY_DICT":
                self._stack.append(self._register({}))
            case "EMPTY_LIST":
                self._stack.append(self._register([]))
            case "EMPTY_TUPLE":
                self._push_tuple(())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                self._push_tuple(tuple(reversed([self._pop() for _ in range(int(opcode[-1]))])))
            case "TUPLE":
                self._push_tuple(tuple(self._pop_to_mark()))
            case "APPEND":
                item = self._pop()
                self._append([item])
            case "APPENDS":
                self._append(self._pop_to_mark())
            case "SETITEM":
                value, key = self._pop(), self._pop()
                self._set_items([key, value])
            case "SETITEMS":
                self._set_items(self._pop_to_mark())
            case "GLOBAL":
                self._push_name(argument)
            case "STACK_GLOBAL":
                name, module = self._pop(), self._pop()
                self._push_name(f"{module} {name}")
            case "REDUCE":
                arguments, function = self._pop(), self._pop()
                if not callable(function) or not isinstance(arguments, tuple):
                    refuse("it calls what is not a function")
                result = function(arguments)
                self._stack.append(self._register(result) if isinstance(result, dict) else result)
            case "BUILD":
                state, target = self._pop(), self._peek()
                if not hasattr(target, "build"):
                    refuse(f"it gives a state to a {type(target).__name__}")
                target.build(state)
            case "BINPERSID" if self._load_storage:
                self._stack.append(self._load_storage(self._pop()))
            case _:
                refuse(f"it has the opcode {opcode}, of which data has no need")

    def _peek(self) -> Any:
        if not self._stack or self._stack[-1] is _MARK:
            refuse("it takes more than it holds")
        return self._stack[-1]

    def _pop(self) -> Any:
        self._peek()
        return self._stack.pop()

    def _pop_to_mark(self) -> list[Any]:
        for place in range(len(self._stack) - 1, -1, -1):
            if self._stack[place] is _MARK:
                items = self._stack[place + 1 :]
                del self._stack[place:]
                return items
        refuse("it takes more than it holds")

    def _push_name(self, name: str) -> None:
        if name not in self._names:
            refuse(f"it holds {name.replace(' ', '.')}, which is not data")
        self._stack.append(self._names[name])

    def _register(self, container: Any, depth: int = 1) -> Any:
        if len(self._containers) == MAX_CONTAINERS:
            refuse(f"it has more than {MAX_CONTAINERS:,} dicts, lists and tuples")
        self._containers[id(container)] = depth, container
        return container

    def _push_tuple(self, items: tuple) -> None:
        depth = 1 + max((self._place(item) for item in items if isinstance(item, _CONTAINERS)), default=0)
        if depth > MAX_TUPLE_DEPTH:
            refuse(f"it has tuples that nest more than {MAX_TUPLE_DEPTH} deep")
        self._stack.append(self._register(items, depth) if items else items)

    def _place(self, container: Any) -> int:
        """Note that a container is within another one, and cannot be within a second one; gives its depth.

        So whoever walks through what was read comes to an end.
        """
        if container == ():  # Python has only one
            return 1
        if id(container) in self._placed:
            refuse(f"it holds a {type(container).__name__} that occurs twice in it")
        self._placed.add(id(container))
        return self._get_depth(container)

    def _get_depth(self, container: Any) -> int:
        return self._containers[id(container)][0] if container != () else 1

    def _append(self, items: list[Any]) -> None:
        self._fill(list, items).extend(map(_get_value, items))

    def _set_items(self, items: list[Any]) -> None:
        keys, values = items[::2], items[1::2]
        for key in keys:
            if not isinstance(key, str | int | float):
                refuse(f"it holds a {type(key).__name__} as a key")
        if len(keys) != len(values):
            refuse("it holds a key without a value")
        self._fill(dict, values).update(zip(keys, map(_get_value, values), strict=True))

    def _fill(self, kind: type, values: list[Any]) -> Any:
        """The container on the stack, into which values go; what is within another one is complete."""
        target = self._peek()
        if not isinstance(target, kind) or id(target) in self._placed:
            refuse(f"it adds to what is no {kind.__name__}, or to one that is complete")
        depth = self._get_depth(target)
        for value in map(self._check, values):
            if isinstance(value, dict | list):
                depth = max(depth, 1 + self._place(value))
            elif isinstance(value, tuple):  # A constant, which may occur often.
                depth = max(depth, 1 + self._get_depth(value))
        if depth > MAX_DEPTH:
            refuse(f"it has dicts or lists that nest more than {MAX_DEPTH} deep")
        self._containers[id(target)] = depth, target
        return target

    def _check(self, value: Any) -> Any:
        """Check that something is a value; gives it."""
        value = _get_value(value)
        if not isinstance(value, self._types):
            refuse(f"it holds a {type(value).__name__}, which is not data")
        if isinstance(value, dict | list) and id(value) in self._placed:
            refuse(f"it holds a {type(value).__name__} that occurs twice in it")
        return value


class _NumberType:
    """Stands for ``numpy.dtype``."""

    def __init__(self, code: str) -> None:
        self.dtype = np.dtype(code)

    def build(self, state: Any) -> None:
        """Take the byte order of the state, which could also describe objects."""
        match state:
            case (3, "<" | ">" | "|" as order, None, None, None, -1, -1, 0):
                self.dtype = self.dtype.newbyteorder(order)
            case _:
                refuse("it holds an array of a type that is not a number")


class _Array:
    """Stands for an array."""

    def __init__(self, reader: "ArrayReader") -> None:
        self.reader, self.value = reader, None

    def build(self, state: Any) -> None:
        """Make the array of its shape, its type and its bytes."""
        match state:
            case (1, tuple(shape), _NumberType(dtype=dtype), bool(fortran), bytes(content)) if (
                self.value is None
                and all(isinstance(size, int) and 0 <= size < 1 << 48 for size in shape)
                and math.prod(shape) * dtype.itemsize == len(content)
            ):
                self.reader.take(len(content))
                self.value = np.ndarray(shape, dtype, content, order="F" if fortran else "C").copy("K")
            case _:
                refuse("it holds an array that is not one of numbers with as many bytes as its shape says")


def _get_value(value: Any) -> Any:
    """The array for which a value stands, or the value itself."""
    if not isinstance(value, _Array):
        return value
    if value.value is None:
        refuse("it holds an array without contents")
    return value.value


class ArrayReader:
    """Makes the arrays of a file.

    Args:
        size: of the file; its arrays take no more, though several may be of the same bytes.
    """

    def __init__(self, size: int) -> None:
        self._room = size
        # What a pickle of an array is made of, as NumPy 1 and 2 name it.
        self.names = {
            "numpy ndarray": "ndarray",
            "numpy dtype": self.make_type,
            "numpy.core.multiarray _reconstruct": self.reconstruct,
            "numpy._core.multiarray _reconstruct": self.reconstruct,
        }

    def make_type(self, arguments: tuple) -> _NumberType:
        """Stand for a type of numbers."""
        match arguments:
            case (str(code), bool(), bool()) if code in _NUMBER_TYPES:
                return _NumberType(code)
            case _:
                refuse(f"it holds an array of the type {str(arguments[:1])[:20]}, which is not a number")

    def reconstruct(self, arguments: tuple) -> _Array:
        """Stand for an array that has no contents yet."""
        if arguments != ("ndarray", (0,), b"b"):
            refuse("it holds an array that is not one of numbers")
        return _Array(self)

    def take(self, size: int) -> None:
        """Count the bytes of an array."""
        self._room -= size
        if self._room < 0:
            refuse("it would unpack to more than its own size")


def read_data(file: BinaryIO) -> dict[str, Any]:
    """Read a pickle of a dict of dicts, lists, strings, numbers and numpy arrays.

    Args:
        file: open for reading.

    Raises:
        pickle.UnpicklingError: it holds something else, or would unpack to more than its size.
    """
    size = os.fstat(file.fileno()).st_size
    if size == 0:
        refuse("it is empty")
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as stream:
        value = Machine(stream, ArrayReader(size).names, (np.ndarray,)).load()
    if not isinstance(value, dict):
        refuse(f"it holds a {type(value).__name__}, not a dict")
    return value
